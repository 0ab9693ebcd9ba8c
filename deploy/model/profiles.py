"""The two profiles of the application: which services a fleet has, on which ports, and which queues. Pure.

`reference` is the catalog as it stands: small services of this project that speak the specification's contract.
`upstream` is the real omegaUp: the same inventory groups, but where the real programs listen, how they are asked for
their health and what their units are called differ. Sources: quark v1.9.70 (common/context.go), gitserver v1.9.17
(cmd/omegaup-gitserver/config.go) and omegaup/omegaup.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from deploy.model.catalog import (
    CATALOG,
    EXCHANGES,
    QUEUES,
    SERVICES,
    Check,
    Health,
    Identity,
    Metrics,
    Port,
    Queue,
    Service,
    Tls,
)

OWNER: Final = "omegaup"
"""The one account of the real judge's own services, as its units have it."""

CRON: Final[dict[str, str]] = {"update_ranks": "08:19", "assign_badges": "09:23", "aggregate_feedback": "10:18"}
"""Script in stuff/cron -> when it runs each day, UTC (omegaup/prod: cronjobs.yaml)."""


@dataclass(frozen=True)
class Profile:
    """What an inventory's `profile` chooses."""

    name: str
    services: tuple[Service, ...]
    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]

    def service(self, name: str) -> Service:
        return next(service for service in self.services if service.name == name)

    def port(self, service: str, port: str) -> int:
        return self.service(service).port(port).number


def _clients(*names: str) -> frozenset[str]:
    return frozenset(names)


def _figures(number: int) -> Port:
    """Without TLS and without an address to bind to. Upstream's own default is 6060 for all three; two of them on one
    host would collide, of which the second only logs an error and goes on without figures.
    """
    return Port("metrics", number, loopback=True, everywhere=True)


def _ports(service: str, **clients: frozenset[str]) -> tuple[Port, ...]:
    """A service's own ports, some of them with other clients."""
    return tuple(replace(port, clients=clients.get(port.name, port.clients)) for port in SERVICES[service].ports)


_UPSTREAM: Final[dict[str, Service]] = {
    # The real broadcaster and grader use neither Redis nor the broker; nobody uses the sessions.
    "redis": replace(
        SERVICES["redis"],
        ports=_ports(
            "redis",
            cache=_clients("frontend", "proxy", "sentinel", "monitoring"),
            sessions=_clients("proxy", "sentinel", "monitoring"),
        ),
    ),
    "rabbitmq": replace(SERVICES["rabbitmq"], ports=_ports("rabbitmq", amqps=_clients("frontend", "worker"))),
    "mysql": replace(
        SERVICES["mysql"],
        doc="The database: one MySQL server of 8.0 or later",
        module="upstream_mysql",
        units=("mysql.service",),
        # Served with TLS as well; but the site's own code has no way to ask for it.
        ports=(Port("mysql", 3306, _clients("frontend", "grader", "gitserver", "worker", "monitoring")),),
        identity=Identity(server=True, client=False, owner="mysql"),
        clusters=(),
        metrics=(Metrics("mysql", "exporter", by="mysql-exporter"),),
    ),
    "proxy": replace(
        SERVICES["proxy"],
        ports=(Port("stats", 8404, loopback=True),),
        beside=_clients("frontend", "grader", "gitserver", "worker"),
    ),
    "gitserver": replace(
        SERVICES["gitserver"],
        doc="Problems, by HTTP with a shared token",
        module="upstream_gitserver",
        ports=(Port("http", 33861, _clients("grader", "frontend", "monitoring")),),
        # Not /health/ready: it reads a repository through `localhost`, which Go dials as ::1 on a Debian host.
        health=(Health("GitServer", Check.HTTP, "http", "/health/live"),),
        identity=None,
        needs=frozenset({"mysql"}),
        metrics=(Metrics("gitserver", "http"),),
    ),
    "broadcaster": replace(
        SERVICES["broadcaster"],
        module="upstream_broadcaster",
        ports=(
            Port("https", 32672, _clients("grader"), Tls.MUTUAL),
            Port("events", 22291, _clients("frontend")),
            _figures(6062),
        ),
        health=(Health("Broadcaster", Check.HTTP, "metrics", "/metrics"),),
        identity=Identity(server=True, client=True, owner=OWNER),
        needs=frozenset(),
        metrics=(Metrics("broadcaster", "metrics"),),
    ),
    "grader": replace(
        SERVICES["grader"],
        module="upstream_grader",
        ports=(
            # Monitoring asks for the health here: any certificate under the CA is let in (no roles upstream).
            Port("https", 21680, _clients("frontend", "monitoring"), Tls.MUTUAL),
            Port("runners", 11302, _clients("runner"), Tls.MUTUAL),
            Port("ephemeral", 36663, _clients("frontend")),
            _figures(6061),
        ),
        health=(Health("Grader", Check.HTTPS, "https", "/grader/status/"),),
        identity=Identity(server=True, client=True, owner=OWNER),
        metrics=(Metrics("grader", "metrics"),),
    ),
    "runner": replace(
        SERVICES["runner"],
        doc="Runs submissions; asks the grader for them",
        module="upstream_runner",
        ports=(_figures(6060),),
        health=(Health("Runner", Check.HTTP, "metrics", "/metrics"),),
        identity=Identity(server=False, client=True, owner=OWNER),
        metrics=(Metrics("runner", "metrics"),),
    ),
    "frontend": replace(
        SERVICES["frontend"],
        module="upstream_frontend",
        health=(Health("Frontend", Check.HTTP, "http", "/api/time/get/"),),
    ),
    "worker": replace(
        SERVICES["worker"],
        doc="Consumer of certificates, and the daily scripts",
        module="upstream_worker",
        units=("omegaup-worker@certificates.service",),
        ports=(),
        identity=None,
        metrics=(),
    ),
}

REFERENCE: Final = Profile("reference", CATALOG, EXCHANGES, QUEUES)
UPSTREAM: Final = Profile(
    "upstream",
    tuple(_UPSTREAM.get(service.name, service) for service in CATALOG),
    ("certificates",),
    # The queue is called `contest`; ContestQueue is its routing key (oup: stuff/pipelines/rabbitmq_client.py).
    (Queue("contest", "certificates", "Certificate generation", "worker", key="ContestQueue", redeclared=True),),
)
PROFILES: Final[dict[str, Profile]] = {profile.name: profile for profile in (REFERENCE, UPSTREAM)}
