"""Grafana on a monitoring host, with this project's dashboards and its Prometheus, all from files.

Debian has no Grafana: the operator's own package source has to (Grafana's apt repository or a mirror of it, set up on
the host beforehand). Where it has not, the run says so before any package is touched. Without the group `grafana`
nothing of it is installed; the same dashboards are static pages on the monitoring host in any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from deploy.model.catalog import SERVICES
from deploy.model.dashboards import dashboards
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Phase, Resource, Unit
from deploy.model.secrets import Change, SecretSpec

UNIT = "grafana-server.service"
PACKAGE = "grafana"
ACCOUNT = "grafana"
CONFIG = "/etc/grafana/grafana.ini"
PASSWORD = "/etc/fleet/grafana.password"  # noqa: S105  # nosec B105
"""Where it lies, not what it is."""
BOARDS = "/etc/fleet/dashboards"
SOURCES_FILE = "/etc/grafana/provisioning/datasources/fleet.yaml"
PROVIDERS_FILE = "/etc/grafana/provisioning/dashboards/fleet.yaml"

SECRETS = {
    "monitoring/grafana": SecretSpec(
        "password",
        "Grafana's user admin, taken at its very first start",
        change=Change.ISSUED,
        why="Grafana takes it at its very first start alone: change it there (grafana cli admin reset-admin-password "
        "--password-from-stdin), then store the same with fleet secrets set",
    )
}

ABSENT = (
    "no package source of this host has the package grafana, which Debian does not have: add one (Grafana's own apt "
    "repository or a mirror of it) below /etc/apt/sources.list.d on this host, or take it out of the group grafana; "
    "the dashboards are pages on the monitoring host without it"
)


def sources(uid: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{SERVICES['monitoring'].port('prometheus').number}"
    source = {
        "name": "Prometheus", "uid": uid, "type": "prometheus", "access": "proxy", "url": url, "isDefault": True,
        "editable": False, "jsonData": {"httpMethod": "POST"},
    }  # fmt: skip
    # One that is not listed any more goes.
    return {"apiVersion": 1, "prune": True, "datasources": [source]}


def providers() -> dict[str, Any]:
    provider = {
        "name": "fleet", "type": "file", "folder": "Fleet", "folderUid": "fleet", "disableDeletion": False,
        "allowUiUpdates": False, "updateIntervalSeconds": 30, "options": {"path": BOARDS},
    }  # fmt: skip
    return {"apiVersion": 1, "providers": [provider]}


def desired(ctx: Context) -> Iterable[Resource]:
    # Here alone, since every command would wait for it.
    from deploy.roles.grafana_boards import SOURCE, document

    yield File(
        path="/etc/apt/preferences.d/61-fleet-grafana.pref", phase=Phase.PACKAGES,
        content=ctx.render("grafana/preferences.j2"), check=ctx.render("grafana/source.sh.j2", absent=ABSENT),
    )  # fmt: skip
    yield Package(name=PACKAGE)
    yield Directory(path=BOARDS)
    yield File(path=PASSWORD, content=ctx.secret("monitoring/grafana"), group=ACCOUNT, mode=0o640, secret=True)
    port = SERVICES["grafana"].port("http").number
    yield File(
        path=CONFIG,
        group=ACCOUNT,
        mode=0o640,
        content=ctx.render("grafana/grafana.ini.j2", port=port, password=PASSWORD),
    )
    yield File(path=SOURCES_FILE, content=json.dumps(sources(SOURCE), indent=2) + "\n")
    yield File(path=PROVIDERS_FILE, content=json.dumps(providers(), indent=2) + "\n")
    # Grafana reads these again by itself, and removes what is gone.
    for board in dashboards(ctx.fleet):
        yield File(path=f"{BOARDS}/{board.name}.json", content=document(board, ctx.fleet.name))
    drop_in = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    yield File(path=drop_in, content=ctx.render("grafana/service.conf.j2"))
    yield Unit(name=UNIT, restart_files=(CONFIG, SOURCES_FILE, PROVIDERS_FILE, drop_in))
