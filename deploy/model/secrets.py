"""What a generated secret must be like; roles declare them, the vault makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploy.errors import FleetError

SecretKind = Literal["password", "token", "cookie", "hex"]

MINIMUM_LENGTH = 32
"""Characters. 128 bits in hexadecimal, 190 in the alphanumeric alphabet; also the longest password that MySQL
accepts for a replication source (CHANGE REPLICATION SOURCE TO ... SOURCE_PASSWORD), hence the default as well."""


@dataclass(frozen=True)
class SecretSpec:
    """What a secret must be like when it has to be made.

    kind: ``password``, ``token`` and ``cookie`` use [A-Za-z0-9], starting with a letter; ``hex`` uses [0-9a-f].
    purpose: one line for people; not secret. length: characters, at least 32.
    """

    kind: SecretKind
    purpose: str = ""
    length: int = MINIMUM_LENGTH

    def __post_init__(self) -> None:
        if self.length < MINIMUM_LENGTH:
            raise FleetError(
                subject=f"secret for {self.purpose or self.kind}",
                found=f"length {self.length}",
                expected=f"at least {MINIMUM_LENGTH} characters",
                hint="Leave the length out to get the default.",
            )
