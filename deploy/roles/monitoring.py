"""Prometheus: reads every target of the catalog with a certificate of its own, and knows what is worth an alert.

It reads the key pair at each new connection, so a renewal needs no reload. Where there are several, each reads
everything and tells every Alertmanager; they differ in the label `replica` alone, which no alert carries.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Parameter, Query, Resource, StepClass, Unit
from deploy.model.rules import alerts, records
from deploy.model.scrapes import jobs
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.door import ALERTS
from deploy.roles.proven import built, reloaded

UNIT = "prometheus.service"
CONFIG = "/etc/prometheus/prometheus.yml"
RULES = "/etc/prometheus/fleet.rules.yml"
DEFAULTS = "/etc/default/prometheus"


def desired(ctx: Context) -> Iterable[Resource]:
    settings = ctx.settings.monitoring
    port = SERVICES["monitoring"].port("prometheus").number
    pair = certificate(ctx, "monitoring")
    yield Package(name="prometheus")
    yield pair
    text = configuration(ctx)
    # The rules carry the hash of both files.
    build, rules = built(
        ctx, "monitoring/fleet.rules.yml.j2", beside=text, records=records(ctx.fleet), alerts=alerts(ctx.fleet)
    )
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


def configuration(ctx: Context) -> str:
    """prometheus.yml."""
    settings = ctx.settings.monitoring
    pair = certificate(ctx, "monitoring")
    door = SERVICES["door"].port("https").number
    return ctx.render(
        "monitoring/prometheus.yml.j2", jobs=jobs(ctx.fleet, ctx.live.otherwise), fleet=ctx.fleet.name,
        replica=ctx.host.name, rules=RULES,
        ca=CA_FILE, certificate=pair.certificate_path, key=pair.key_path, interval=span(settings.scrape_interval),
        timeout=span(min(10.0, settings.scrape_interval)), alerts=ALERTS,
        alertmanagers=[f"{host.name}:{door}" for host in ctx.fleet.members("alertmanager")],
    )  # fmt: skip


def span(seconds: float) -> str:
    """As Prometheus writes it."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
