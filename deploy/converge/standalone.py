"""What `pyinfra INVENTORY deploy/site.py` needs that `fleet` does itself: keys, lock, the first look."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from pathlib import Path

from gevent.lock import BoundedSemaphore
from pyinfra import logger
from pyinfra.api import State
from pyinfra.api.exceptions import PyinfraError

from deploy.converge import lock
from deploy.converge.engine import Run, attach, run_of
from deploy.converge.inventory import MARKER, connect_one, fleet_of, open_keys
from deploy.errors import FleetError, FleetErrors
from deploy.model.fleet import waivers

_HELD = ExitStack()
"""The lock of the run, until this process ends."""

_ONCE = BoundedSemaphore()


def prepare(state: State) -> None:
    """Attach a Run to pyinfra's State; called by site.py for each host, side by side, does it once.

    Raises:
        PyinfraError: with the one message of what is wrong, which pyinfra prints without a traceback.
    """
    with _ONCE:
        if run_of(state) is None:
            attach(state, _open(state))


def _open(state: State) -> Run:
    try:
        path = _inventory_folder(state)
        built = fleet_of(state.inventory, path.name)
        _HELD.enter_context(lock.hold(path, "pyinfra deploy/site.py"))
        targets = frozenset(host.name for host in state.inventory.iter_activated_hosts())
        hosts = {host.name: host for host in state.inventory if host.name in targets | built.witnesses()}
        for host in hosts.values():
            connect_one(host)
        run = Run(built, path, open_keys(path, profile=built.profile), hosts, targets)
        run.audited("pyinfra deploy/site.py")
        # pyinfra has left the hosts by then: theirs is known from the controller's trail.
        atexit.register(_end, run)
        run.look_all()
        _say(run)
    except (FleetError, FleetErrors) as error:
        raise PyinfraError(str(error)) from None
    return run


def _end(run: Run) -> None:
    if run.trail:
        run.trail.end("stopped" if run.failures else "done")


def _say(run: Run) -> None:
    """What `fleet` shows as well: the inventory's exceptions, and what is owed to the hosts already."""
    for host in run.fleet.hosts:
        for item in waivers(host):
            logger.info(f"exception on {host.name}: {item.what}: {item.why}")
    for name, steps in run.plan().items():
        for step in steps:
            if step.pending:
                logger.warning(f"{name}: {step.key} waits for a restart: {step.summary}")


def _inventory_folder(state: State) -> Path:
    folders = {host.data.get(MARKER) for host in state.inventory}
    if len(folders) != 1 or None in folders:
        raise FleetError(
            subject="inventory",
            found="hosts without the folder of their inventory",
            expected=f"`{MARKER}` in the data of all hosts",
            hint="see the first lines of inventories/production/inventory.py",
        )
    return Path(str(folders.pop()))
