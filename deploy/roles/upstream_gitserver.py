"""The real gitserver: plain HTTP, and tokens.

It refuses keys that it does not know, and it has a published development key as its default: that is always replaced.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.profiles import UPSTREAM
from deploy.model.resources import Resource
from deploy.model.ways import Act, Way
from deploy.roles import upstream_backend as backend
from deploy.roles import upstream_release
from deploy.roles.upstream_release import Release

NAME = "gitserver"


def release(ctx: Context) -> Release:
    return Release("gitserver", upstream_release.artifact(ctx, "gitserver"), ("usr/bin/omegaup-gitserver",))


def config(ctx: Context) -> dict[str, object]:
    frontend = f"http://frontend:{UPSTREAM.port('frontend', 'http')}"
    return {
        "Db": {"Driver": "mysql", "DataSourceName": backend.dsn(ctx, "gitserver", parse_time=False)},
        "Gitserver": {
            "RootPath": f"{backend.STATE}/problems.git",
            "Port": UPSTREAM.port(NAME, "http"),
            "PprofPort": 0,
            # The site's own, though it signs nothing while there is a shared token.
            "PublicKey": backend.gitserver_key(ctx)[1],
            "SecretToken": ctx.secret("upstream/gitserver"),
            "GraderSecretToken": ctx.secret("upstream/gitserver-grader"),
            "AllowSecretTokenAuthentication": True,
            "AllowDirectPushToMaster": True,
            "LibinteractivePath": backend.JAR,
            "FrontendAuthorizationProblemRequestURL": f"{frontend}/api/authorization/problem/",
            "UseS3": False,
        },
        "Logging": backend.logging(ctx, ctx.settings.gitserver.log_level),
    }


def desired(ctx: Context) -> Iterable[Resource]:
    own = release(ctx)
    yield backend.account()
    yield from backend.directories("problems.git")
    yield from backend.java(ctx)
    yield from upstream_release.unpacked(ctx, own)
    yield upstream_release.switched(ctx, own)
    yield backend.program(own, "omegaup-gitserver")
    yield backend.etc(NAME)
    yield backend.config_file(NAME, config(ctx))
    trust = backend.database_trust(ctx)
    yield from backend.unit(ctx, NAME, own, shown=False, after=("haproxy.service",), environment=trust)


def ways(ctx: Context) -> Iterable[Way]:
    """The grader stands still meanwhile: without a gitserver it would end runs with a verdict that is wrong (JE)."""
    unit = UPSTREAM.service("grader").units[0]
    hosts = [host.name for host in ctx.fleet.members("grader")]
    # One that was not running before is not started.
    note = "/run/fleet/grader-held"
    hold = tuple(
        Act(
            host,
            f"systemctl is-active --quiet {unit} || exit 0\nmkdir -p /run/fleet\n: >{note}\nsystemctl stop {unit} 9>&-",
        )
        for host in hosts
    )
    free = tuple(
        Act(host, f"[ -e {note} ] || exit 0\nsystemctl start {unit} 9>&-\nrm -f {note}\nstarted {unit}")
        for host in hosts
    )
    return backend.ways(NAME, release(ctx), drain=(hold,), undrain=free)
