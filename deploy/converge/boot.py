"""Booting a host anew, and finding it again: a new login that sees another boot."""

from __future__ import annotations

import time

from paramiko import SSHException
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError

from deploy.converge import remote
from deploy.converge.inventory import connect_one
from deploy.errors import FleetError

BOOT_ID = "/proc/sys/kernel/random/boot_id"
PAUSE = 2.0
"""Seconds between two attempts to log in."""


def current(host: Host) -> str:
    """What the kernel calls the boot that runs.

    Raises:
        FleetError: the host does not answer.
    """
    reply = remote.run(host, f"cat {BOOT_ID}\n", seconds=10)
    return reply.stdout[0] if reply.stdout else ""


def back(host: Host, before: str, seconds: float) -> None:
    """Wait for a login that finds another boot than `before`.

    Raises:
        FleetError: there was none within `seconds`.
    """
    until = time.monotonic() + seconds
    why = "the boot from before"
    while True:
        time.sleep(PAUSE)
        try:
            _log_in(host)
            found = current(host)
            if found and found != before:
                return
        except FleetError as error:
            why = error.found
        if time.monotonic() >= until:
            raise FleetError(
                host=host.name, subject="reboot", found=f"after {seconds:.0f} s still {why}",
                expected="a login after a new boot", hint="see its console",
            )  # fmt: skip


def _log_in(host: Host) -> None:
    # The connection of before the boot may be dead without knowing it.
    try:
        host.disconnect()
    except (PyinfraError, SSHException, OSError, EOFError):
        host.connected = False
    connect_one(host)
