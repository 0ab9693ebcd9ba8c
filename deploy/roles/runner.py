"""The reference runner."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.model.ways import Way
from deploy.roles import backend


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.runner
    config = {
        "listen": backend.listen("runner", "https"),
        "tls": backend.tls("runner"),
        "name": ctx.host.name,
        "slots": settings.slots,
        "grader": {"url": backend.url("grader", "runners")},
        "log": backend.log(settings.log_level),
    }
    yield from backend.service(ctx, "runner", config)


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(ctx, "runner")
