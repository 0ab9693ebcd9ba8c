"""The real runner: asks the grader for work over mutual TLS, and runs it in omegajail.

The sandbox makes control groups below `omegaup-runner.service` in `system.slice`: both names are fixed upstream.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.profiles import OWNER
from deploy.model.resources import Link, Resource
from deploy.model.ways import Way
from deploy.roles import upstream_backend as backend
from deploy.roles import upstream_release
from deploy.roles.upstream_release import Release

NAME = "runner"
JAIL = f"{backend.STATE.rpartition('/')[0]}/omegajail"
WRAPPER = "bin/omegajail-cgroups-wrapper"


def release(ctx: Context) -> Release:
    return Release("runner", upstream_release.artifact(ctx, "runner"), ("usr/bin/omegaup-runner",))


def jail(ctx: Context) -> Release:
    """Its archives unpack at the root, as the others do."""
    return Release(
        "omegajail", upstream_release.artifact(ctx, "omegajail"), (f"{JAIL.lstrip('/')}/{WRAPPER}",),
        foreign_links=True,
    )  # fmt: skip


def _sandboxed(ctx: Context) -> bool:
    return ctx.settings.runner.judge == "sandbox"


def config(ctx: Context) -> dict[str, object]:
    return {
        "Runner": {
            "GraderURL": backend.url("grader", "runners"),
            "RuntimePath": f"{backend.STATE}/runner",
            "OmegajailRoot": JAIL,
            "PreserveFiles": False,
            "Hostname": ctx.host.name,
            # It asks a site outside for it; where that does not answer, this stays. Without one it is in no figures.
            "PublicIP": ctx.host.address,
        },
        "TLS": backend.tls(NAME),
        "Metrics": backend.metrics(NAME),
        "Logging": backend.logging(ctx, ctx.settings.runner.log_level),
    }


def desired(ctx: Context) -> Iterable[Resource]:
    own = release(ctx)
    yield backend.account()
    yield from backend.directories("runner")
    yield from upstream_release.unpacked(ctx, own)
    yield upstream_release.switched(ctx, own)
    yield backend.program(own, "omegaup-runner")
    others: tuple[Release, ...] = ()
    if _sandboxed(ctx):
        sandbox = jail(ctx)
        others = (sandbox,)
        yield from upstream_release.unpacked(ctx, sandbox)
        yield upstream_release.switched(ctx, sandbox)
        yield Link(path=JAIL, target=f"{sandbox.current}{JAIL}")
    yield from backend.bundle(ctx, NAME, OWNER)
    yield backend.config_file(NAME, config(ctx))
    yield from backend.unit(
        ctx, NAME, own, others=others, delegate=_sandboxed(ctx),
        wrapper=f"{JAIL}/{WRAPPER}" if _sandboxed(ctx) else "",
        # Nothing is run then, and everything is accepted.
        flags="" if _sandboxed(ctx) else "-noop-sandbox",
    )  # fmt: skip


def ways(ctx: Context) -> Iterable[Way]:
    others = (jail(ctx),) if _sandboxed(ctx) else ()
    return backend.ways(NAME, release(ctx), *others)
