"""Every service of the fleet, once: ports, who may connect, health check, certificate, order.

From here come the names in /etc/hosts, the firewall, the certificates' names and usages, the Prometheus targets, what
the tests expect and the README's table. A port, path or flow that is not here does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

ANYONE: Final = "anyone"
"""As a client of a port: any address at all, not only the fleet's hosts."""

PROXY_ADDRESS: Final = "127.0.0.2"
"""Where a client host's own HAProxy listens, on the services' own ports: theirs are free there on every host, since
servers bind to their host's address and 127.0.0.1 only."""

SSL_DIR: Final = "/etc/omegaup/ssl"
"""Where the spec puts certificates and keys."""


@dataclass(frozen=True)
class Release:
    """What differs between the supported Debian releases."""

    version: str
    codename: str
    php: str


RELEASES: Final[dict[str, Release]] = {
    "12": Release("12", "bookworm", "8.2"),
}


class Tls(Enum):
    NONE = "none"
    MUTUAL = "mutual"


@dataclass(frozen=True)
class Port:
    """A listening TCP port. `clients` are the services whose hosts may connect; its own service always may."""

    name: str
    number: int
    clients: frozenset[str] = frozenset()
    tls: Tls = Tls.NONE
    loopback: bool = False
    peers: bool = False
    """Members of the same service talk to one another here."""
    networks: str = ""
    """A setting (SECTION.NAME) that lists networks, beyond the fleet's hosts, which may connect."""
    last: int = 0
    """The end of a range of which a tool takes one port while it runs; nothing listens there otherwise."""
    everywhere: bool = False
    """Its server listens on every address, whatever it is told: the firewall alone keeps it to the loopback."""
    lists: bool = True
    """With TLS: what listens here reads the CA's revocation list. Go's own TLS does not, nor does Redis."""
    starttls: str = ""
    """With TLS: what is spoken before it begins, as OpenSSL's s_client calls that; empty: nothing."""
    setting: str = ""
    """SECTION.NAME: while it is false, this port has no TLS; one that has none in any case is not there then."""
    plain: str = ""
    """While this port has TLS: the service's port of this name answers the host itself without."""
    instead: str = ""
    """Where this port's setting is off: the service's port of this name has its clients, and this one is not there."""
    owed: bool = False
    """With TLS: members that ran before TLS came serve it in the clear until all of them were stopped together."""

    @property
    def shown(self) -> str:
        """As nftables writes it."""
        return f"{self.number}-{self.last}" if self.last else str(self.number)


class Check(Enum):
    """How a health check asks."""

    HTTP = "http"
    HTTPS = "https"
    TCP = "tcp"
    REDIS = "redis"
    RABBITMQ = "rabbitmq"
    SENTINEL = "sentinel"
    PROXY = "proxy"


@dataclass(frozen=True)
class Health:
    """One row of the spec's health table. Times in seconds, from the spec's Compose checks.

    `port`: where the host itself asks; `outside`: where others do, if that is another.
    """

    label: str
    check: Check
    port: str
    path: str = ""
    interval: int = 10
    timeout: int = 5
    retries: int = 3
    outside: str = ""


@dataclass(frozen=True)
class Identity:
    """A service's certificate: `role` is what servers check, in the subject's OU."""

    server: bool
    client: bool
    owner: str
    """The only account, besides root, that may read the key."""


@dataclass(frozen=True)
class Metrics:
    """What Prometheus reads of a service on each of its hosts.

    `port`: a port of the service, or of `by`, the exporter on the same host that asks it. One with mutual TLS is read
    as it is, every other through the host's door. `parameters`: of the request, repeated names included; a `{name}` in
    a value is the number of the service's port of that name. `labels`: what tells series of one job and host apart.
    """

    job: str
    port: str
    path: str = "/metrics"
    by: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Service:
    """One service. `group` is the inventory's group of its hosts; `module` in deploy.roles builds its state."""

    name: str
    doc: str
    group: str = ""
    module: str = ""
    units: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    health: tuple[Health, ...] = ()
    identity: Identity | None = None
    names: tuple[str, ...] = ()
    """Names under which the fleet's hosts find it (spec: Service Discovery)."""
    needs: frozenset[str] = frozenset()
    """Services without which this one is of no use."""
    clusters: tuple[str, ...] = ()
    """What its members form together, each with a leader that is found by asking them."""
    proxied: bool = False
    """Clients reach it through the HAProxy of their own host, which knows who serves."""
    beside: frozenset[str] = frozenset()
    """It is on every host that has one of these services; no group names it."""
    alone_in_production: bool = False
    metrics: tuple[Metrics, ...] = ()
    optional: bool = False
    watches: bool = False
    """It has a say in who leads another service's cluster, and is asked with its members."""

    def units_on(self, release: Release) -> tuple[str, ...]:
        """The units under their names on a Debian release: PHP's carry its version."""
        return tuple(unit.format(php=release.php) for unit in self.units)

    @property
    def groups(self) -> frozenset[str]:
        """The inventory's groups whose hosts have it."""
        return self.beside or frozenset({self.group or self.name})

    @property
    def chosen(self) -> bool:
        """Whether the inventory says where it is, by a group of its own."""
        return not self.beside and self.group != "all"

    @property
    def replicated(self) -> bool:
        return bool(self.clusters)

    def port(self, name: str) -> Port:
        return next(port for port in self.ports if port.name == name)


