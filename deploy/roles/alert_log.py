"""The log of alerts and the status page, on the monitoring host's loopback: `ssh -L 9096:127.0.0.1:9096 HOST`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import File, Package, Resource, Unit

UNIT = "fleet-alert-log.service"
PROGRAM = "/usr/local/lib/fleet/alert-log"
CONFIG = "/etc/fleet/alert-log.json"
STATE = "/var/lib/fleet-alert-log"


def desired(ctx: Context) -> Iterable[Resource]:
    port = SERVICES["alert-log"].port("http").number
    hidden = {"base", "trust", "node-exporter", "door"}
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "prometheus": f"http://127.0.0.1:{SERVICES['monitoring'].port('prometheus').number}",
        "state": STATE, "kept": ctx.settings.monitoring.alerts_kept, "fleet": ctx.fleet.name,
        # What every host has, and what only asks others, tells nothing.
        "hosts": {
            host.name: [
                service.name for service in host.services
                if service.name not in hidden and not service.name.endswith("-exporter")
            ]
            for host in ctx.fleet.hosts
        },
    }  # fmt: skip
    yield Package(name="python3")
    yield File(path=PROGRAM, content=ctx.files("monitoring")["alert_log.py"].decode())
    yield File(path=CONFIG, content=json.dumps(config, indent=2) + "\n")
    unit = f"/etc/systemd/system/{UNIT}"
    yield File(path=unit, content=ctx.render("alert-log/fleet-alert-log.service.j2", program=PROGRAM, config=CONFIG))
    yield Unit(name=UNIT, restart_files=(unit, PROGRAM, CONFIG))
