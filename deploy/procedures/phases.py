"""What changes by phases have in common: a secret's and the CA's, each phase in force on every host before the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.errors import FleetError


def known_phase(stop_after: str, phases: type[Enum]) -> None:
    """Raise FleetError if --stop-after names none of these phases; empty: it was not given."""
    names = [str(phase.value) for phase in phases]
    if stop_after and stop_after not in names:
        raise FleetError(subject="--stop-after", found=repr(stop_after), expected=", ".join(names))


def not_in_force(run: Run, hint: Callable[[Step], str]) -> Iterator[FleetError]:
    """What differs still, or waits for a restart: the phase is not in force there."""
    for host, steps in run.plan().items():
        for step in steps:
            yield FleetError(
                host=host, subject=step.key, found=f"{step.summary}{f' ({step.waits})' if step.pending else ''}",
                expected="the phase to be in force on every host before the next one", hint=hint(step),
            )  # fmt: skip
