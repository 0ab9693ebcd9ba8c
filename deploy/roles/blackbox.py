"""The blackbox exporter: the spec's health checks, and what each TLS port serves, asked from the monitoring host.

With monitoring's certificate where one is needed. It reads the pair at each probe, so a renewal needs no reload.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from deploy.model.catalog import CATALOG
from deploy.model.fleet import Context
from deploy.model.resources import File, Resource
from deploy.model.scrapes import PROBED, SERVED
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.exporters import ACCOUNT, exporter, listen
from deploy.roles.rabbitmq_topology import MONITORING
from deploy.roles.redis import PROBE

CONFIG = "/etc/prometheus/fleet.blackbox.yml"


def modules(ctx: Context) -> dict[str, Any]:
    """What the exporter can ask, by the names that the targets give it."""
    pair = certificate(ctx, "monitoring")
    limit = max(health.timeout for service in CATALOG for health in service.health if health.check in PROBED)
    tls = {"ca_file": CA_FILE, "cert_file": pair.certificate_path, "key_file": pair.key_path, "min_version": "TLS12"}
    http = {"method": "GET", "valid_status_codes": [200], "follow_redirects": False, "preferred_ip_protocol": "ip4"}
    tcp = {"preferred_ip_protocol": "ip4"}
    login = [
        {"send": f"AUTH {PROBE} {ctx.secret('redis/probe')}"}, {"expect": "^\\+OK"}, {"send": "PING"},
        {"expect": "^\\+PONG"}, {"send": "QUIT"},
    ]  # fmt: skip
    over = {"tls": True, "tls_config": tls} if ctx.settings.redis.tls else {}
    account = dict(zip(("username", "password"), ctx.login(MONITORING, "rabbitmq/monitoring"), strict=True))
    found: dict[str, dict[str, Any]] = {
        "http": {"prober": "http", "http": {**http, "fail_if_ssl": True}},
        "https": {"prober": "http", "http": {**http, "fail_if_not_ssl": True, "tls_config": tls}},
        "tcp": {"prober": "tcp", "tcp": tcp},
        "redis": {"prober": "tcp", "tcp": {**tcp, **over, "query_response": login}},
        "rabbitmq": {"prober": "http", "http": {**http, "basic_auth": account, "tls_config": tls}},
        SERVED: {"prober": "tcp", "tcp": {**tcp, "tls": True, "tls_config": tls}},
    }
    return {name: {**module, "timeout": f"{limit}s"} for name, module in found.items()}


def desired(ctx: Context) -> Iterable[Resource]:
    yield from exporter(
        ctx, "prometheus-blackbox-exporter",
        f"--config.file={CONFIG} --web.listen-address={listen('blackbox')}", files=(CONFIG,),
    )  # fmt: skip
    yield File(
        path=CONFIG, content=json.dumps({"modules": modules(ctx)}, indent=2) + "\n", group=ACCOUNT, mode=0o640,
        secret=True, check='prometheus-blackbox-exporter --config.check --config.file="$CANDIDATE" >/dev/null 2>&1',
    )  # fmt: skip
