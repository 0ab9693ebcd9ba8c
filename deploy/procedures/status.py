"""How the fleet is: every health check of the catalog, on every host."""

from __future__ import annotations

import secrets as random
import time
from pathlib import Path

from pyinfra.api import Config, Host, State
from pyinfra.context import ctx_state

from deploy.converge import health, remote
from deploy.converge.health import Result
from deploy.converge.inventory import connect_one, load
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.fleet import Fleet


def status(path: Path, wait: float = 0.0) -> tuple[Fleet, list[Result]]:
    """All results, in the catalog's order. A host that cannot be reached has all its checks unwell.

    wait: seconds to go on asking until all is well.
    """
    inventory, fleet = load(path)
    state = State(inventory, Config(CONNECT_TIMEOUT=10))
    hosts = {host.name: host for host in inventory}
    until = time.monotonic() + wait
    with ctx_state.use(state):
        try:
            while True:
                found = together(hosts, lambda name: _ask(fleet, name, hosts[name]))
                results = [result for part in found.values() for result in part]
                if all(result.well for result in results) or time.monotonic() >= until:
                    break
                time.sleep(1)
        finally:
            for host in hosts.values():
                if host.connected:
                    host.disconnect()
    order = {service.name: rank for rank, service in enumerate(fleet.services())}
    return fleet, sorted(results, key=lambda result: (order[result.service], result.label, result.host))


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
