"""The reference grader."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import DEAD_LETTERS
from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.model.ways import Way
from deploy.roles import backend, mysql_tls


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.grader
    config = {
        "listen": backend.listen("grader", "https"),
        "runners_listen": backend.listen("grader", "runners"),
        "tls": backend.tls("grader"),
        "mysql": backend.mysql(ctx, "grader", settings.mysql_pool),
        "rabbitmq": backend.rabbitmq(ctx),
        "dead_letters": DEAD_LETTERS,
        "gitserver": {"url": backend.url("gitserver")},
        "broadcaster": {"url": backend.url("broadcaster")},
        "queue": {"lease_seconds": settings.run_lease},
        "log": backend.log(settings.log_level),
    }
    yield from backend.service(ctx, "grader", config)
    yield mysql_tls.insists(ctx, "grader")


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(ctx, "grader")
