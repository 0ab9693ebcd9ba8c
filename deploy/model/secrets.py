"""What a generated secret must be like; roles declare them, the vault makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SecretKind = Literal["password", "token", "cookie", "hex"]


@dataclass(frozen=True)
class SecretSpec:
    """kind: `password`, `token` and `cookie` use [A-Za-z0-9] and begin with a letter; `hex` uses [0-9a-f].

    length: characters. purpose: one line for people; not secret.
    """

    kind: SecretKind
    purpose: str = ""
    length: int = 32
