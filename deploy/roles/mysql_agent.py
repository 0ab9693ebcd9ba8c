"""What stands beside each database server: says whether it is the primary, and hands copies to new members."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Resource, Unit
from deploy.roles import backend
from deploy.roles import mysql_access as access
from deploy.roles.common import CA_FILE, CRL_FILE, certificate

UNIT = "omegaup-mysql-agent.service"
CONFIG = "/etc/omegaup/mysql/agent.json"
DRAIN_FILE = "/run/fleet/drain-mysql"
"""While it is there, the proxies are told that nothing here serves."""


def agent(ctx: Context, socket: str) -> Iterator[Resource]:
    """Runs as the server's account: a copy is made of the server's own files, and the server knows it by its socket."""
    service = SERVICES["mysql"]
    pair = certificate(ctx, "mysql")
    yield from backend.code(ctx)
    yield Directory(path="/etc/omegaup/mysql", group="mysql", mode=0o750)
    yield pair
    yield backend.config_file(
        CONFIG, "mysql",
        {
            "listen": {"host": ctx.host.address, "port": service.port("seed").number},
            "role_listen": {"host": ctx.host.address, "port": service.port("role").number},
            "tls": backend.tls("mysql"),
            "socket": socket, "user": access.AGENT, "max_lag_seconds": ctx.settings.mysql.max_lag,
            "drain_file": DRAIN_FILE, "log": backend.log("info"),
        },
    )  # fmt: skip
    yield File(
        path=f"/etc/systemd/system/{UNIT}",
        content=ctx.render(
            "mysql/omegaup-mysql-agent.service.j2", service={"name": "mysql-agent", "doc": "role and copies"},
            account="mysql", config=CONFIG, home=backend.HOME, state="", nofile=8192,
        ),
    )  # fmt: skip
    # While it is away the proxies hold the server for gone and cut its sessions.
    yield Unit(
        name=UNIT, rolling=True, restart_files=(CONFIG, backend.RELEASE_FILE, f"/etc/systemd/system/{UNIT}"),
        reload_files=(pair.certificate_path, CA_FILE, CRL_FILE),
    )  # fmt: skip
