"""A step: one difference between what a host is and what it should be, its class, and the shell that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from deploy.model.resources import Certificate, Package, Parameter, Phase, Resource, Revocations, StepClass, Unit


@dataclass(frozen=True, kw_only=True)
class Step:
    """`pending` steps are reported and left to `roll`, or to who has the CA's key where that is elsewhere. `script` is
    empty for them and for certificates.
    """

    host: str
    resource: Resource
    step: StepClass
    summary: str
    script: str = field(default="", repr=False)
    before: str = ""
    after: str = ""
    pending: bool = False

    @property
    def key(self) -> str:
        return self.resource.key

    @property
    def role(self) -> str:
        return self.resource.role

    @property
    def unsigned(self) -> bool:
        """Whether it waits for who has the CA's key."""
        return self.pending and isinstance(self.resource, Certificate | Revocations)

    @property
    def waits(self) -> str:
        """What a pending step waits for, in words."""
        return "signature pending" if self.unsigned else "restart pending"

    @property
    def phase(self) -> Phase:
        return self.resource.order


def owed(steps: Iterable[Step]) -> set[str]:
    """The units of a host that are owed a restart."""
    return {unit for step in steps if step.pending for unit in units_of(step)}


def units_of(step: Step) -> tuple[str, ...]:
    """The units that a step is about: that answer for its parameter, or run from its package; none for the rest."""
    match step.resource:
        case Unit(name=name):
            return (name,)
        case Parameter(unit=unit, query=query) if unit or query.unit:
            return (unit or query.unit,)
        case Package(units=units):
            return units
    return ()
