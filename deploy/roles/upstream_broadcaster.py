"""The real broadcaster: one, in memory. A restart drops every browser's connection, which comes back by itself."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.profiles import OWNER, UPSTREAM
from deploy.model.resources import Resource
from deploy.model.ways import Way
from deploy.roles import upstream_backend as backend
from deploy.roles import upstream_grader, upstream_release

NAME = "broadcaster"


def config(ctx: Context) -> dict[str, object]:
    return {
        "Broadcaster": {
            "Port": UPSTREAM.port(NAME, "https"),
            "EventsPort": UPSTREAM.port(NAME, "events"),
            "Proxied": True,
            # Inside the fleet: it asks who may see what, and has scoreboards made anew.
            "FrontendURL": f"http://frontend:{UPSTREAM.port('frontend', 'http')}",
            "ScoreboardUpdateSecret": ctx.secret("upstream/grader"),
            "TLS": backend.tls(NAME),
        },
        "TLS": backend.tls(NAME),
        "Metrics": backend.metrics(NAME),
        "Logging": backend.logging(ctx, ctx.settings.broadcaster.log_level),
    }


def desired(ctx: Context) -> Iterable[Resource]:
    own = upstream_grader.release(ctx)
    yield backend.account()
    yield from backend.directories()
    yield from upstream_release.unpacked(ctx, own)
    yield upstream_release.switched(ctx, own)
    yield backend.program(own, "omegaup-broadcaster")
    yield from backend.bundle(ctx, NAME, OWNER)
    yield backend.config_file(NAME, config(ctx))
    yield from backend.unit(ctx, NAME, own)


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(NAME, upstream_grader.release(ctx))
