"""A secret's change from one value to another, as a state of its own: pure, one step at a time.

    accept   servers take both values, clients come with the old one
    use      servers take both values, clients come with the new one
    drop     servers take the new value alone

Each phase is brought to every host and proven there before the next is begun, as with the CA (see authorities.py), so
that whatever value a client comes with, every server takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from deploy.trust.secret import Secret


class Phase(Enum):
    ACCEPT = "accept"
    USE = "use"
    DROP = "drop"


@dataclass(frozen=True)
class Value:
    """A value, when it was made (ISO 8601, UTC), and how many the secret had before it."""

    secret: Secret
    created: str
    turn: int = 0


@dataclass(frozen=True)
class Entry:
    """A stored secret. While there is a `phase`, it changes from `value` to `target`."""

    value: Value
    target: Value | None = None
    phase: Phase | None = None

    def __post_init__(self) -> None:
        if (self.target is None) != (self.phase is None):
            raise ValueError("a phase without a target, or a target without a phase")

    @property
    def used(self) -> Value:
        """What clients come with."""
        return self.target if self.target and self.phase in {Phase.USE, Phase.DROP} else self.value

    @property
    def accepted(self) -> tuple[Value, ...]:
        """What servers take. In an order that does not change from `accept` to `use`: it would be a change of files."""
        if self.target is None:
            return (self.value,)
        both = sorted((self.value, self.target), key=lambda one: (one.turn, one.created))
        return (self.target,) if self.phase is Phase.DROP else tuple(both)

    @property
    def values(self) -> tuple[Value, ...]:
        """All that count for anything, or will."""
        return (self.value, self.target) if self.target else (self.value,)

    def begun(self, secret: Secret, created: str) -> Entry:
        """A change to another value, which no server takes yet."""
        if self.phase is not None:
            raise ValueError("a change is under way")
        return replace(self, target=Value(secret, created, self.value.turn + 1), phase=Phase.ACCEPT)

    def proven(self) -> Entry:
        """What comes after the phase that is now proven on every host."""
        if self.phase is Phase.ACCEPT:
            return replace(self, phase=Phase.USE)
        if self.phase is Phase.USE:
            return replace(self, phase=Phase.DROP)
        return Entry(self.target) if self.target else self

    def back(self) -> Entry:
        """The change the other way. From `drop` some servers have forgotten the old value already: they have to learn
        it again before anybody comes with it. From `accept` nobody comes with the new one, and some servers have not
        learned it: it is dropped. Otherwise a second turn would lead to its use where not everybody takes it.
        """
        if self.target is None or self.phase is None:
            return self
        turned = {Phase.ACCEPT: Phase.DROP, Phase.USE: Phase.USE, Phase.DROP: Phase.ACCEPT}
        return Entry(self.target, self.value, turned[self.phase])