def _clients(*names: str) -> frozenset[str]:
    return frozenset(names)


WORKER_PORTS: Final = {"certificates": 9201, "notifications": 9202, "analytics": 9203}
"""Worker instance -> where it serves its figures."""

JOURNAL_FILE: Final = 128 * 1024**2
"""Bytes at which systemd 252 begins a new file of a journal that it receives; the one it writes cannot be removed."""

CATALOG: Final[tuple[Service, ...]] = (
    Service("base", "Names, time, limits, firewall, SSH: what every host gets", group="all"),
    Service("trust", "The CA certificate and the folder of the keys", group="all"),
    Service(
        "redis",
        "Cache (evicts) and sessions (never evicts)",
        units=("redis-cache.service", "redis-sessions.service"),
        ports=(
            Port(
                "cache",
                6379,
                _clients("frontend", "broadcaster", "proxy", "sentinel", "monitoring"),
                Tls.MUTUAL,
                peers=True,
                lists=False,
                setting="redis.tls",
                plain="cache-local",
            ),
            Port(
                "sessions",
                6380,
                _clients("frontend", "proxy", "sentinel", "monitoring"),
                Tls.MUTUAL,
                peers=True,
                lists=False,
                setting="redis.tls",
                plain="sessions-local",
            ),
            # For the host itself: what mends a fleet whose certificates have ended cannot depend on them.
            Port("cache-local", 16379, loopback=True, everywhere=True, setting="redis.tls"),
            Port("sessions-local", 16380, loopback=True, everywhere=True, setting="redis.tls"),
        ),
        identity=Identity(server=True, client=True, owner="redis"),
        health=(
            Health("Redis (cache)", Check.REDIS, "cache"),
            Health("Redis (sessions)", Check.REDIS, "sessions"),
        ),
        names=("redis",),
        clusters=("redis-cache", "redis-sessions"),
        proxied=True,
        metrics=tuple(
            Metrics(
                "redis",
                "exporter",
                "/scrape",
                by="redis-exporter",
                parameters=(("target", f"redis://127.0.0.1:{{{name}}}"),),
                labels=(("redis", name),),
            )
            for name in ("cache", "sessions")
        ),
    ),
    Service(
        "sentinel",
        "Watches both Redis instances and makes a replica the primary when the primary is gone",
        units=("redis-sentinel.service",),
        ports=(
            Port(
                "sentinel", 26379, tls=Tls.MUTUAL, peers=True, lists=False, setting="redis.tls", plain="sentinel-local"
            ),
            Port("sentinel-local", 36379, loopback=True, everywhere=True, setting="redis.tls"),
        ),
        identity=Identity(server=True, client=True, owner="redis"),
        health=(Health("Sentinel", Check.SENTINEL, "sentinel"),),
        needs=frozenset({"redis"}),
        optional=True,
        watches=True,
        metrics=(
            Metrics(
                "sentinel",
                "exporter",
                "/scrape",
                by="redis-exporter",
                parameters=(("target", "redis://127.0.0.1:{sentinel}"),),
            ),
        ),
    ),
    Service(
        "redis-exporter",
        "Figures of Redis and Sentinel",
        module="redis_exporter",
        units=("prometheus-redis-exporter.service",),
        ports=(Port("exporter", 9121, loopback=True),),
        beside=_clients("redis", "sentinel"),
    ),
    Service(
        "rabbitmq",
        "The message broker: a cluster of equals",
        units=("rabbitmq-server.service",),
        ports=(
            # The first of each pair is for the host itself; clients have AMQP in the clear at their own host's proxy.
            Port("amqp", 5672, loopback=True),
            Port(
                "amqps",
                5671,
                _clients("frontend", "worker", "grader"),
                Tls.MUTUAL,
                setting="rabbitmq.tls",
                instead="amqp",
            ),
            Port("management", 15672, loopback=True),
            Port(
                "management-tls",
                15671,
                _clients("monitoring", "proxy"),
                Tls.MUTUAL,
                setting="rabbitmq.tls",
                instead="management",
            ),
            # In the clear by its nature: it says at which port a node is, to whoever asks.
            Port("epmd", 4369, peers=True),
            Port("distribution", 25672, tls=Tls.MUTUAL, peers=True, setting="rabbitmq.inter_node_tls", owed=True),
            # Members answer a command-line tool on another member where it listens (rabbitmq.com/docs/networking).
            Port("tools", 35672, peers=True, last=35682),
            Port("prometheus", 15692, loopback=True),
        ),
        health=(
            Health(
                "RabbitMQ",
                Check.RABBITMQ,
                "management",
                "/api/health/checks/local-alarms",
                30,
                10,
                outside="management-tls",
            ),
        ),
        identity=Identity(server=True, client=True, owner="rabbitmq"),
        names=("rabbitmq",),
        clusters=("rabbitmq",),
        proxied=True,
        metrics=(
            Metrics("rabbitmq", "prometheus"),
            # By queue: these families alone, since those of channels and connections have a series for each that was.
            Metrics(
                "rabbitmq-queues",
                "prometheus",
                "/metrics/detailed",
                parameters=(("family", "queue_coarse_metrics"), ("family", "queue_consumer_count")),
            ),
        ),
    ),
    Service(
        "mysql",
        "The database: a primary and its replicas",
        units=("mariadb.service", "omegaup-mysql-agent.service"),
        ports=(
            # Who shows no certificate gets as far as the account, which wants its role's.
            Port(
                "mysql",
                3306,
                _clients("frontend", "grader", "worker", "monitoring"),
                Tls.MUTUAL,
                peers=True,
                starttls="mysql",
                setting="mysql.tls",
            ),
            Port("role", 3380, _clients("proxy")),
            # Monitoring reads figures here; a copy is given to other members only (the certificate's role).
            Port("seed", 4444, _clients("monitoring"), tls=Tls.MUTUAL, peers=True),
        ),
        identity=Identity(server=True, client=True, owner="mysql"),
        health=(Health("MySQL", Check.TCP, "mysql"),),
        names=("mysql",),
        clusters=("mysql",),
        proxied=True,
        metrics=(Metrics("mysql", "exporter", by="mysql-exporter"), Metrics("mysql-agent", "seed")),
    ),
    Service(
        "mysql-exporter",
        "Figures of the database",
        module="mysql_exporter",
        units=("prometheus-mysqld-exporter.service",),
        ports=(Port("exporter", 9104, loopback=True),),
        beside=_clients("mysql"),
    ),
    # Where it is in this order is what it is for: all members change at once, and their clients right after them.
    Service(
        "redis-transport",
        "Whether Redis' members speak TLS",
        module="redis_transport",
        beside=_clients("redis"),
    ),
    Service(
        "proxy",
        "HAProxy on each client host: leads to whoever serves at the moment",
        units=("haproxy.service",),
        ports=(Port("stats", 8404, loopback=True), Port("mysql-reads", 3307, loopback=True)),
        health=(Health("Proxy", Check.PROXY, "stats"),),
        identity=Identity(server=False, client=True, owner="root"),
        beside=_clients("frontend", "grader", "broadcaster", "worker"),
        metrics=(Metrics("haproxy", "stats"),),
    ),
    Service(
        "gitserver",
        "Problems, by HTTPS with client certificates",
        units=("omegaup-gitserver.service",),
        ports=(Port("https", 33861, _clients("grader", "frontend", "monitoring"), Tls.MUTUAL),),
        health=(Health("GitServer", Check.HTTPS, "https", "/health"),),
        identity=Identity(server=True, client=True, owner="omegaup-gitserver"),
        names=("gitserver",),
        metrics=(Metrics("gitserver", "https"),),
    ),
    Service(
        "broadcaster",
        "Live events to contestants",
        units=("omegaup-broadcaster.service",),
        ports=(Port("https", 32672, _clients("grader", "frontend", "monitoring"), Tls.MUTUAL),),
        health=(Health("Broadcaster", Check.HTTPS, "https", "/health"),),
        identity=Identity(server=True, client=True, owner="omegaup-broadcaster"),
        names=("broadcaster",),
        needs=frozenset({"redis"}),
        metrics=(Metrics("broadcaster", "https"),),
    ),
    Service(
        "grader",
        "Takes submissions, queues them, hands them to runners",
        units=("omegaup-grader.service",),
        ports=(
            Port("https", 21680, _clients("frontend", "monitoring"), Tls.MUTUAL),
            Port("runners", 11302, _clients("runner"), Tls.MUTUAL),
        ),
        health=(Health("Grader", Check.HTTPS, "https", "/health"),),
        identity=Identity(server=True, client=True, owner="omegaup-grader"),
        names=("grader",),
        needs=frozenset({"mysql", "gitserver", "broadcaster", "runner"}),
        metrics=(Metrics("grader", "https"),),
    ),
    Service(
        "runner",
        "Runs submissions; registers itself with the grader",
        units=("omegaup-runner.service",),
        ports=(Port("https", 6060, _clients("monitoring"), Tls.MUTUAL),),
        health=(Health("Runner", Check.HTTPS, "https", "/health"),),
        identity=Identity(server=True, client=True, owner="omegaup-runner"),
        needs=frozenset({"grader"}),
        alone_in_production=True,
        metrics=(Metrics("runner", "https"),),
    ),
    Service(
        "frontend",
        "nginx and PHP-FPM",
        units=("nginx.service", "php{php}-fpm.service"),
        ports=(Port("http", 80, _clients(ANYONE)),),
        health=(Health("Frontend", Check.HTTP, "http", "/health/"),),
        identity=Identity(server=False, client=True, owner="omegaup-frontend"),
        names=("frontend",),
        needs=frozenset({"redis", "rabbitmq", "mysql", "grader"}),
        metrics=(
            Metrics("frontend", "http"),
            Metrics("php-fpm", "http", "/fleet/fpm", parameters=(("openmetrics", "1"),)),
            Metrics("nginx", "exporter", by="nginx-exporter"),
        ),
    ),
    Service(
        "nginx-exporter",
        "Figures of nginx",
        module="nginx_exporter",
        units=("prometheus-nginx-exporter.service",),
        ports=(Port("exporter", 9113, loopback=True),),
        beside=_clients("frontend"),
    ),
    Service(
        "worker",
        "Consumers of the queues",
        units=(
            "omegaup-worker@certificates.service",
            "omegaup-worker@notifications.service",
            "omegaup-worker@analytics.service",
        ),
        ports=tuple(Port(name, number, loopback=True) for name, number in WORKER_PORTS.items()),
        identity=Identity(server=False, client=True, owner="omegaup-worker"),
        needs=frozenset({"rabbitmq", "mysql"}),
        metrics=tuple(Metrics("worker", name, labels=(("worker", name),)) for name in WORKER_PORTS),
    ),
    Service(
        "node-exporter",
        "Figures of the host, and of what this project notes about it",
        group="all",
        module="node_exporter",
        units=("prometheus-node-exporter.service", "fleet-notes.timer"),
        ports=(Port("exporter", 9100, loopback=True),),
        metrics=(Metrics("node", "exporter"),),
    ),
    Service(
        "log-store",
        "Keeps what every host's journal says",
        module="log_store",
        units=("fleet-log-store.service", "fleet-log-bound.timer"),
        # The first is the door's, which knows the sender; the other is asked by nobody else.
        ports=(Port("https", 19532, _clients("log-sender"), Tls.MUTUAL), Port("store", 19531, loopback=True)),
        identity=Identity(server=True, client=False, owner="root"),
        beside=_clients("monitoring"),
        optional=True,
    ),
    Service(
        "door",
        "Lets monitoring, and nobody else, read the figures that are served on the host's loopback",
        group="all",
        units=("fleet-door.service",),
        ports=(Port("https", 9443, _clients("monitoring"), Tls.MUTUAL),),
        identity=Identity(server=True, client=False, owner="root"),
    ),
    Service(
        "monitoring",
        "Prometheus",
        units=("prometheus.service",),
        ports=(Port("prometheus", 9090, loopback=True),),
        health=(Health("Prometheus", Check.HTTP, "prometheus", "/-/ready"),),
        identity=Identity(server=False, client=True, owner="prometheus"),
        optional=True,
        metrics=(Metrics("prometheus", "prometheus"),),
    ),
    Service(
        "alertmanager",
        "Sends each alert to those whom it concerns, once",
        units=("prometheus-alertmanager.service",),
        ports=(Port("api", 9093, loopback=True), Port("gossip", 9094, tls=Tls.MUTUAL, peers=True, lists=False)),
        health=(Health("Alertmanager", Check.HTTP, "api", "/-/ready"),),
        identity=Identity(server=True, client=True, owner="prometheus"),
        beside=_clients("monitoring"),
        optional=True,
        metrics=(Metrics("alertmanager", "api"),),
    ),
    Service(
        "blackbox",
        "Asks the spec's health checks from outside",
        units=("prometheus-blackbox-exporter.service",),
        ports=(Port("exporter", 9115, loopback=True),),
        beside=_clients("monitoring"),
        optional=True,
        metrics=(Metrics("blackbox-exporter", "exporter"),),
    ),
    Service(
        "alert-log",
        "Keeps what was alerted of, and shows how the fleet is: the status page",
        module="alert_log",
        units=("fleet-alert-log.service",),
        # The first is the page itself; the other is the door's, for people with a certificate.
        ports=(
            Port("http", 9096, loopback=True),
            Port("https", 9097, tls=Tls.MUTUAL, networks="monitoring.page_from"),
        ),
        identity=Identity(server=True, client=False, owner="root"),
        health=(Health("Status page", Check.HTTP, "http", "/"),),
        beside=_clients("monitoring"),
        optional=True,
        metrics=(Metrics("alert-log", "http"),),
    ),
    Service(
        "grafana",
        "Dashboards, where the operator's package source has Grafana",
        units=("grafana-server.service",),
        ports=(Port("http", 3000, loopback=True),),
        health=(Health("Grafana", Check.HTTP, "http", "/api/health"),),
        needs=frozenset({"monitoring"}),
        metrics=(Metrics("grafana", "http"),),
        optional=True,
    ),
    Service(
        "log-sender",
        "Sends the host's journal to the monitoring host",
        group="all",
        module="log_sender",
        units=("systemd-journal-upload.service",),
        identity=Identity(server=False, client=True, owner="systemd-journal-upload"),
    ),
)


