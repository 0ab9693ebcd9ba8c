"""Make a fleet what its inventory says, and look again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pyinfra.api.deploy import add_deploy
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage

from deploy.converge import parcels, shell
from deploy.converge.engine import Run, still_different
from deploy.converge.operations import site
from deploy.converge.step import Step, owed
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors
from deploy.model.resources import Delivery, File, Parameter
from deploy.procedures import transport
from deploy.procedures.pki.succession import succeed
from deploy.procedures.roll import notes
from deploy.procedures.roll.refusals import nobody_rolls
from deploy.procedures.session import Session
from deploy.roles.node_exporter import applied, manifest, rewritten


@dataclass(frozen=True)
class Outcome:
    """What an apply did, what it left to `roll`, and what went wrong."""

    done: tuple[Step, ...]
    pending: tuple[Step, ...]
    errors: tuple[FleetError, ...]


def apply(session: Session) -> Outcome:
    """Act on what differs. Stops on every host at the first operation that fails on one.

    Raises:
        FleetError, FleetErrors: a roll has hosts in hand, this controller's or another's, or this run would do a part
            of what has to be done at once, or the CA has ended and its key is elsewhere; nothing was changed.
    """
    outcome = _applied(session)
    with session.timings.part("note"):
        if session.run.only is None:
            _note(session.run, outcome)
        else:
            _note_part(session.run)
    return outcome


def _applied(session: Session) -> Outcome:
    run = session.run
    with session.timings.part("plan"):
        first = run.plan()
    if any(not step.pending for steps in first.values() for step in steps):
        # What a roll has in hand goes forward or back as the files on the disk are.
        nobody_rolls(notes.read(run))
        if succeed(run):
            first = run.plan()
        transport.whole(run, first)
        _parcels_are_there(run, first.values())
        with session.timings.part("act"):
            _act(session)
        # The last of pyinfra's operations is the second look.
        session.timings.move("act", "look again", time.monotonic() - run.acted_until)
    if run.failures:
        return Outcome(tuple(run.acted), (), tuple(run.failures))
    with session.timings.part("look again"):
        left = run.remaining() if run.acted else {}
    _settle(run)
    pending = [step for steps in run.plan().values() for step in steps if step.pending]
    return Outcome(
        tuple(run.acted), tuple(pending), tuple(still_different(step) for steps in left.values() for step in steps)
    )


def _parcels_are_there(run: Run, plan: Iterable[Sequence[Step]]) -> None:
    """Before anything is changed.

    Raises:
        FleetErrors: files of the controller's that the plan needs are not there, or are others.
    """
    needed = {
        parcel: step.key
        for steps in plan
        for step in steps
        if isinstance(step.resource, Delivery) and step.script
        for parcel in step.resource.parcels
    }
    wrong: list[FleetError] = []
    for parcel, key in needed.items():
        try:
            parcels.found(run.inventory, key, parcel)
        except FleetError as error:
            wrong.append(error)
    if wrong:
        raise FleetErrors(wrong)


def _note(run: Run, outcome: Outcome) -> None:
    """For monitoring: when this was, how it ended, and what the files are to be. That it cannot be told is no error of
    the run; monitoring says itself when a host's notes are old or its last apply long ago.
    """
    owed = Counter(step.host for step in outcome.pending)

    def note(name: str) -> None:
        content = manifest(run.state(name).resources)
        script = applied(content, ok=not outcome.errors, owed=owed[name])
        with suppress(FleetError):
            run.do(name, "note", script, seconds=30, unseen=True)

    together([name for name in run.hosts if name in run.targets], note)


def _note_part(run: Run) -> None:
    """A run of some steps alone says nothing of when all was applied last, but what it wrote is no drift."""
    wrote: dict[str, dict[str, File]] = {}
    for step in run.acted:
        if isinstance(step.resource, File):
            wrote.setdefault(step.host, {})[step.key] = step.resource

    def note(name: str) -> None:
        with suppress(FleetError):
            run.do(name, "note", rewritten(wrote[name].values()), seconds=30, unseen=True)

    together(wrote, note)


def _settle(run: Run) -> None:
    """Where what was written is owed no restart, what was there before is no way back any more.

    That counts for what an apply that died has left as well, but not for what a roll has in hand.
    """
    wrote: dict[str, set[str]] = {name: set() for name in run.snapshots}
    for step in run.acted:
        if isinstance(step.resource, File | Parameter):
            wrote.setdefault(step.host, set()).update(step.resource.kept_for)
    left = {name: set(seen.facts.kept) - wrote[name] for name, seen in run.snapshots.items()}
    if any(left.values()) and not notes.read(run).locks:
        for name, units in left.items():
            wrote[name] |= units
    done: dict[str, str] = {}
    for name, units in wrote.items():
        if proven := sorted(units - owed(run.steps(name))):
            done[name] = "\n".join(shell.forget_kept(unit) for unit in proven)
    together(done, lambda name: run.do(name, "settle", done[name], seconds=60, unseen=True))


def _act(session: Session) -> None:
    session.state.set_stage(StateStage.Prepare)
    try:
        add_deploy(session.state, site)
        session.state.set_stage(StateStage.Execute)
        run_ops(session.state)
    except PyinfraError as error:
        # Its own words say nothing ("No hosts remaining!") when it was the last look that found a difference.
        if not session.run.failures and not session.run.remaining():
            session.run.failures.append(
                FleetError(subject="pyinfra", found=str(error), expected="every operation to be run")
            )
