"""What a generated secret must be like; roles declare them, the vault makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from deploy.errors import FleetError

SecretKind = Literal["password", "token", "cookie", "hex"]

MINIMUM_LENGTH = 32
"""Characters. 128 bits in hexadecimal, 190 in the alphanumeric alphabet; also the longest password that MySQL
accepts for a replication source (CHANGE REPLICATION SOURCE TO ... SOURCE_PASSWORD), hence the default as well."""


class Change(Enum):
    """How another value takes the place of a secret's present one.

    PHASES: servers accept both, clients turn to the new one, servers forget the old one; nobody is refused.
    STOP: all who share it have to be stopped meanwhile. AT_ONCE: until every host has it, what it protects fails.
    ISSUED: somebody else makes it, and `fleet secrets set` stores it. NEVER: what was made with it would be lost.
    """

    PHASES = "phases"
    STOP = "stop"
    AT_ONCE = "at once"
    ISSUED = "issued"
    NEVER = "never"


@dataclass(frozen=True)
class Credential:
    """A value that servers accept. `turn`: how many values the secret had before it; names the account where a server
    keeps one password for each (see `account`).
    """

    value: str = field(repr=False)
    turn: int = 0


def account(user: str, turn: int) -> str:
    """The name of an account whose server has one password for each: of two that follow one another, another."""
    return f"{user}-b" if turn % 2 else user


@dataclass(frozen=True)
class SecretSpec:
    """What a secret must be like when it has to be made.

    kind: ``password``, ``token`` and ``cookie`` use [A-Za-z0-9], starting with a letter; ``hex`` uses [0-9a-f].
    purpose: one line for people; not secret. length: characters, at least 32. change: how another one takes its place;
    `why`: where that is not by phases, the reason and what to do, for people. `unit`: what has to be stopped for it.
    """

    kind: SecretKind
    purpose: str = ""
    length: int = MINIMUM_LENGTH
    change: Change = Change.PHASES
    why: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.length < MINIMUM_LENGTH:
            raise FleetError(
                subject=f"secret for {self.purpose or self.kind}",
                found=f"length {self.length}",
                expected=f"at least {MINIMUM_LENGTH} characters",
                hint="Leave the length out to get the default.",
            )
        if (self.change is not Change.PHASES) != bool(self.why) or (self.change is Change.STOP) != bool(self.unit):
            raise FleetError(
                subject=f"secret for {self.purpose or self.kind}",
                found=f"a change {self.change.value!r}",
                expected="a reason where it is not by phases, and what has to be stopped where something has",
            )
