"""What the grader speaks of, and the seam to its database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Submission:
    """`contest` None: practice, queued as normal."""

    submission_id: str
    problem: str
    language: str
    source: str
    contest: str | None = None

    @property
    def queue(self) -> str:
        return "contest" if self.contest is not None else "normal"


@dataclass(frozen=True)
class Run:
    """A submission that waits for a verdict. `attempts`: how many runners have been given it."""

    run_id: int
    submission: Submission
    attempts: int = 0


@dataclass(frozen=True)
class Result:
    """`score` 0..1; JE (judge error) when no runner could finish it."""

    verdict: str
    score: float
    time_ms: int
    memory_bytes: int


@dataclass(frozen=True)
class Status:
    """A submission as the frontend sees it: `state` is new, running or ready (then with a result)."""

    run_id: int
    state: str
    result: Result | None


class Conflict(Exception):
    """The submission id exists already, with other contents."""


class Store(Protocol):
    """Durable state. Every method may raise DatabaseDown, and may be called again after it has."""

    async def add(self, submission: Submission) -> Run | None:
        """Record it; the run to queue, or None if it already has its verdict. Raises Conflict."""

    async def status(self, submission_id: str) -> Status | None: ...

    async def unfinished(self, older_than_seconds: float) -> Sequence[Run]:
        """Runs without a verdict, untouched for that long, oldest first."""

    async def mark_running(self, run_id: int, runner: str, attempts: int) -> None: ...

    async def finish(self, run_id: int, runner: str, result: Result) -> None: ...

    async def ping(self) -> None:
        """Raises what is wrong if a write would fail now."""

    async def close(self) -> None: ...
