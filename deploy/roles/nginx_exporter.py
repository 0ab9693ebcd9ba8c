"""Figures of nginx, from its own page on the loopback. It waits for nginx, whichever of the two starts first."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.roles.exporters import exporter, listen
from deploy.roles.nginx import STATUS


def desired(ctx: Context) -> Iterable[Resource]:
    port = SERVICES["frontend"].port("http").number
    yield from exporter(
        ctx, "prometheus-nginx-exporter",
        f"-web.listen-address={listen('nginx-exporter')} -nginx.scrape-uri=http://127.0.0.1:{port}{STATUS} "
        "-nginx.retries=10",
        after="nginx.service",
    )  # fmt: skip
