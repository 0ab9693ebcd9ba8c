"""A connection that failed is never used again, and work is tried once more on a new one."""

from __future__ import annotations

import asyncio
from typing import Any

import pymysql
import pytest
from omegaup_services.database import BadValue, DatabaseDown, Pool, Session, check_writable
from omegaup_services.health import Unwell

from tests.unit.services.support import MYSQL

READ_ONLY = pymysql.err.OperationalError(1290, "The server is running with --read-only")


class Fake:
    """A connection; `script` says what each statement does: raise, or answer a row."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.commits = 0
        self.closed = False

    def cursor(self) -> Fake:
        return self

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def execute(self, _: str) -> None:
        self.row = self.script.pop(0)
        if isinstance(self.row, Exception):
            raise self.row

    def fetchone(self) -> Any:
        return self.row

    def commit(self) -> None:
        self.commits += 1

    def _force_close(self) -> None:
        self.closed = True


def scripted(monkeypatch: pytest.MonkeyPatch, *scripts: list[Any] | Exception) -> list[Fake]:
    """The connections that pymysql will make, in order."""
    left, made = list(scripts), list[Fake]()

    def connect(**options: Any) -> Fake:
        assert options["password"] == "not-used"
        script = left.pop(0)
        if isinstance(script, Exception):
            raise script
        made.append(Fake(script))
        return made[-1]

    monkeypatch.setattr(pymysql, "connect", connect)
    return made


def one(connection: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


def test_dead_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = pymysql.err.OperationalError(2013, "Lost connection")
    made = scripted(monkeypatch, [(1,), gone], [(2,)])
    session = Session(MYSQL)
    assert session.run(one) == (1,)
    assert session.run(one) == (2,)
    assert made[0].closed
    assert made[1].commits == 1


def test_read_only_primary_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(monkeypatch, [READ_ONLY], [(1,)])
    assert Session(MYSQL).run(one) == (1,)
    assert made[0].closed


def test_two_failures_are_reported_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = pymysql.err.OperationalError(2003, "Can't connect to MySQL server on '127.0.0.1'")
    scripted(monkeypatch, refused, refused)
    with pytest.raises(DatabaseDown, match=r"Can't connect .* \(2003\)"):
        Session(MYSQL).run(one)


def test_bad_value_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [pymysql.err.DataError(1406, "Data too long")])
    with pytest.raises(BadValue):
        Session(MYSQL).run(one)


@pytest.mark.parametrize(("value", "well"), [(0, True), ("OFF", True), (1, False), ("ON", False), ("NO_LOCK", False)])
def test_read_only_server_is_unwell(value: object, well: bool) -> None:
    if well:
        check_writable(Fake([(value,)]))
    else:
        with pytest.raises(Unwell, match="read-only"):
            check_writable(Fake([(value,)]))


def test_pool_runs_beside_the_event_loop_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(monkeypatch, [(1,), (1,)], [(0,)])

    async def go() -> None:
        pool = Pool(MYSQL)
        assert await pool.run(one) == (1,)
        await pool.probe(check_writable)
        await pool.close()

    asyncio.run(go())
    assert all(connection.closed for connection in made)


def test_a_connection_has_the_isolation_that_its_session_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def connect(**options: Any) -> Fake:
        asked.append(options["init_command"])
        return Fake([])

    monkeypatch.setattr(pymysql, "connect", connect)
    for session in (Session(MYSQL), Session(MYSQL, isolation="READ COMMITTED")):
        session.run(lambda _: None)
    assert asked == [None, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"]
