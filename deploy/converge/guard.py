"""Changes that could lock the controller out go back by themselves unless it can log in again.

The host arms a timer before the change; the controller then opens a new connection and only that disarms it. A
controller that died, or that the new firewall or sshd refuses, leaves the host as it was before.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence

from pyinfra.api import Host
from pyinfra.api.exceptions import ConnectError

from deploy.converge import remote
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.resources import Parameter, Resource, Unit

SECONDS = 60
"""Until the host goes back by itself. A new SSH connection takes less than one."""
PATIENCE = 15.0
"""Seconds for which it is tried: sshd refuses connections for a moment while it reloads."""


def of(resource: Resource) -> str:
    """The shell that undoes this resource's last change; empty if it needs no guard."""
    return resource.guard if isinstance(resource, Unit | Parameter) else ""


def _name(step: Step) -> str:
    return "fleet-guard-" + "".join(letter if letter.isalnum() else "-" for letter in step.key)


def armed(step: Step) -> str:
    """The step's shell with its way back armed first."""
    undo = of(step.resource)
    if not undo:
        return step.script
    name = _name(step)
    # Encoded: systemd notes the command in a file, which it cannot read back at a daemon-reload if it has semicolons.
    encoded = base64.b64encode(undo.encode()).decode()
    return (
        f"systemctl stop {name}.timer {name}.service 2>/dev/null || true\n"
        f"systemd-run --quiet --collect --unit={name} --on-active={SECONDS} "
        f"--timer-property=AccuracySec=1s /bin/sh -c 'echo {encoded} | base64 -d | /bin/sh' 9>&-\n"
        f"{step.script}"
    )


def left_armed(steps: Sequence[Step]) -> list[Step]:
    """Steps that disarm what a controller that died has left armed."""
    return [step for step in steps if step.key.startswith("guard:")]


def log_in_anew(host: Host, subject: str) -> None:
    """A new connection, now: the proof that disarms.

    Raises:
        FleetError: there is none to be had; the host goes back by itself.
    """
    connector = type(host.connector)(host.state, host)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connector.connect()
            break
        except ConnectError as error:
            if time.monotonic() < until:
                time.sleep(0.5)
                continue
            raise FleetError(
                host=host.name,
                subject=subject,
                found=f"no new login after the change ({error})",
                expected="the controller to be able to log in again",
                hint=f"the host goes back to what it had by itself within {SECONDS} s; correct the inventory "
                "(base.ssh_ports, base.ssh_from, base.operators) before the next apply",
            ) from None
    connector.disconnect()
    client = getattr(connector, "client", None)
    if client is not None:
        client.close()


def confirm(host: Host, steps: Sequence[Step]) -> None:
    """Log in anew, and disarm.

    Raises:
        FleetError: no new connection; the host goes back by itself.
    """
    guarded = [step for step in steps if of(step.resource) and step.script]
    if not guarded:
        return
    log_in_anew(host, guarded[0].key)
    units = " ".join(f"{_name(step)}.timer" for step in guarded)
    remote.run(host, f"systemctl stop {units}\n", seconds=60)
