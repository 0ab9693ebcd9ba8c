"""How the fleet is: every health check of the catalog on every host, and how the members of clusters stand."""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api import Config, Host, State
from pyinfra.context import ctx_state

from deploy.converge import health, remote
from deploy.converge.engine import Run
from deploy.converge.health import Result
from deploy.converge.inventory import connect_one, load, open_keys
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors
from deploy.model.fleet import Fleet, Standing


@dataclass(frozen=True)
class Status:
    """Health checks in the catalog's order, and how the members of the clusters stand.

    `untold`: why members of the clusters were not asked (the inventory's secrets could not be opened, say).
    """

    fleet: Fleet
    results: list[Result]
    standings: list[Standing]
    untold: str = ""

    @property
    def well(self) -> bool:
        checks = all(result.well and not result.degraded for result in self.results)
        return checks and not self.untold and all(one.well for one in self.standings)


def status(path: Path, wait: float = 0.0, identity: Path | None = None) -> Status:
    """Everything that can be said of a fleet. A host that cannot be reached has all its checks unwell.

    wait: seconds to go on asking until all is well.
    """
    inventory, fleet = load(path)
    state = State(inventory, Config(CONNECT_TIMEOUT=10))
    hosts = {host.name: host for host in inventory}
    order = {service.name: rank for rank, service in enumerate(fleet.services())}
    until = time.monotonic() + wait
    with ctx_state.use(state):
        try:
            while True:
                found = together(hosts, lambda name: _ask(fleet, name, hosts[name]))
                results = [result for part in found.values() for result in part]
                results.sort(key=lambda result: (order[result.service], result.label, result.host))
                standings, untold = _standings(fleet, path, hosts, identity)
                said = Status(fleet, results, standings, untold)
                if said.well or time.monotonic() >= until:
                    return said
                time.sleep(1)
        finally:
            for host in hosts.values():
                if host.connected:
                    host.disconnect()


def _standings(
    fleet: Fleet, path: Path, hosts: Mapping[str, Host], identity: Path | None
) -> tuple[list[Standing], str]:
    """What the members of clusters that can be reached say, and why others said nothing."""
    witnesses = {name: hosts[name] for name in fleet.witnesses() if hosts[name].connected}
    try:
        run = Run(fleet, path, open_keys(path, identity, profile=fleet.profile), witnesses, frozenset())
    except (FleetError, FleetErrors) as error:
        return [], str(error)
    silent: list[str] = []

    def look(name: str) -> None:
        try:
            run.look(name)
        except FleetError as error:
            silent.append(str(error))

    together(witnesses, look)
    return run.standings(), " ".join(sorted(silent))


def _ask(fleet: Fleet, name: str, host: Host) -> list[Result]:
    spec = fleet.host(name)
    nonce = random.token_hex(8)
    try:
        if not host.connected:
            connect_one(host)
        reply = remote.run(host, health.script(spec, nonce), seconds=120)
    except FleetError as error:
        return health.unreachable(spec, error.found)
    return health.parse(spec, reply.stdout, nonce)
