"""A secret value that does not show itself, and how new ones are made."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from typing import Never

from deploy.model.secrets import SecretSpec

MASK = "********"

_ALPHANUMERIC = string.ascii_letters + string.digits
_HASH_KEY = secrets.token_bytes(32)  # so that a hash, if it is ever printed, is no oracle for guesses


class Secret:
    """A value that prints as ``********`` however it is printed; only :meth:`reveal` gives it away.

    Deliberately no subclass of ``str``: everything that would take a string as it is (JSON, joining, the
    environment of a child process) fails with TypeError instead of leaking. Pickling is refused; copies are
    the same object. Equality takes constant time and is defined between secrets only.
    """

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or not value:
            raise TypeError("a secret is a string that is not empty")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """The value itself. Call it at the last moment and pass it on by standard input or a private file."""
        return self.__value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        # The specification is ignored: precision or alignment could only shape the mask into something else.
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self.__value), _bytes(other.__value))

    def __hash__(self) -> int:
        digest = hashlib.blake2b(_bytes(self.__value), key=_HASH_KEY, digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a secret cannot be changed")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a secret is not pickled: it would leave this process in plain")

    def __getstate__(self) -> Never:
        raise TypeError("a secret has no state to hand out")


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", errors="surrogatepass")


def generate(spec: SecretSpec) -> Secret:
    """A new random value from the operating system's generator, safe unquoted in shell, INI, URL and JSON."""
    if spec.kind == "hex":
        return Secret("".join(secrets.choice("0123456789abcdef") for _ in range(spec.length)))
    # A leading letter keeps the value from being read as a number or an option anywhere.
    first = secrets.choice(string.ascii_letters)
    return Secret(first + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(spec.length - 1)))
