"""Asking every host that can be reached what it has and serves."""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra.api import Config, Host, Inventory, State
from pyinfra.context import ctx_state

from deploy.converge import certificates, remote
from deploy.converge.certificates import Have, Served
from deploy.converge.inventory import connect_one
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.fleet import Fleet


@dataclass(frozen=True)
class Seen:
    """What the hosts said; `untold`: what was in the way of asking the others."""

    have: Mapping[str, Have]
    served: Mapping[str, Mapping[int, Served]]
    untold: tuple[FleetError, ...] = ()


def ask(fleet: Fleet, hosts: Mapping[str, Host], *, served: bool) -> Seen:
    """What connected hosts have and, if asked for, serve."""

    def work(name: str) -> tuple[Have, dict[int, Served]] | FleetError:
        nonce = random.token_hex(8)
        try:
            if not hosts[name].connected:
                connect_one(hosts[name])
            reply = remote.run(hosts[name], certificates.script(fleet.host(name), nonce, served=served), seconds=300)
            return certificates.parse(name, reply.stdout, nonce)
        except FleetError as error:
            return error

    found = together(hosts, work)
    told = {name: one for name, one in found.items() if not isinstance(one, FleetError)}
    return Seen(
        {name: one[0] for name, one in told.items()}, {name: one[1] for name, one in told.items()},
        tuple(one for one in found.values() if isinstance(one, FleetError)),
    )  # fmt: skip


def ask_all(inventory: Inventory, fleet: Fleet, *, served: bool) -> Seen:
    """The same of all hosts of an inventory, connected for it and left again."""
    state = State(inventory, Config(CONNECT_TIMEOUT=10))
    hosts = {host.name: host for host in inventory}
    with ctx_state.use(state):
        try:
            return ask(fleet, hosts, served=served)
        finally:
            for host in hosts.values():
                if host.connected:
                    host.disconnect()
