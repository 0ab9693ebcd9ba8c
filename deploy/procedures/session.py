"""Opening a fleet: inventory, keys, connections, the first look; and closing it again whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api import Host, State
from pyinfra.context import ctx_state

from deploy.converge import lock
from deploy.converge.engine import Run, attach
from deploy.converge.inventory import connect, folder, load, open_keys
from deploy.errors import FleetError, FleetErrors, each_of

logger = logging.getLogger(__name__)


@dataclass
class Timings:
    """Seconds spent on each part of a run."""

    parts: dict[str, float]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - begun

    def move(self, source: str, target: str, seconds: float) -> None:
        """What was spent within one part on another."""
        self.parts[source] -= seconds
        self.parts[target] = self.parts.get(target, 0.0) + seconds


@dataclass
class Session:
    path: Path
    state: State
    run: Run
    timings: Timings


@contextmanager
def session(
    name: str, *, limit: str | None = None, identity: Path | None = None, lock_for: str | None = None,
    look: bool = True,
) -> Iterator[Session]:  # fmt: skip
    """A connected fleet that has been looked at. `lock_for` holds the inventory's lock, saying what for.

    Raises:
        FleetError, FleetErrors: whatever is in the way, one message for each thing.
    """
    timings = Timings({})
    path = folder(name)
    with ExitStack() as stack:
        if lock_for:
            stack.enter_context(lock.hold(path, lock_for))
        with timings.part("inventory"):
            inventory, built = load(path)
            keys = open_keys(path, identity, profile=built.profile)
            chosen = _limit(limit, {host.name for host in built.hosts}, inventory.groups)
        with timings.part("connect"):
            state, hosts = connect(inventory, built, chosen)
        stack.enter_context(ctx_state.use(state))
        stack.callback(_disconnect, state)
        run = Run(built, path, keys, hosts, chosen)
        if lock_for:
            run.audited(lock_for)
            stack.enter_context(ended(run))
        attach(state, run)
        if look:
            with timings.part("look"):
                run.look_all()
        yield Session(path, state, run, timings)


@contextmanager
def ended(run: Run) -> Iterator[None]:
    """Writes down how a run ended, whatever ended it; what could not be written down on a host is said."""
    outcome = ""
    try:
        yield
    except (FleetError, FleetErrors) as error:
        outcome = f"failed: {each_of(error)[0].message()}"
        raise
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except BaseException as error:
        # Its text may hold a secret.
        outcome = f"failed: {type(error).__name__}"
        raise
    finally:
        trail = run.trail
        if trail:
            trail.end(trail.outcome or outcome or "done")
            for name, why in trail.unwritten.items():
                logger.warning("%s: not in the audit trail of the host, only in the controller's: %s", name, why.found)


def _disconnect(state: State) -> None:
    for host in state.inventory:
        if host.connected:
            host.disconnect()


def _limit(limit: str | None, hosts: set[str], groups: Mapping[str, Sequence[Host]]) -> frozenset[str]:
    if not limit:
        return frozenset(hosts)
    chosen: set[str] = set()
    for word in limit.split(","):
        if word in hosts:
            chosen.add(word)
        elif word in groups:
            chosen |= {host.name for host in groups[word]}
        else:
            raise FleetError(
                subject="--limit",
                found=repr(word),
                expected=f"hosts ({', '.join(sorted(hosts))}) or groups of the inventory",
                hint="separate several with commas",
            )
    return frozenset(chosen)
