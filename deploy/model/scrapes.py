"""What Prometheus reads, and how: the catalog's metrics and health checks, as targets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from deploy.model.catalog import SERVICES, Check, Health, Metrics, Port, Service, Tls
from deploy.model.fleet import Fleet, HostSpec

MONITORING = "monitoring"
BLACKBOX = "blackbox"
PROBED = {
    Check.HTTP: "http",
    Check.HTTPS: "https",
    Check.TCP: "tcp",
    Check.REDIS: "redis",
    Check.RABBITMQ: "rabbitmq",
}
"""Health checks that are asked from outside -> the blackbox exporter's module. The others ask what only the host itself
may be asked; their answers are in the figures of the exporters."""

SERVED = "served"
"""The module that only shakes hands: it reads when the served certificate ends."""


@dataclass(frozen=True)
class Target:
    """`labels`: those that begin with two underscores are Prometheus' own: they say how it asks, and are not kept."""

    address: str
    labels: Mapping[str, str]

    @property
    def host(self) -> str:
        return self.labels["host"]


@dataclass(frozen=True)
class Job:
    """Targets that are asked in the same way. `parameters`: those that a request repeats."""

    name: str
    scheme: str
    targets: tuple[Target, ...]
    path: str = "/metrics"
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """What the door of a host lets through: `path`, as asked, to `inner` on this port of the loopback."""

    path: str
    inner: str
    port: int


def _reader(service: Service, metrics: Metrics) -> tuple[Service, Port]:
    """Who answers Prometheus, and on which port."""
    owner = SERVICES[metrics.by] if metrics.by else service
    return owner, owner.port(metrics.port)


def _direct(port: Port) -> bool:
    return port.tls is Tls.MUTUAL and MONITORING in port.clients


def _outer(service: Service, metrics: Metrics) -> str:
    """The path at the door: whose figures they are, before the exporter's own path."""
    owner, port = _reader(service, metrics)
    return f"/{owner.name}/{port.name}{metrics.path}"


def routes(host: HostSpec) -> tuple[Route, ...]:
    """All that the door of this host lets through to Prometheus."""
    found: dict[str, Route] = {}
    for service in host.services:
        for metrics in service.metrics:
            _, port = _reader(service, metrics)
            if not _direct(port):
                path = _outer(service, metrics)
                found[path] = Route(path, metrics.path, port.number)
    return tuple(found.values())


def jobs(fleet: Fleet, otherwise: Mapping[str, frozenset[str]] = MappingProxyType({})) -> tuple[Job, ...]:
    """One for each kind of metrics that has a host in this fleet, then the health checks asked from outside.

    otherwise: as in Live.
    """
    found: dict[str, Job] = {}
    for service in fleet.services():
        for metrics in service.metrics:
            targets = tuple(_target(host, service, metrics) for host in fleet.members(service.name))
            earlier = found.get(metrics.job)
            counts = Counter(name for name, _ in metrics.parameters)
            repeated = {
                name: tuple(value for key, value in metrics.parameters if key == name)
                for name, count in counts.items()
                if count > 1
            }
            targets = (*(earlier.targets if earlier else ()), *targets)
            found[metrics.job] = Job(metrics.job, "https", targets, parameters=repeated)
    probes = tuple(_probes(fleet, otherwise))
    return (*found.values(), Job(BLACKBOX, "http", probes, "/probe")) if probes else tuple(found.values())


def _target(host: HostSpec, service: Service, metrics: Metrics) -> Target:
    _, port = _reader(service, metrics)
    direct = _direct(port)
    counts = Counter(name for name, _ in metrics.parameters)
    values = {name: value for name, value in metrics.parameters if counts[name] == 1}
    asked = next((one for one in service.ports if f"{{{one.name}}}" in "".join(values.values())), port)
    numbers = {one.name: host.local(service, one.name) for one in service.ports}
    labels = {
        "host": host.name, "service": service.name, "instance": f"{host.name}:{asked.number}", **dict(metrics.labels),
        "__metrics_path__": metrics.path if direct else _outer(service, metrics),
        **{f"__param_{name}": value.format_map(numbers) for name, value in values.items()},
    }  # fmt: skip
    number = port.number if direct else SERVICES["door"].port("https").number
    return Target(f"{host.name}:{number}", labels)


def _probes(fleet: Fleet, otherwise: Mapping[str, frozenset[str]]) -> Iterator[Target]:
    asker = f"127.0.0.1:{SERVICES[BLACKBOX].port('exporter').number}"
    for name in [service.name for service in fleet.services()]:
        for host in fleet.members(name):
            service = host.own(name)
            asked: set[str] = set()
            for health in service.health:
                port = service.port(health.outside or health.port)
                if health.check in PROBED and not port.loopback:
                    asked.add(port.name)
                    if host.name in otherwise.get(name, ()):
                        port = _still(fleet.profile.service(name), health, port)
                    where = f"{host.name}:{port.number}"
                    if health.check in {Check.HTTP, Check.HTTPS, Check.RABBITMQ}:
                        scheme = "https" if health.check is Check.HTTPS or port.tls is Tls.MUTUAL else "http"
                        where = f"{scheme}://{where}{health.path}"
                    yield _probe(asker, host, service, health.label, PROBED[health.check], where)
            for port in service.ports:
                if _direct(port) and port.name not in asked:
                    label = f"{service.name} {port.name}"
                    yield _probe(asker, host, service, label, SERVED, f"{host.name}:{port.number}")


def _still(whole: Service, health: Health, port: Port) -> Port:
    """Where a member answers that has not been restarted since TLS was turned on or off."""
    outside = next(one.outside for one in whole.health if one.label == health.label)
    return whole.port(health.port if port.tls is Tls.MUTUAL or not outside else outside)


def _probe(asker: str, host: HostSpec, service: Service, label: str, module: str, where: str) -> Target:
    return Target(
        asker,
        {
            "host": host.name, "service": service.name, "check": label, "instance": where, "__param_module": module,
            "__param_target": where,
        },
    )  # fmt: skip
