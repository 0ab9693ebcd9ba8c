"""Prometheus: scrapes every service of the catalog that has metrics, with a client certificate of its own.

It reads the key pair at each new connection, so a renewal needs no reload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Parameter, Query, Resource, StepClass, Unit
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.proven import built, reloaded

UNIT = "prometheus.service"
CONFIG = "/etc/prometheus/prometheus.yml"
RULES = "/etc/prometheus/fleet.rules.yml"
DEFAULTS = "/etc/default/prometheus"


@dataclass(frozen=True)
class Job:
    """What Prometheus scrapes of one service. No server_name: each host's own name is in its certificate."""

    name: str
    path: str
    server_name: str
    targets: tuple[str, ...]


def jobs(ctx: Context) -> Iterator[Job]:
    """One for each service with metrics that has a host in this fleet."""
    for service in ctx.fleet.services():
        if service.metrics_port:
            port = service.port(service.metrics_port).number
            members = ctx.fleet.members(service.name)
            name = service.names[0] if service.names else ""
            yield Job(service.name, service.metrics_path, name, tuple(f"{host.name}:{port}" for host in members))


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.monitoring
    port = SERVICES["monitoring"].port("prometheus").number
    pair = certificate(ctx, "monitoring")
    yield Package(name="prometheus")
    yield pair
    scraped = list(jobs(ctx))
    text = ctx.render(
        "monitoring/prometheus.yml.j2", jobs=scraped, fleet=ctx.fleet.name, rules=RULES, port=port, ca=CA_FILE,
        certificate=pair.certificate_path, key=pair.key_path, interval=span(settings.scrape_interval),
        timeout=span(min(10.0, settings.scrape_interval)),
    )  # fmt: skip
    # The rules carry the hash of both files.
    build, rules = built(
        ctx, "monitoring/fleet.rules.yml.j2", jobs=[job.name for job in scraped], beside=text,
        patience=span(max(60.0, 4 * settings.scrape_interval)), renew_days=ctx.settings.trust.renew_days,
    )  # fmt: skip
    yield File(path=RULES, content=rules, check='promtool check rules "$CANDIDATE"')
    yield File(path=CONFIG, content=text, check='promtool check config "$CANDIDATE"')
    arguments = (
        f"--web.listen-address=127.0.0.1:{port} --storage.tsdb.retention.time={span(settings.retention)} "
        f"--storage.tsdb.retention.size={settings.retention_size}B"
    )
    yield File(path=DEFAULTS, content=ctx.render("monitoring/prometheus.default.j2", arguments=arguments))
    drop_in = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    yield File(
        path=drop_in,
        content=ctx.render("monitoring/prometheus.service.conf.j2", nofile=ctx.settings.base.service_nofile),
    )
    yield Unit(name=UNIT, restart_files=(DEFAULTS, drop_in), reload_files=(CONFIG, RULES))
    files = (CONFIG, RULES)
    query = Query(
        "prometheus",
        ctx.render("monitoring/ask-prometheus.sh.j2", port=port, unit=UNIT, files=" ".join(files)),
        UNIT,
    )
    yield Parameter(
        query=query, name="arguments", want=f"/usr/bin/prometheus {arguments} ", step=StepClass.RESTART, rolling=False,
        at_start=True, act=f"systemctl restart -- {UNIT} 9>&- || true\nstarted {UNIT}",
    )  # fmt: skip
    yield from reloaded(
        ctx, query, {"build": build, "reload": "successful"}, files, unit=UNIT, seconds=60,
        words=f"journalctl --no-pager -o cat -n 6 -u {UNIT}",
    )  # fmt: skip


def span(seconds: float) -> str:
    """As Prometheus writes it."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
