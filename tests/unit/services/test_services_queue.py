"""The queue of runs by itself, with a clock that the test moves."""

from __future__ import annotations

import asyncio

from omegaup_services.grader.model import Run, Submission
from omegaup_services.grader.queue import RunQueue
from omegaup_services.grader.runners import Runners


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def run(number: int, contest: str | None = None) -> Run:
    return Run(number, Submission(f"s{number}", "p", "py3", "", contest))


def always() -> bool:
    return True


def never() -> bool:
    return False


def test_a_run_is_queued_once_and_not_after_its_verdict() -> None:
    clock = Clock()
    queue = RunQueue(10, clock)
    read_at = clock.time
    assert queue.add(run(1), read_at)
    assert not queue.add(run(1), read_at)
    queue.finish(1)
    assert not queue.add(run(1), read_at), "the database was read before the verdict"
    clock.time += 1
    assert queue.add(run(1), clock.time), "read after the verdict: somebody asked for it again"


def test_expired_leases_are_charged_and_others_are_not() -> None:
    async def go() -> None:
        clock = Clock()
        queue = RunQueue(10, clock)
        queue.add(run(1), 0)
        lease = await queue.take("r", 0, always)
        assert lease is not None
        assert queue.find(1, lease.token) == lease
        assert queue.find(1, "guess") is None
        assert queue.expired() == []
        clock.time += 10
        assert queue.expired() == [lease]
        queue.give_back(lease, charge=True)
        assert queue.find(1, lease.token) is None
        second = await queue.take("r", 0, always)
        assert second is not None
        assert second.run.attempts == 2
        queue.give_back(lease, charge=True)  # the old one: no effect
        assert queue.find(1, second.token) == second
        queue.give_back(second)
        third = await queue.take("r", 0, always)
        assert third is not None
        assert third.run.attempts == 2

    asyncio.run(go())


def test_given_back_goes_first_and_a_delay_holds_it() -> None:
    async def go() -> None:
        queue = RunQueue(10)
        for number in (1, 2):
            queue.add(run(number), 0)
        first = await queue.take("r", 0, always)
        assert first is not None
        queue.give_back(first, 0.05)
        assert queue.lengths()["normal"] == 2
        second = await queue.take("r", 0, always)
        assert second is not None
        assert second.run.run_id == 2
        again = await queue.take("r", 1, always)
        assert again is not None
        assert again.run.run_id == 1

    asyncio.run(go())


def test_a_wake_up_is_not_lost_with_the_one_who_was_woken() -> None:
    async def go() -> None:
        queue = RunQueue(10)
        cancelled = asyncio.create_task(queue.take("a", 5, always))
        gone = asyncio.create_task(queue.take("b", 5, lambda: not left))
        left: list[int] = []
        patient = asyncio.create_task(queue.take("c", 5, always))
        await asyncio.sleep(0)
        left.append(1)
        queue.add(run(1), 0)
        cancelled.cancel()
        lease = await asyncio.wait_for(patient, 1)
        assert lease is not None
        assert lease.runner == "c"
        assert await gone is None

    asyncio.run(go())


def test_nothing_for_the_dead_and_none_after_closing() -> None:
    async def go() -> None:
        queue = RunQueue(10)
        queue.add(run(1), 0)
        assert await queue.take("r", 1, never) is None
        assert queue.lengths()["normal"] == 1
        queue.finish(1)
        waiting = asyncio.create_task(queue.take("r", 60, always))
        await asyncio.sleep(0)
        queue.close()
        assert await asyncio.wait_for(waiting, 1) is None

    asyncio.run(go())


def test_what_the_runner_does_not_hold_is_given_back_when_it_is_old_enough() -> None:
    async def go() -> None:
        clock = Clock()
        queue = RunQueue(1000, clock)
        for number in (1, 2):
            queue.add(run(number), 0)
            await queue.take("r", 0, always)
        assert queue.release_lost("r", {1}, 5.0) == 0, "the answer may still be on its way"
        clock.time += 5
        assert queue.release_lost("other", (), 5.0) == 0
        assert queue.release_lost("r", {1}, 5.0) == 1
        assert [lease.run.run_id for lease in queue.held_by("r")] == [1]

    asyncio.run(go())


def test_silent_runners_are_forgotten() -> None:
    clock = Clock()
    runners = Runners(60, clock)
    assert runners.register("r", "a", 2) is False
    assert runners.register("r", "a", 2) is False
    assert runners.register("r", "b", 2) is True
    assert runners.unregister("r", "a") is False
    clock.time += 60
    assert runners.touch("r") is not None
    clock.time += 61
    assert runners.touch("r") is None
    assert runners.available() == []
