"""ContestQueue: each entry of a ranking gets one certificate and one PDF in the database, however often it comes.

A long ranking is recorded part by part, each in a transaction of its own. Whatever ends the work in between, the
message comes again, and what is recorded already is found and left.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Mysql
from ..database import BadValue, Connection, DatabaseDown, Session
from ..logs import fields
from .consumer import Handle, Invalid, NotNow
from .messages import CertificateRequest, Entry, certificate_request

if TYPE_CHECKING:
    from .pdf import Certificate

log = logging.getLogger(__name__)

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without those that are mistaken for others on paper
CODE_LENGTH = 10
PART = 50
"""Certificates in one transaction: some tenths of a second, a megabyte."""

Render = Callable[["Certificate"], bytes]


class CertificateStore(Protocol):
    def save(self, request: CertificateRequest, breathe: Callable[[], None]) -> int:
        """Record every entry of the ranking and its PDF; returns how many were new. Repeating it changes nothing, and
        a message older than the one that set a place does not set it back. Raises DatabaseDown.
        """


@dataclass(frozen=True)
class Row:
    """A certificate as the database has it."""

    id: int
    username: str
    place: int | None
    code: str
    message_time: int
    drawn: bool


class MysqlCertificates:
    """Store over tables Certificates and Certificate_Files (sql/)."""

    def __init__(self, config: Mysql, render: Render) -> None:
        # At the default level, reading rows that are not there yet for update locks the gaps where they would be: two
        # workers both get them, and then each waits for the other to insert. At this level only rows are locked.
        self._session = Session(config, isolation="READ COMMITTED")
        self._render = render

    def save(self, request: CertificateRequest, breathe: Callable[[], None]) -> int:
        created = 0
        for part in _parts(request.ranking):
            breathe()
            created += self._session.run(partial(_save, request=request, part=part, render=self._render))
        return created


def _parts(ranking: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    # In one order for every message, the unique key's own: two workers that record the same contest wait for one
    # another, not crosswise.
    ordered = sorted(ranking, key=lambda entry: entry.username)
    return (ordered[at : at + PART] for at in range(0, len(ordered), PART))


def _save(connection: Connection, request: CertificateRequest, part: Sequence[Entry], render: Render) -> int:
    with connection.cursor() as cursor:
        known = {row.username: row for row in _rows(cursor, request.contest_id, part)}
        fresh = [entry for entry in part if entry.username not in known]
        changed = [
            replace(row, place=request.certified_place(entry), message_time=request.timestamp, drawn=False)
            for entry in part
            if (row := known.get(entry.username)) is not None and row.message_time < request.timestamp
        ]
        if fresh:
            # Another worker may be about to record the same ones: this waits for its end, and then fails on the unique
            # key. The transaction is run again and finds what the other has left.
            # Not ON DUPLICATE KEY UPDATE: on the unlikely clash of two verification codes it would change another
            # person's row. A plain INSERT fails instead, and the transaction is run again with other codes.
            cursor.executemany(
                "INSERT INTO Certificates (contest_id, username, place, verification_code, message_time)"
                " VALUES (%s, %s, %s, %s, %s)",
                [
                    (request.contest_id, entry.username, request.certified_place(entry), _code(), request.timestamp)
                    for entry in fresh
                ],
            )
        if changed:
            cursor.executemany(
                "UPDATE Certificates SET place = %s, message_time = %s WHERE certificate_id = %s",
                [(row.place, row.message_time, row.id) for row in changed],
            )
        now = {**known, **{row.username: row for row in changed}}
        if fresh:
            now.update({row.username: row for row in _rows(cursor, request.contest_id, fresh)})
        # Also those without a file that were recorded when there were none.
        _draw(cursor, request.contest_id, [row for row in now.values() if not row.drawn], render)
    return len(fresh)


def _rows(cursor: Any, contest_id: int, entries: Sequence[Entry]) -> list[Row]:
    """The entries that are recorded, locked in the order of their key until the transaction ends."""
    marks = ", ".join(["%s"] * len(entries))
    # Only placeholders are put together here; the values go beside them.
    cursor.execute(
        "SELECT c.certificate_id, c.username, c.place, c.verification_code, c.message_time,"  # noqa: S608  # nosec B608
        " f.certificate_id"
        " FROM Certificates c LEFT JOIN Certificate_Files f ON f.certificate_id = c.certificate_id"
        f" WHERE c.contest_id = %s AND c.username IN ({marks}) ORDER BY c.username FOR UPDATE",
        (contest_id, *(entry.username for entry in entries)),
    )
    return [Row(row[0], row[1], row[2], row[3], row[4], row[5] is not None) for row in cursor.fetchall()]


def _draw(cursor: Any, contest_id: int, rows: Sequence[Row], render: Render) -> None:
    from .pdf import Certificate

    files = []
    for row in rows:
        pdf = render(Certificate(contest_id, row.username, row.place, row.code, row.message_time))
        files.append((row.id, pdf, hashlib.sha256(pdf).digest()))
    if files:
        cursor.executemany(
            "INSERT INTO Certificate_Files (certificate_id, pdf, sha256) VALUES (%s, %s, %s)"
            " ON DUPLICATE KEY UPDATE pdf = VALUES(pdf), sha256 = VALUES(sha256)",
            files,
        )


def _code() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))


def certificates(store: CertificateStore) -> Handle:
    """Handler of ContestQueue."""

    def handle(body: bytes, breathe: Callable[[], None]) -> None:
        request = certificate_request(body)
        try:
            created = store.save(request, breathe)
        except DatabaseDown as error:
            raise NotNow(f"mysql: {error}") from None
        except BadValue as error:
            raise Invalid(f"mysql refuses a value: {error}") from None
        log.info(
            "certificates recorded",
            extra=fields(contest_id=request.contest_id, entries=len(request.ranking), created=created),
        )

    return handle
