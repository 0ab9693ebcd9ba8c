"""A machine on the lab's network that is no host of the fleet: a network namespace on the bridge, without any role.

Who is in it reaches the hosts as a machine does that somebody has plugged in: by its own address, through the hosts'
firewalls. What runs there is this machine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.system import run
from tests.chaos.support import SPEC

NAME = f"{SPEC.bridge}-stranger"
CABLE = f"{SPEC.bridge}x"
INTERFACE = "eth0"


@dataclass(frozen=True)
class Stranger:
    address: str

    @property
    def enter(self) -> list[str]:
        """The beginning of a command that runs in its network."""
        return ["nsenter", f"--net=/run/netns/{NAME}"]


def free_address() -> str:
    """The network's last address that neither a host has nor the gateway."""
    taken = {SPEC.address(name) for name in SPEC.hosts} | {str(SPEC.gateway)}
    return next(str(one) for one in reversed(list(SPEC.network.hosts())) if str(one) not in taken)


@contextmanager
def stranger() -> Iterator[Stranger]:
    """It is there as long as the block lasts."""
    found = Stranger(free_address())
    _remove()
    mtu = Path(f"/sys/class/net/{SPEC.bridge}/mtu").read_text().strip()
    try:
        run(["ip", "netns", "add", NAME])
        run(["ip", "link", "add", CABLE, "mtu", mtu, "type", "veth",
             "peer", "name", INTERFACE, "mtu", mtu, "netns", NAME])  # fmt: skip
        run(["ip", "link", "set", CABLE, "master", SPEC.bridge, "up"])
        run(["ip", "-n", NAME, "link", "set", "lo", "up"])
        run(["ip", "-n", NAME, "addr", "add", f"{found.address}/{SPEC.network.prefixlen}", "dev", INTERFACE])
        run(["ip", "-n", NAME, "link", "set", INTERFACE, "up"])
        yield found
    finally:
        _remove()


def _remove() -> None:
    run(["ip", "link", "delete", CABLE], check=False)
    run(["ip", "netns", "delete", NAME], check=False)
