"""HAProxy on each client host: none of the judge's clients speaks Sentinel or knows several brokers.

It listens on PROXY_ADDRESS on the services' own ports, so a client's configuration is the spec's: `redis:6379`,
`rabbitmq:5672`, `mysql:3306`. Who serves is asked of the servers themselves, twice a second at a failover.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from deploy.model.catalog import PROXY_ADDRESS, SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import File, Package, Resource, Unit
from deploy.model.ways import Way
from deploy.roles import graceful
from deploy.roles.common import CA_FILE, CIPHERS, CRL_FILE, certificate, confined
from deploy.roles.haproxy import loaded
from deploy.roles.proven import built
from deploy.roles.rabbitmq_topology import MONITORING
from deploy.roles.redis import INSTANCES

UNIT = "haproxy.service"
CONFIG = "/etc/haproxy/haproxy.cfg"
SOCKET = "/run/haproxy/admin.sock"
BEFORE = "-before"


@dataclass(frozen=True)
class Backend:
    """One listener and the servers behind it. `check`: the shape of its question, see the template.

    `tls`: servers are reached by mutual TLS, and asked by it. `before`: the same servers as they were reached before a
    change of that, as long as one of them may only be reached so.
    """

    name: str
    port: int
    server_port: int
    check: str
    members: tuple[tuple[str, str], ...]
    balance: str = "leastconn"
    path: str = ""
    check_port: int = 0
    tls: bool = False
    before: Backend | None = None

    @property
    def servers(self) -> Iterator[tuple[str, str, str, Backend]]:
        """(name, its host, address, how it is reached)."""
        for host, address in self.members:
            yield host, host, address, self
        if self.before:
            for host, address in self.members:
                yield before(host), host, address, self.before


def before(member: str) -> str:
    """What the member is called that is reached as it was before TLS was turned on or off."""
    return f"{member}{BEFORE}"


def _rabbitmq(ctx: Context, changing: bool) -> Backend:
    """changing: some members serve by TLS and some do not, since they are restarted one by one. Then both ways to each
    are known, and all are asked for the port that each of them has, on its loopback if nowhere else.
    """
    members = ctx.fleet.members("rabbitmq")
    service, settings = ctx.fleet.profile.service("rabbitmq"), ctx.settings.rabbitmq
    client, inside = service.port("amqp").number, service.port("management").number

    def reached(tls: bool, asked: int = 0) -> Backend:
        port = service.port("amqps" if tls else "amqp").number
        return Backend(
            "rabbitmq", client, port, "rabbitmq", tuple((host.name, host.address) for host in members),
            path=f"/api/health/checks/port-listener/{asked or port}",
            check_port=service.port("management-tls").number if tls else inside, tls=tls,
        )  # fmt: skip

    if not changing:
        return reached(settings.tls)
    return replace(reached(settings.tls, client), before=reached(not settings.tls, client))


def backends(ctx: Context) -> list[Backend]:
    def members(service: str) -> tuple[tuple[str, str], ...]:
        return tuple((host.name, host.address) for host in ctx.fleet.members(service))

    redis, mysql = (ctx.fleet.profile.service(name) for name in ("redis", "mysql"))
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
    found.append(_rabbitmq(ctx, bool(ctx.live.otherwise.get("rabbitmq"))))
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
        login=login, certificate=pair.certificate_path, ca=CA_FILE, crl=CRL_FILE, ciphers=CIPHERS,
    )  # fmt: skip
    yield File(
        path=CONFIG, content=text, group="haproxy", mode=0o640, secret=True,
        check='said=$(haproxy -c -f "$CANDIDATE" 2>&1) || { printf "%s\\n" "$said" | sed "/password/d"; exit 1; }',
    )  # fmt: skip
    yield confined(ctx, UNIT, "proxy/sandbox.conf.j2")
    yield Unit(name=UNIT, rolling=True, reload_files=(CONFIG, pair.certificate_path, CA_FILE, CRL_FILE))
    yield from loaded(ctx, "haproxy", UNIT, SOCKET, CONFIG, build)
