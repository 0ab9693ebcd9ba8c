"""Watching members of services from outside of them, several times a second: who listens on which port of its host.

Reads the kernel's own tables of each host's network, so it asks no service and cannot be fooled by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Fleet
from lab import inside
from tests.chaos.support import SPEC

PORTS = {
    "redis": ("cache", "sessions"), "sentinel": ("sentinel",), "rabbitmq": ("amqps",), "mysql": ("mysql",),
    "frontend": ("http",), "grader": ("https",), "gitserver": ("https",), "broadcaster": ("https",),
    "runner": ("https",),
}  # fmt: skip
"""What a member of each service listens on while it serves."""
EVERY = 0.15
LISTENS = "0A"


@dataclass
class Watch:
    """`out`: service -> the most members that were out at one time; `seconds`: (service, host) -> how long in all."""

    out: dict[str, set[str]] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    looks: int = 0
    longest_pause: float = 0.0

    def most(self, service: str) -> int:
        return len(self.out.get(service, ()))


def listening(pid: int) -> set[int]:
    """The ports that somebody listens on in the network of this process."""
    found: set[int] = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == LISTENS:
                found.add(int(words[1].rpartition(":")[2], 16))
    return found


@contextmanager
def watching(fleet: Fleet) -> Iterator[Watch]:
    """Look all the time until the block ends."""
    watch, stop = Watch(), threading.Event()
    pids = {host.name: inside.pid(SPEC, host.name) for host in fleet.hosts}

    def look() -> None:
        before = time.monotonic()
        while not stop.wait(EVERY):
            now = time.monotonic()
            # A host that was booted anew is another process.
            for name, pid in pids.items():
                if not pid or not Path(f"/proc/{pid}").exists():
                    pids[name] = inside.pid(SPEC, name)
            ports = {name: listening(pid) for name, pid in pids.items() if pid}
            for service, names in PORTS.items():
                wanted = {SERVICES[service].port(name).number for name in names}
                out = {host.name for host in fleet.members(service) if not wanted <= ports.get(host.name, set())}
                if len(out) > watch.most(service):
                    watch.out[service] = out
                for host in out:
                    watch.seconds[service, host] = watch.seconds.get((service, host), 0.0) + now - before
            watch.longest_pause, before = max(watch.longest_pause, now - before), now
            watch.looks += 1

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(5)
