"""Figures of the database, which knows the exporter by its socket and system account: without a password."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.resources import Resource
from deploy.roles.exporters import ACCOUNT, exporter, listen
from deploy.roles.mysql import SOCKET


def desired(ctx: Context) -> Iterable[Resource]:
    yield from exporter(
        ctx, "prometheus-mysqld-exporter",
        # A scrape must not wait behind a lock of the server's.
        f"--web.listen-address={listen('mysql-exporter')} --exporter.lock_wait_timeout=2 "
        "--no-collect.info_schema.query_response_time",
        # Of Debian 12's version; from 0.15 on it takes a file instead.
        environment={"DATA_SOURCE_NAME": f"{ACCOUNT}@unix({SOCKET})/"},
        after=ctx.fleet.profile.service("mysql").units[0],
    )  # fmt: skip
