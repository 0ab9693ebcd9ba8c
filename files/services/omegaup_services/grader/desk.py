"""What the grader decides: which submissions to take, what becomes of a run, what is queued again after a
restart.

The store is written first and memory follows, so that a crash in between judges a run twice rather than
never.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..checks import NAME, matching, only_keys
from ..config import GraderConfig
from ..database import DatabaseDown
from ..httpd import ApiError
from ..links import LinkDown
from ..logs import fields
from ..metrics import Metrics
from ..verdicts import VERDICTS
from .model import Conflict, Result, Status, Store, Submission
from .queue import QUEUES, Lease, RunQueue
from .runners import Runners
from .upstream import Events, NoSuchProblem, ProblemSettings

log = logging.getLogger(__name__)

JUDGE_ERROR = Result("JE", 0.0, 0, 0)
RECOVER_SECONDS = 2.0  # between attempts to read unfinished runs while the database is away
GITSERVER_PAUSE_SECONDS = 1.0


class Desk:
    """Queue, runners and store of one grader. For the event loop only."""

    def __init__(
        self, config: GraderConfig, store: Store, settings: ProblemSettings, events: Events, metrics: Metrics
    ) -> None:
        self._config = config.queue
        self._max_source_bytes = config.max_source_bytes
        self._store = store
        self._settings = settings
        self._events = events
        self.queue = RunQueue(config.queue.lease_seconds)
        self.runners = Runners(config.queue.runner_timeout_seconds)
        self._recovered = False
        self._submissions = metrics.counter("grader_submissions", "Submissions queued since start.")
        self._verdicts = metrics.counted("grader_verdicts", "Verdicts recorded.", "verdict", VERDICTS)
        self._expired = metrics.counter("grader_leases_expired", "Runs taken from a runner that did not report.")
        self._make_gauges(metrics)

    def _make_gauges(self, metrics: Metrics) -> None:
        length = metrics.gauge("grader_queue_length", "Runs that wait for a runner.", "queue")
        for name in QUEUES:
            # A function of the name, or every gauge would show the loop's last one.
            length.labels(name).set_function(self._length_of(name))
        leased = metrics.gauge("grader_runs_leased", "Runs that runners hold.")
        leased.set_function(lambda: self.queue.leased)
        available = metrics.gauge("grader_runners_available", "Runners heard of lately.")
        available.set_function(lambda: len(self.runners.available()))

    def _length_of(self, name: str) -> Any:
        return lambda: self.queue.lengths()[name]

    # Submissions

    async def submit(self, data: Mapping[str, Any]) -> str:
        """Validate, store and queue; returns the submission's id. Repeating it with the same id changes
        nothing.

        Raises ApiError: 400, 409 (the id exists with other contents), 503 (no database).
        """
        submission = self._submission(data)
        read_at = self.queue.now()
        try:
            run = await self._store.add(submission)
        except DatabaseDown as error:
            raise ApiError(503, f"mysql: {error}") from None
        except Conflict:
            raise ApiError(409, "submission_id: exists with other contents") from None
        if run is not None and self.queue.add(run, read_at):
            self._submissions.inc()
        return submission.submission_id

    def _submission(self, data: Mapping[str, Any]) -> Submission:
        only_keys(data, "submission_id", "problem", "language", "source", "contest")
        source = data.get("source")
        try:
            size = len(source.encode()) if isinstance(source, str) else -1
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
            size = -1
        if not isinstance(source, str) or not 0 <= size <= self._max_source_bytes:
            raise ApiError(400, f"source: expected a string of at most {self._max_source_bytes} bytes")
        return Submission(
            submission_id=matching(data, "submission_id", NAME) if "submission_id" in data else uuid.uuid4().hex,
            problem=matching(data, "problem", NAME),
            language=matching(data, "language", NAME),
            source=source,
            contest=matching(data, "contest", NAME) if data.get("contest") is not None else None,
        )

    async def status(self, submission_id: str) -> Status:
        """Raises ApiError: 404, 503 (no database)."""
        try:
            status = await self._store.status(submission_id)
        except DatabaseDown as error:
            raise ApiError(503, f"mysql: {error}") from None
        if status is None:
            raise ApiError(404, "no such submission")
        return status

    # Runs

    async def work(self, lease: Lease) -> dict[str, Any] | None:
        """What the runner is sent, or None if the run cannot be given out now; the lease has then been
        ended.
        """
        run = lease.run
        try:
            settings = await self._settings.get(run.submission.problem)
        except LinkDown as error:
            # Not the submission's fault: it waits. The pause keeps runners from cycling through a long queue.
            log.warning("problem settings unavailable", extra=fields(run=run.run_id, error=str(error)))
            self.queue.give_back(lease, GITSERVER_PAUSE_SECONDS)
            await asyncio.sleep(GITSERVER_PAUSE_SECONDS)
            return None
        except NoSuchProblem:
            log.error("no such problem", extra=fields(run=run.run_id, problem=run.submission.problem))
            await self._give_up(lease)
            return None
        try:
            await self._store.mark_running(run.run_id, lease.runner, run.attempts)
        except DatabaseDown as error:
            # It stays 'new' there, which after a restart means the same: to be judged.
            log.warning("cannot mark as running", extra=fields(run=run.run_id, error=str(error)))
        return {
            "status": "ok",
            "id": run.run_id,
            "lease": lease.token,
            "lease_seconds": self._config.lease_seconds,
            "attempt": run.attempts,
            "submission": {
                "id": run.submission.submission_id,
                "problem": run.submission.problem,
                "language": run.submission.language,
                "source": run.submission.source,
            },
            "settings": settings,
        }

    async def record(self, lease: Lease, result: Result) -> None:
        """The run has its verdict. Raises DatabaseDown, and then the lease goes on."""
        run = lease.run
        await self._store.finish(run.run_id, lease.runner, result)
        self.queue.finish(run.run_id)
        self._verdicts.labels(result.verdict).inc()
        self._events.send(
            {
                "contest": run.submission.contest,
                "event": "run",
                "data": {
                    "submission_id": run.submission.submission_id,
                    "run_id": run.run_id,
                    "problem": run.submission.problem,
                    "verdict": result.verdict,
                    "score": result.score,
                },
            }
        )

    async def _give_up(self, lease: Lease) -> None:
        try:
            await self.record(lease, JUDGE_ERROR)
        except DatabaseDown:
            self.queue.give_back(lease, RECOVER_SECONDS)

    # What goes on beside requests

    async def recover(self) -> None:
        """Queue what the database shows as unfinished and memory does not know. Raises DatabaseDown.

        The first time that is everything; later only what has not been touched for a sweep's interval.
        """
        read_at = self.queue.now()
        runs = await self._store.unfinished(self._config.sweep_seconds if self._recovered else 0)
        # The lease that was in force when we stopped is not held against the submission.
        added = sum(self.queue.add(replace(run, attempts=max(0, run.attempts - 1)), read_at) for run in runs)
        self.queue.forget_finished(read_at)
        self._recovered = True
        if added:
            log.info("unfinished runs queued", extra=fields(runs=added))

    async def keep_recovering(self) -> None:
        """For ever: soon while the database has not been read yet, then at the sweep's interval."""
        while True:
            await asyncio.sleep(self._config.sweep_seconds if self._recovered else RECOVER_SECONDS)
            try:
                await self.recover()
            except DatabaseDown as error:
                log.warning("cannot read unfinished runs", extra=fields(error=str(error)))

    async def keep_expiring(self) -> None:
        """For ever: give runs of silent runners to others, and runners not heard of the farewell."""
        while True:
            await asyncio.sleep(min(1.0, self._config.lease_seconds / 4))
            for name in self.runners.prune():
                log.warning("runner is silent", extra=fields(runner=name))
            for lease in self.queue.expired():
                self._expired.inc()
                log.warning("lease expired", extra=fields(run=lease.run.run_id, runner=lease.runner))
                if lease.run.attempts < self._config.max_attempts:
                    self.queue.give_back(lease, charge=True)
                else:
                    await self._give_up(lease)
