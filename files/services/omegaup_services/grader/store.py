"""The grader's store: MySQL for the fleet, memory for tests. Each operation is idempotent (see
`database`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import Mysql
from ..database import Connection, DatabaseDown, Pool, check_writable
from .model import Conflict, Result, Run, Status, Submission

COLUMNS = "r.run_id, r.attempts, r.status, s.submission_id, s.problem, s.language, s.source, s.contest"
JOIN = "FROM Runs r JOIN Submissions s ON s.submission_id = r.submission_id"


def _run(row: Sequence[Any]) -> Run:
    return Run(int(row[0]), Submission(row[3], row[4], row[5], row[6], row[7]), int(row[1]))


class MysqlStore:
    """Store over tables Submissions and Runs (sql/001_reference.sql)."""

    def __init__(self, config: Mysql) -> None:
        self._pool = Pool(config)

    async def add(self, submission: Submission) -> Run | None:
        def work(connection: Connection) -> tuple[Run, str]:
            with connection.cursor() as cursor:
                # A no-op update rather than INSERT IGNORE, which would also hide truncated values.
                cursor.execute(
                    "INSERT INTO Submissions (submission_id, problem, language, contest, source)"
                    " VALUES (%s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE submission_id = submission_id",
                    (
                        submission.submission_id,
                        submission.problem,
                        submission.language,
                        submission.contest,
                        submission.source,
                    ),
                )
                cursor.execute(
                    "INSERT INTO Runs (submission_id) VALUES (%s)"
                    " ON DUPLICATE KEY UPDATE submission_id = submission_id",
                    (submission.submission_id,),
                )
                cursor.execute(f"SELECT {COLUMNS} {JOIN} WHERE r.submission_id = %s", (submission.submission_id,))
                row = cursor.fetchone()
            return _run(row), row[2]

        run, state = await self._pool.run(work)
        if run.submission != submission:
            raise Conflict(submission.submission_id)
        return None if state == "ready" else run

    async def status(self, submission_id: str) -> Status | None:
        def work(connection: Connection) -> Any:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT run_id, status, verdict, score, time_ms, memory_bytes FROM Runs WHERE submission_id = %s",
                    (submission_id,),
                )
                return cursor.fetchone()

        row = await self._pool.run(work)
        if row is None:
            return None
        result = Result(row[2], float(row[3]), int(row[4]), int(row[5])) if row[1] == "ready" else None
        return Status(int(row[0]), row[1], result)

    async def unfinished(self, older_than_seconds: float) -> Sequence[Run]:
        def work(connection: Connection) -> list[Run]:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT {COLUMNS} {JOIN} WHERE r.status IN ('new', 'running')"
                    " AND r.time <= NOW() - INTERVAL %s SECOND ORDER BY r.run_id",
                    (int(older_than_seconds),),
                )
                return [_run(row) for row in cursor.fetchall()]

        return await self._pool.run(work)

    async def mark_running(self, run_id: int, runner: str, attempts: int) -> None:
        def work(connection: Connection) -> None:
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE Runs SET status = 'running', runner = %s, attempts = %s"
                    " WHERE run_id = %s AND status <> 'ready'",
                    (runner, attempts, run_id),
                )

        await self._pool.run(work)

    async def finish(self, run_id: int, runner: str, result: Result) -> None:
        def work(connection: Connection) -> None:
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE Runs SET status = 'ready', runner = %s, verdict = %s, score = %s, time_ms = %s,"
                    " memory_bytes = %s WHERE run_id = %s",
                    (runner, result.verdict, result.score, result.time_ms, result.memory_bytes, run_id),
                )

        await self._pool.run(work)

    async def ping(self) -> None:
        def check(connection: Connection) -> None:
            check_writable(connection)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 {JOIN} LIMIT 1")

        await self._pool.probe(check)

    async def close(self) -> None:
        await self._pool.close()


class MemoryStore:
    """Store for tests: forgets at exit. `down` makes every operation fail as an absent database would."""

    def __init__(self) -> None:
        self.down = False
        self.runs: dict[int, Run] = {}
        self.states: dict[int, Status] = {}

    def _check(self) -> None:
        if self.down:
            raise DatabaseDown("Can't connect to MySQL server (2003)")

    def _find(self, submission_id: str) -> Run | None:
        return next((run for run in self.runs.values() if run.submission.submission_id == submission_id), None)

    async def add(self, submission: Submission) -> Run | None:
        self._check()
        run = self._find(submission.submission_id)
        if run is None:
            run = Run(len(self.runs) + 1, submission)
            self.runs[run.run_id] = run
            self.states[run.run_id] = Status(run.run_id, "new", None)
        if run.submission != submission:
            raise Conflict(submission.submission_id)
        return None if self.states[run.run_id].state == "ready" else run

    async def status(self, submission_id: str) -> Status | None:
        self._check()
        run = self._find(submission_id)
        return self.states[run.run_id] if run is not None else None

    async def unfinished(self, older_than_seconds: float) -> Sequence[Run]:
        self._check()
        return [run for run in self.runs.values() if self.states[run.run_id].state != "ready"]

    async def mark_running(self, run_id: int, runner: str, attempts: int) -> None:
        self._check()
        run = self.runs[run_id]
        self.runs[run_id] = Run(run_id, run.submission, attempts)
        if self.states[run_id].state != "ready":
            self.states[run_id] = Status(run_id, "running", None)

    async def finish(self, run_id: int, runner: str, result: Result) -> None:
        self._check()
        self.states[run_id] = Status(run_id, "ready", result)

    async def ping(self) -> None:
        self._check()

    async def close(self) -> None:
        return None
