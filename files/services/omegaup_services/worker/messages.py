"""Messages as the specification writes them, validated to the last key. Errors are `Invalid`, naming the
field.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from .. import strict
from .consumer import Invalid

CERTIFICATE_KEYS = frozenset(("type", "contest_id", "certificate_cutoff", "ranking", "timestamp"))
MAIL_KEYS = frozenset(("type", "event_id", "to", "subject", "body", "timestamp"))
ANALYTICS_KEYS = frozenset(("type", "event_id", "timestamp"))
USERNAME_LENGTH = 255
LARGEST = 2**63 - 1  # BIGINT
LARGEST_PLACE = 2**32 - 1  # INT UNSIGNED
LARGEST_TIME = 253402300799  # the last second that has a date of four digits
EVENT = re.compile(r"[A-Za-z0-9._-]{1,64}")
ADDRESS = re.compile(r"[^\s@<>()\[\]\\,;:\"]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,187}[A-Za-z0-9])?")
SUBJECT_LENGTH, BODY_LENGTH = 200, 64 * 1024
JOINERS = "\u200c\u200d"  # they are part of how some scripts are written
UNWRITABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories: what turns the direction, or ends the line, is no name


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


@dataclass(frozen=True)
class MailRequest:
    """`event_id`: the same event has the same; it is what a mail is known by. `timestamp`: Unix seconds."""

    event_id: str
    to: str
    subject: str
    body: str
    timestamp: int


@dataclass(frozen=True)
class AnalyticsEvent:
    """`timestamp`: Unix seconds, of which the day (UTC) counts."""

    event_id: str
    type: str
    timestamp: int


def json_message(body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        data = strict.loads(body)
    except ValueError:
        raise Invalid("not JSON") from None
    if not isinstance(data, dict):
        raise Invalid("not a JSON object")
    return data


def certificate_request(body: bytes) -> CertificateRequest:
    data = _with_keys(body, CERTIFICATE_KEYS)
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
        timestamp=_whole(data["timestamp"], "timestamp", 0, LARGEST_TIME),
    )


def mail_request(body: bytes) -> MailRequest:
    data = _with_keys(body, MAIL_KEYS)
    if data["type"] != "email":
        raise Invalid("type: expected email")
    to, subject, text = data["to"], data["subject"], data["body"]
    if not isinstance(to, str) or ADDRESS.fullmatch(to) is None or len(to) > 254:
        raise Invalid("to: expected one mail address")
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_LENGTH or _unwritable(subject):
        raise Invalid(f"subject: expected a line of 1..{SUBJECT_LENGTH} characters")
    if not isinstance(text, str) or len(text) > BODY_LENGTH or any("\ud800" <= one <= "\udfff" for one in text):
        raise Invalid(f"body: expected a text of at most {BODY_LENGTH} characters")
    return MailRequest(_event_id(data), to, subject, text, _whole(data["timestamp"], "timestamp", 0, LARGEST_TIME))


def analytics_event(body: bytes) -> AnalyticsEvent:
    data = _with_keys(body, ANALYTICS_KEYS)
    kind = data["type"]
    if not isinstance(kind, str) or EVENT.fullmatch(kind) is None:
        raise Invalid(f"type: expected a string matching {EVENT.pattern}")
    return AnalyticsEvent(_event_id(data), kind, _whole(data["timestamp"], "timestamp", 0, LARGEST_TIME))


def _with_keys(body: bytes, keys: frozenset[str]) -> dict[str, Any]:
    data = json_message(body)
    if data.keys() != keys:
        missing, unknown = sorted(keys - data.keys()), sorted(data.keys() - keys)
        raise Invalid(f"keys: missing {missing or 'none'}, unknown {unknown or 'none'}")
    return data


def _event_id(data: dict[str, Any]) -> str:
    value = data["event_id"]
    if not isinstance(value, str) or EVENT.fullmatch(value) is None:
        raise Invalid(f"event_id: expected a string matching {EVENT.pattern}")
    return value


def _unwritable(text: str) -> bool:
    return any(one not in JOINERS and unicodedata.category(one) in UNWRITABLE for one in text)


def _entry(item: object, where: str) -> Entry:
    if not isinstance(item, dict) or item.keys() != {"username", "place"}:
        raise Invalid(f"{where}: expected an object with username and place")
    username, place = item["username"], item["place"]
    if not isinstance(username, str) or not 0 < len(username) <= USERNAME_LENGTH:
        raise Invalid(f"{where}.username: expected a string of 1..{USERNAME_LENGTH} characters")
    # Spaces at its end do not count when the database compares.
    if username != username.strip() or _unwritable(username):
        raise Invalid(f"{where}.username: expected what can be written in one line, without spaces around it")
    return Entry(username, None if place is None else _whole(place, f"{where}.place", 1, LARGEST_PLACE))


def _whole(value: object, where: str, minimum: int, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise Invalid(f"{where}: expected a whole number in {minimum}..{maximum}")
    return value
