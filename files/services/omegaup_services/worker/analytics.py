"""AnalyticsQueue: how many events of each kind there were on each day. An event counts once, however often it comes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import pymysql

from ..config import Mysql
from ..database import BadValue, Connection, DatabaseDown, Session
from .consumer import Handle, Invalid, NotNow
from .messages import AnalyticsEvent, analytics_event

DUPLICATE_KEY = 1062


class AnalyticsStore(Protocol):
    def count(self, event: AnalyticsEvent) -> bool:
        """Count it, unless it was counted before; whether it was not. Raises DatabaseDown."""


class MysqlAnalytics:
    """Store over tables Analytics_Events and Analytics_Daily (sql/)."""

    def __init__(self, config: Mysql) -> None:
        self._session = Session(config)

    def count(self, event: AnalyticsEvent) -> bool:
        day = datetime.fromtimestamp(event.timestamp, UTC).date()

        def work(connection: Connection) -> bool:
            with connection.cursor() as cursor:
                try:
                    cursor.execute(
                        "INSERT INTO Analytics_Events (event_id, day) VALUES (%s, %s)", (event.event_id, day)
                    )
                except pymysql.err.IntegrityError as error:
                    if error.args[0] != DUPLICATE_KEY:
                        raise
                    return False
                cursor.execute(
                    "INSERT INTO Analytics_Daily (day, type, events) VALUES (%s, %s, 1)"
                    " ON DUPLICATE KEY UPDATE events = events + 1",
                    (day, event.type),
                )
            return True

        return self._session.run(work)


def analytics(store: AnalyticsStore) -> Handle:
    """Handler of AnalyticsQueue."""

    def handle(body: bytes, breathe: Callable[[], None]) -> None:
        event = analytics_event(body)
        try:
            store.count(event)
        except DatabaseDown as error:
            raise NotNow(f"mysql: {error}") from None
        except BadValue as error:
            raise Invalid(f"mysql refuses a value: {error}") from None

    return handle
