"""Messages as the specification writes them, validated to the last key. Errors are `Invalid`, naming the
field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .consumer import Invalid

KEYS = frozenset(("type", "contest_id", "certificate_cutoff", "ranking", "timestamp"))
USERNAME_LENGTH = 255
LARGEST = 2**63 - 1  # BIGINT
LARGEST_PLACE = 2**32 - 1  # INT UNSIGNED


@dataclass(frozen=True)
class Entry:
    """`place` None: the publisher had none to give."""

    username: str
    place: int | None


@dataclass(frozen=True)
class CertificateRequest:
    """`certificate_cutoff` None: nobody's place is certified. `timestamp`: Unix seconds."""

    contest_id: int
    certificate_cutoff: int | None
    ranking: tuple[Entry, ...]
    timestamp: int

    def certified_place(self, entry: Entry) -> int | None:
        """The place that goes on the certificate: only those up to the cutoff."""
        if entry.place is None or self.certificate_cutoff is None or entry.place > self.certificate_cutoff:
            return None
        return entry.place


def json_message(body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        data = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("not JSON") from None
    if not isinstance(data, dict):
        raise Invalid("not a JSON object")
    return data


def typed_message(body: bytes) -> str:
    """The `type` of a message of which nothing else is known."""
    kind = json_message(body).get("type")
    if not isinstance(kind, str) or not kind:
        raise Invalid("type: expected a string")
    return kind


def certificate_request(body: bytes) -> CertificateRequest:
    data = json_message(body)
    if data.keys() != KEYS:
        missing, unknown = sorted(KEYS - data.keys()), sorted(data.keys() - KEYS)
        raise Invalid(f"keys: missing {missing or 'none'}, unknown {unknown or 'none'}")
    if data["type"] != "generate_certificates":
        raise Invalid("type: expected generate_certificates")
    ranking = data["ranking"]
    if not isinstance(ranking, list):
        raise Invalid("ranking: expected a list")
    entries = tuple(_entry(item, f"ranking[{index}]") for index, item in enumerate(ranking))
    names = [entry.username for entry in entries]
    if len(set(names)) != len(names):
        raise Invalid("ranking: a username occurs twice")
    cutoff = data["certificate_cutoff"]
    return CertificateRequest(
        contest_id=_whole(data["contest_id"], "contest_id", 1, LARGEST),
        certificate_cutoff=None if cutoff is None else _whole(cutoff, "certificate_cutoff", 0, LARGEST_PLACE),
        ranking=entries,
        timestamp=_whole(data["timestamp"], "timestamp", 0, LARGEST),
    )


def _entry(item: object, where: str) -> Entry:
    if not isinstance(item, dict) or item.keys() != {"username", "place"}:
        raise Invalid(f"{where}: expected an object with username and place")
    username, place = item["username"], item["place"]
    if not isinstance(username, str) or not 0 < len(username) <= USERNAME_LENGTH:
        raise Invalid(f"{where}.username: expected a string of 1..{USERNAME_LENGTH} characters")
    if any("\ud800" <= character <= "\udfff" for character in username):
        raise Invalid(f"{where}.username: not valid Unicode")
    return Entry(username, None if place is None else _whole(place, f"{where}.place", 1, LARGEST_PLACE))


def _whole(value: object, where: str, minimum: int, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise Invalid(f"{where}: expected a whole number in {minimum}..{maximum}")
    return value
