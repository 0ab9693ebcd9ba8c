"""The real grader. One for each database: at its start it judges again whatever has no verdict yet."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.profiles import OWNER, UPSTREAM
from deploy.model.resources import Resource
from deploy.model.ways import Way
from deploy.roles import upstream_backend as backend
from deploy.roles import upstream_release
from deploy.roles.upstream_release import Release

SECRETS = backend.SECRETS
NAME = "grader"
GITSERVER_USER = "omegaup:grader"
"""The one name for which the gitserver takes the grader's own token."""


def release(ctx: Context) -> Release:
    """Grader and broadcaster come together."""
    return Release(
        "backend", upstream_release.artifact(ctx, "backend"),
        ("usr/bin/omegaup-grader", "usr/bin/omegaup-broadcaster"),
    )  # fmt: skip


def config(ctx: Context) -> dict[str, object]:
    return {
        "Db": {"Driver": "mysql", "DataSourceName": backend.dsn(ctx, "grader", parse_time=True)},
        "Grader": {
            "Port": UPSTREAM.port(NAME, "runners"),
            "RuntimePath": f"{backend.STATE}/",
            "V1": {
                "Port": UPSTREAM.port(NAME, "https"),
                "RuntimePath": f"{backend.STATE}/",
                "RuntimeGradePath": f"{backend.STATE}/grade",
                "SendBroadcast": True,
                "UpdateDatabase": True,
            },
            # Proxied: without TLS, behind nginx. Otherwise it would ask browsers for certificates.
            "Ephemeral": {"Port": UPSTREAM.port(NAME, "ephemeral"), "Proxied": True},
            "BroadcasterURL": f"{backend.url('broadcaster', 'https')}/broadcast/",
            "GitserverURL": f"{backend.url('gitserver', 'http', 'http')}/",
            "GitserverAuthorization": f"OmegaUpSharedSecret {ctx.secret('upstream/gitserver-grader')} {GITSERVER_USER}",
        },
        "TLS": backend.tls(NAME),
        "Metrics": backend.metrics(NAME),
        "Logging": backend.logging(ctx, ctx.settings.grader.log_level),
    }


def desired(ctx: Context) -> Iterable[Resource]:
    own = release(ctx)
    yield backend.account()
    yield from backend.directories("input", "cache", "grade", "ephemeral", "submissions")
    yield from backend.java(ctx)
    yield from upstream_release.unpacked(ctx, own)
    yield upstream_release.switched(ctx, own)
    yield backend.program(own, "omegaup-grader")
    yield from backend.bundle(ctx, NAME, OWNER)
    yield backend.config_file(NAME, config(ctx))
    beside = ctx.host.has("gitserver")
    gitserver = UPSTREAM.service("gitserver").units[0]
    # To what it cannot read of the gitserver it gives a wrong verdict (JE): on one host, it never outlives it.
    yield from backend.unit(
        ctx, NAME, own, after=("haproxy.service", *((gitserver,) if beside else ())),
        requires=(gitserver,) if beside else (), environment=backend.database_trust(ctx),
    )  # fmt: skip


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(NAME, release(ctx))
