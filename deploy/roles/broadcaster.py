"""The reference broadcaster."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.model.ways import Way
from deploy.roles import backend


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.broadcaster
    config = {
        "listen": backend.listen("broadcaster", "https"),
        "tls": backend.tls("broadcaster"),
        "redis": backend.redis(ctx),
        "events": {"history": settings.history},
        "log": backend.log(settings.log_level),
    }
    yield from backend.service(ctx, "broadcaster", config, nofile=ctx.settings.base.service_nofile)


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(ctx, "broadcaster")
