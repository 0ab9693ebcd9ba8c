"""HAProxy on each client host: none of the judge's clients speaks Sentinel or knows several brokers.

It listens on PROXY_ADDRESS on the services' own ports, so a client's configuration is the spec's: `redis:6379`,
`rabbitmq:5672`, `mysql:3306`. Who serves is asked of the servers themselves, twice a second at a failover.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from deploy.model.catalog import PROXY_ADDRESS, SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import File, Package, Resource, Unit
from deploy.model.ways import Way
from deploy.roles import graceful
from deploy.roles.common import CA_FILE, CRL_FILE, certificate, confined
from deploy.roles.haproxy import loaded
from deploy.roles.proven import built
from deploy.roles.rabbitmq_topology import MONITORING
from deploy.roles.redis import INSTANCES

UNIT = "haproxy.service"
CONFIG = "/etc/haproxy/haproxy.cfg"
SOCKET = "/run/haproxy/admin.sock"


@dataclass(frozen=True)
class Backend:
    """One listener and the servers behind it. `check`: the shape of its question, see the template."""

    name: str
    port: int
    server_port: int
    check: str
    members: tuple[tuple[str, str], ...]
    balance: str = "leastconn"
    path: str = ""
    check_port: int = 0
    tls: bool = False
    """To the servers; clients are on this host."""


def backends(ctx: Context) -> list[Backend]:
    def members(service: str) -> tuple[tuple[str, str], ...]:
        return tuple((host.name, host.address) for host in ctx.fleet.members(service))

    redis, rabbitmq, mysql = (ctx.fleet.profile.service(name) for name in ("redis", "rabbitmq", "mysql"))
    found = [
        Backend(
            f"redis-{name}",
            redis.port(name).number,
            redis.port(name).number,
            "redis",
            members("redis"),
            "first",
            tls=ctx.host.mutual(redis.port(name)),
        )
        for name in INSTANCES
    ]
    amqp, management = rabbitmq.port("amqp").number, rabbitmq.port("management").number
    found.append(
        Backend(
            "rabbitmq", amqp, amqp, "rabbitmq", members("rabbitmq"), path=f"/api/health/checks/port-listener/{amqp}",
            check_port=management,
        )
    )  # fmt: skip
    if not mysql.clusters:
        port = mysql.port("mysql").number
        return [*found, Backend("mysql", port, port, "tcp", members("mysql"), "first")]
    writes, role = mysql.port("mysql").number, mysql.port("role").number
    reads = SERVICES["proxy"].port("mysql-reads").number
    found.append(Backend("mysql", writes, writes, "http", members("mysql"), "first", "/primary", role))
    found.append(Backend("mysql-reads", reads, writes, "http", members("mysql"), "leastconn", "/replica", role))
    return found


def ways(ctx: Context) -> Iterable[Way]:
    yield graceful.way("proxy", UNIT, "haproxy")


def desired(ctx: Context) -> Iterable[Resource]:
    for package in ("haproxy", "socat"):
        yield Package(name=package)
    pair = certificate(ctx, "proxy")
    yield pair
    login = base64.b64encode(":".join(ctx.login(MONITORING, "rabbitmq/monitoring")).encode()).decode()
    build, text = built(
        ctx, "proxy/haproxy.cfg.j2", settings=ctx.settings.proxy, address=PROXY_ADDRESS, socket=SOCKET,
        stats=SERVICES["proxy"].port("stats").number, backends=backends(ctx), password=ctx.secret("redis/proxy"),
        login=login, certificate=pair.certificate_path, ca=CA_FILE, crl=CRL_FILE,
    )  # fmt: skip
    yield File(
        path=CONFIG, content=text, group="haproxy", mode=0o640, secret=True,
        check='said=$(haproxy -c -f "$CANDIDATE" 2>&1) || { printf "%s\\n" "$said" | sed "/password/d"; exit 1; }',
    )  # fmt: skip
    yield confined(ctx, UNIT, "proxy/sandbox.conf.j2")
    yield Unit(name=UNIT, rolling=True, reload_files=(CONFIG, pair.certificate_path, CA_FILE, CRL_FILE))
    yield from loaded(ctx, "haproxy", UNIT, SOCKET, CONFIG, build)
