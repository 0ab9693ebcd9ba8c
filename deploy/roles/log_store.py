"""The journals of all hosts, kept on the monitoring host: what a host said last is read when the host is gone.

Debian's systemd-journal-remote is built without the library by which it would ask senders for a certificate (its
`--trust` is not available). So it listens on the loopback, and the door of this host stands before it: mutual TLS, the
role `log-sender`, and for each host a loopback address of its own to come from, after which the file of that host is
named. No host writes into another's file, whatever it claims to be.

This version of it has no bound on disk either: it begins a new file at 128 MiB, and a timer removes the oldest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deploy.model.catalog import JOURNAL_FILE, SERVICES
from deploy.model.fleet import Context, Fleet, HostSpec
from deploy.model.resources import File, Package, Resource, Unit
from deploy.roles.common import certificate, timer

UNIT = "fleet-log-store.service"
BOUND = "fleet-log-bound"
PACKAGE = "systemd-journal-remote"
ACCOUNT = "systemd-journal-remote"
"""Made by the package."""
STORE = "/var/log/fleet-journal"
"""Not below /var/log/journal: what is there is taken for this host's own, and would be sent again."""


@dataclass(frozen=True)
class Sender:
    """A host as the door knows it. `source`: the address that it is shown as to what stores its lines."""

    host: str
    address: str
    source: str

    @property
    def file(self) -> str:
        """What is being written now; earlier files have an @ in their names."""
        return f"{STORE}/remote-{self.source}.journal"


def store(fleet: Fleet) -> HostSpec | None:
    """Where the journals go: the first monitoring host. Every host has its own as well."""
    return next(iter(fleet.members("monitoring")), None)


def source(host: str) -> str:
    """A loopback address of 127.64.0.0/10 for a host: by its name, so that it stays when others come and go."""
    digest = hashlib.sha256(host.encode()).digest()
    return f"127.{64 + digest[0] % 64}.{digest[1]}.{1 + digest[2] % 254}"


def senders(fleet: Fleet) -> tuple[Sender, ...]:
    return tuple(Sender(host.name, host.address, source(host.name)) for host in fleet.hosts)


def room(ctx: Context) -> int:
    """Bytes that files which are no longer written may take: what is left beside one for each host."""
    return ctx.settings.monitoring.logs_max - JOURNAL_FILE * len(ctx.fleet.hosts)


def desired(ctx: Context) -> Iterable[Resource]:
    yield Package(name=PACKAGE)
    # The door serves with it; its checker wants to see it before.
    yield certificate(ctx, "log-store")
    yield from _units(ctx)


def _units(ctx: Context) -> Iterator[Resource]:
    unit = f"/etc/systemd/system/{UNIT}"
    port = SERVICES["log-store"].port("store").number
    text = ctx.render("log-store/fleet-log-store.service.j2", port=port, folder=STORE, account=ACCOUNT)
    yield File(path=unit, content=text)
    yield Unit(name=UNIT, restart_files=(unit,))
    keep = int(ctx.settings.monitoring.logs_keep)
    yield from timer(ctx, "log-store", BOUND, folder=STORE, account=ACCOUNT, room=room(ctx), keep=keep)
