"""Runs that wait and runs that are leased, in memory; `Store` holds what must survive the process.

A lease is a promise to report within a time. The token makes it the runner's own: who lost a lease cannot
answer for who has it now. Not thread-safe: for the event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from .model import Run

QUEUES = ("contest", "normal")  # in order of urgency


@dataclass(frozen=True)
class Lease:
    """`since` and `until` are of the queue's clock (seconds, monotonic)."""

    run: Run
    runner: str
    token: str
    since: float
    until: float


class RunQueue:
    """First in, first out within a queue; contests before practice."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._runs: dict[int, Run] = {}  # all that have no verdict yet: waiting, delayed or leased
        self._waiting: dict[str, deque[int]] = {name: deque() for name in QUEUES}
        self._delayed: dict[int, asyncio.TimerHandle] = {}
        self._leases: dict[int, Lease] = {}
        self._finished: dict[int, float] = {}
        self._takers: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def now(self) -> float:
        return self._clock()

    def lengths(self) -> dict[str, int]:
        """Runs not yet with a runner, by queue name."""
        lengths = dict.fromkeys(QUEUES, 0)
        for run_id, run in self._runs.items():
            if run_id not in self._leases:
                lengths[run.submission.queue] += 1
        return lengths

    @property
    def leased(self) -> int:
        return len(self._leases)

    def add(self, run: Run, read_at: float) -> bool:
        """Queue a run that the database showed as unfinished at `read_at`. False if it is known, or finished
        since.
        """
        if run.run_id in self._runs or self._finished.get(run.run_id, -1.0) >= read_at:
            return False
        self._runs[run.run_id] = run
        self._append(run, front=False)
        return True

    async def take(self, runner: str, seconds: float, alive: Callable[[], bool]) -> Lease | None:
        """The most urgent run, leased to `runner`; waits up to `seconds` for one. None: there was none, the
        queue was closed, or `alive` said that the asker has gone (a dead asker must not be given work).
        """
        deadline = self._clock() + seconds
        while alive() and not self._closed:
            run = self._pop()
            if run is not None:
                return self._lease(run, runner)
            remaining = deadline - self._clock()
            if remaining <= 0:
                return None
            await self._wait(remaining)
        self._wake()  # we may have been woken for work that another should now have
        return None

    def find(self, run_id: int, token: str) -> Lease | None:
        """The lease, if it is still in force and the token is its own."""
        lease = self._leases.get(run_id)
        return lease if lease is not None and secrets.compare_digest(lease.token, token) else None

    def give_back(self, lease: Lease, delay: float = 0.0, *, charge: bool = False) -> None:
        """End a lease without a verdict: the run waits again, before others, after `delay` seconds. Unless
        `charge`d, the attempt does not count: it was not the runner's nor the submission's fault.
        """
        if self._leases.get(lease.run.run_id) != lease:
            return
        del self._leases[lease.run.run_id]
        run = lease.run if charge else replace(lease.run, attempts=lease.run.attempts - 1)
        self._runs[run.run_id] = run
        if delay > 0:
            self._delayed[run.run_id] = asyncio.get_running_loop().call_later(delay, self._append, run, True)
        else:
            self._append(run, front=True)

    def finish(self, run_id: int) -> None:
        """The verdict is recorded: forget the run, wherever it is."""
        self._runs.pop(run_id, None)
        self._leases.pop(run_id, None)
        timer = self._delayed.pop(run_id, None)
        if timer is not None:
            timer.cancel()
        self._finished[run_id] = self._clock()

    def forget_finished(self, before: float) -> None:
        """Drop what is only needed against reads that began before `before`."""
        self._finished = {run_id: at for run_id, at in self._finished.items() if at >= before}

    def expired(self) -> list[Lease]:
        """Leases that are past their time; they stay in force until given back or finished."""
        return [lease for lease in self._leases.values() if lease.until <= self._clock()]

    def held_by(self, runner: str) -> list[Lease]:
        return [lease for lease in self._leases.values() if lease.runner == runner]

    def release_lost(self, runner: str, holding: Collection[int], older_than: float) -> int:
        """Give back what we think `runner` holds and it says it does not: the answer that carried it was
        lost.

        Leases younger than `older_than` seconds are left: their answer may be on its way. Returns how many.
        """
        lost = [
            lease
            for lease in self.held_by(runner)
            if lease.run.run_id not in holding and self._clock() - lease.since >= older_than
        ]
        for lease in lost:
            self.give_back(lease)
        return len(lost)

    def close(self) -> None:
        """Send every waiting `take` home."""
        self._closed = True
        for timer in self._delayed.values():
            timer.cancel()
        for taker in self._takers:
            if not taker.done():
                taker.set_result(None)

    def _append(self, run: Run, front: bool) -> None:
        self._delayed.pop(run.run_id, None)
        waiting = self._waiting[run.submission.queue]
        if front:
            waiting.appendleft(run.run_id)
        else:
            waiting.append(run.run_id)
        self._wake()

    def _pop(self) -> Run | None:
        for name in QUEUES:
            while self._waiting[name]:
                run = self._runs.get(self._waiting[name].popleft())
                if run is not None:  # else it was finished while it waited
                    return run
        return None

    def _lease(self, run: Run, runner: str) -> Lease:
        run = replace(run, attempts=run.attempts + 1)
        self._runs[run.run_id] = run
        now = self._clock()
        lease = Lease(run, runner, secrets.token_hex(16), now, now + self._lease_seconds)
        self._leases[run.run_id] = lease
        return lease

    async def _wait(self, seconds: float) -> None:
        taker = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            # Not wait_for, which in Python 3.11 swallows a cancellation that comes just after the result.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await taker
        except asyncio.CancelledError:
            self._wake()  # the call that woke us must not be lost with us
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._takers.remove(taker)

    def _wake(self) -> None:
        if not any(self._waiting.values()):
            return
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return
