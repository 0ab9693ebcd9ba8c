"""What is done with a message of each queue."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Protocol

from ..config import Mysql, WorkerConfig
from ..database import BadValue, Connection, DatabaseDown, Session
from ..logs import fields
from .consumer import Invalid, NotNow
from .messages import CertificateRequest, certificate_request, typed_message

log = logging.getLogger(__name__)

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without those that are mistaken for others on paper
CODE_LENGTH = 10


class CertificateStore(Protocol):
    def save(self, request: CertificateRequest) -> int:
        """Record every entry of the ranking, in one transaction; returns how many were new. Repeating it
        changes nothing, and a message older than the one that set a place does not set it back. Raises
        DatabaseDown.
        """


class MysqlCertificates:
    """Store over table Certificates (sql/001_reference.sql)."""

    def __init__(self, config: Mysql) -> None:
        self._session = Session(config)

    def save(self, request: CertificateRequest) -> int:
        return self._session.run(lambda connection: _save(connection, request))


def _save(connection: Connection, request: CertificateRequest) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT username FROM Certificates WHERE contest_id = %s FOR UPDATE", (request.contest_id,))
        known = {row[0] for row in cursor.fetchall()}
        # Not ON DUPLICATE KEY UPDATE: on the unlikely clash of two verification codes it would change another
        # person's row. A plain INSERT fails instead, and the transaction is run again with other codes.
        fresh = [entry for entry in request.ranking if entry.username not in known]
        if fresh:
            cursor.executemany(
                "INSERT INTO Certificates (contest_id, username, place, verification_code, message_time)"
                " VALUES (%s, %s, %s, %s, %s)",
                [
                    (
                        request.contest_id,
                        entry.username,
                        request.certified_place(entry),
                        _code(),
                        request.timestamp,
                    )
                    for entry in fresh
                ],
            )
        again = [entry for entry in request.ranking if entry.username in known]
        if again:
            cursor.executemany(
                "UPDATE Certificates SET place = %s, message_time = %s"
                " WHERE contest_id = %s AND username = %s AND message_time < %s",
                [
                    (
                        request.certified_place(entry),
                        request.timestamp,
                        request.contest_id,
                        entry.username,
                        request.timestamp,
                    )
                    for entry in again
                ],
            )
    return len(fresh)


def _code() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))


def certificates(store: CertificateStore) -> Callable[[bytes], None]:
    """Handler of ContestQueue."""

    def handle(body: bytes) -> None:
        request = certificate_request(body)
        try:
            created = store.save(request)
        except DatabaseDown as error:
            raise NotNow(f"mysql: {error}") from None
        except BadValue as error:
            raise Invalid(f"mysql refuses a value: {error}") from None
        log.info(
            "certificates recorded",
            extra=fields(contest_id=request.contest_id, entries=len(request.ranking), created=created),
        )

    return handle


def logged(queue: str) -> Callable[[bytes], None]:
    """Handler of a queue without a consumer of its own yet: that a message came is logged, its contents are
    not.
    """

    def handle(body: bytes) -> None:
        log.info("message", extra=fields(queue=queue, type=typed_message(body), bytes=len(body)))

    return handle


def handler_for(config: WorkerConfig) -> Callable[[bytes], None]:
    """Raises ConfigError when the database's TLS files are unusable."""
    if config.mysql is not None:
        return certificates(MysqlCertificates(config.mysql))
    return logged(config.queue)
