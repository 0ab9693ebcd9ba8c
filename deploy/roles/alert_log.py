"""The log of alerts, the status page, the dashboards, on the monitoring host: `ssh -L 9096:127.0.0.1:9096 HOST`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from deploy.model.catalog import SERVICES
from deploy.model.dashboards import dashboards
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Resource, Unit

UNIT = "fleet-alert-log.service"
PROGRAM = "/usr/local/lib/fleet/status-page"
CONFIG = "/etc/fleet/alert-log.json"
STATE = "/var/lib/fleet-alert-log"


def desired(ctx: Context) -> Iterable[Resource]:
    port = SERVICES["alert-log"].port("http").number
    hidden = {"base", "trust", "node-exporter", "door", "log-sender"}
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
        "dashboards": [asdict(board) | {"needs": None} for board in dashboards(ctx.fleet)],
    }  # fmt: skip
    yield Package(name="python3")
    yield Directory(path=PROGRAM)
    program = {f"{PROGRAM}/{name}": content.decode() for name, content in ctx.files("monitoring").items()}
    for path, content in program.items():
        yield File(path=path, content=content)
    yield File(path=CONFIG, content=json.dumps(config, indent=2) + "\n")
    unit = f"/etc/systemd/system/{UNIT}"
    yield File(path=unit, content=ctx.render("alert-log/fleet-alert-log.service.j2", program=PROGRAM, config=CONFIG))
    yield Unit(name=UNIT, restart_files=(unit, *program, CONFIG))