def _by_name() -> dict[str, Service]:
    return {service.name: service for service in CATALOG}


SERVICES: Final = _by_name()


def settled(service: Service, on: Callable[[str], bool]) -> Service:
    """The service as settings have it. on: whether a setting that can turn TLS off (Port.setting) leaves it on."""
    off = {port.name: port for port in service.ports if port.setting and not on(port.setting)}
    if not off:
        return service
    heirs = {port.instead: port for port in off.values() if port.instead}
    ports = []
    for port in service.ports:
        if heir := heirs.get(port.name):
            ports.append(replace(port, clients=heir.clients, loopback=False))
        elif port.name not in off:
            ports.append(port)
        elif port.tls is Tls.MUTUAL and not port.instead:
            ports.append(replace(port, tls=Tls.NONE))
    health = tuple(replace(one, outside="") if one.outside in off else one for one in service.health)
    return replace(service, ports=tuple(ports), health=health)


@dataclass(frozen=True)
class Queue:
    """A queue: its exchange, and the routing key, which is its own name unless `key` says another.

    `redeclared`: its consumer declares it anew, without arguments, so it must be there without any.
    """

    name: str
    exchange: str
    purpose: str
    consumer: str
    key: str = ""
    redeclared: bool = False

    @property
    def routing_key(self) -> str:
        return self.key or self.name


EXCHANGES: Final = ("certificates", "submissions", "notifications", "analytics")
DEAD_LETTERS: Final = "dead-letters"
QUEUES: Final[tuple[Queue, ...]] = (
    Queue("ContestQueue", "certificates", "Certificate generation", "worker"),
    Queue("SubmissionQueue", "submissions", "Async submission processing", "grader"),
    Queue("NotificationQueue", "notifications", "Email notifications", "worker"),
    Queue("AnalyticsQueue", "analytics", "Usage analytics", "worker"),
)

WORKERS: Final[dict[str, str]] = {
    "certificates": "ContestQueue",
    "notifications": "NotificationQueue",
    "analytics": "AnalyticsQueue",
}
"""Worker instance -> queue it consumes."""
