"""The reference gitserver."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.model.ways import Way
from deploy.roles import backend


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.gitserver
    config = {
        "listen": backend.listen("gitserver", "https"),
        "tls": backend.tls("gitserver"),
        "root": "/var/lib/omegaup/gitserver",
        "log": backend.log(settings.log_level),
    }
    yield from backend.service(ctx, "gitserver", config, state_directory=True)


def ways(ctx: Context) -> Iterable[Way]:
    return backend.ways(ctx, "gitserver")
