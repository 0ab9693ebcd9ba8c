"""A step: one difference between what a host is and what it should be, its class, and the shell that mends it."""

from __future__ import annotations

from dataclasses import dataclass, field

from deploy.model.resources import Parameter, Phase, Resource, StepClass, Unit


@dataclass(frozen=True, kw_only=True)
class Step:
    """`pending` steps are reported and left to `roll`. `script` is empty for them and for certificates."""

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
    def phase(self) -> Phase:
        return self.resource.order


def unit_of(step: Step) -> str:
    """The unit that a step is about, or that answers for its parameter; empty for the rest."""
    if isinstance(step.resource, Unit):
        return step.resource.name
    return (step.resource.unit or step.resource.query.unit) if isinstance(step.resource, Parameter) else ""
