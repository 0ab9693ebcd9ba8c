"""The judge end to end: grader, gitserver, broadcaster and runners in one event loop, over real mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from omegaup_services.broadcaster import Broadcaster
from omegaup_services.gitserver import Gitserver
from omegaup_services.grader.app import Grader
from omegaup_services.grader.store import MemoryStore
from omegaup_services.runner.app import Runner

from tests.unit.services.support import (
    Authority,
    Client,
    broadcaster_config,
    context,
    free_port,
    gitserver_config,
    grader_config,
    runner_config,
    running,
    until,
)

SUBMISSION = {"problem": "sumas", "language": "py3", "source": "print(sum(map(int, input().split())))"}


@dataclass
class Judge:
    """A grader with what it needs, and clients of each role."""

    ca: Authority
    store: MemoryStore
    grader: Grader
    gitserver: Gitserver
    broadcaster: Broadcaster
    frontend: Client
    monitoring: Client
    runner: Client

    async def state(self, submission_id: str) -> dict[str, Any]:
        status, answer = await self.frontend.get(f"/submission/status/{submission_id}")
        assert status == 200
        return dict(answer)

    async def verdict(self, submission_id: str) -> dict[str, Any]:
        """Wait for it."""
        async with asyncio.timeout(5):
            while (answer := await self.state(submission_id))["state"] != "ready":
                await asyncio.sleep(0.02)
        return answer

    async def register(self, name: str, **more: Any) -> None:
        assert (await self.runner.post("/run/register", {"name": name, "slots": 1, **more}))[0] == 200

    async def take(self, name: str, **headers: str) -> tuple[int, Any]:
        return await self.runner.get("/run/request/", headers={"OmegaUp-Runner-Name": name, **headers})

    async def report(self, work: dict[str, Any], verdict: str = "WA") -> int:
        body = {"lease": work["lease"], "verdict": verdict, "score": 0.5, "time_ms": 7, "memory_bytes": 9}
        return (await self.runner.post(f"/run/result/{work['id']}", body))[0]

    def add_runner(self, **options: Any) -> Runner:
        return Runner(runner_config(self.ca, self.grader.ports[1], **options))


@contextlib.asynccontextmanager
async def judge(ca: Authority, root: Path, store: MemoryStore | None = None, **queue: float) -> AsyncIterator[Judge]:
    store = store or MemoryStore()
    async with (
        running(Gitserver(gitserver_config(ca, root))) as gitserver,
        running(Broadcaster(broadcaster_config(ca))) as broadcaster,
    ):
        config = grader_config(ca, gitserver.ports[0], broadcaster.ports[0], **queue)
        assert isinstance(gitserver, Gitserver)
        assert isinstance(broadcaster, Broadcaster)
        async with running(Grader(config, store)) as grader:
            assert isinstance(grader, Grader)
            front, back = grader.ports
            frontend = context(ca.path, ca.issue("frontend"))
            writer = Client(gitserver.ports[0], frontend)
            assert (await writer.put("/problem/sumas/settings", {"limits": {"time": "1s"}}))[0] == 201
            yield Judge(
                ca,
                store,
                grader,
                gitserver,
                broadcaster,
                Client(front, frontend),
                Client(front, context(ca.path, ca.issue("monitoring"))),
                Client(back, context(ca.path, ca.issue("runner"))),
            )


def test_submission_to_verdict_to_subscriber(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it, running(it.add_runner()):
            stream = f"https://127.0.0.1:{it.broadcaster.ports[0]}/events/?contest=omi"
            tls = context(ca.path, ca.issue("frontend"))
            async with aiohttp.ClientSession() as session, session.get(stream, ssl=tls) as events:
                assert await events.content.readuntil(b": connected\n")
                body = {**SUBMISSION, "contest": "omi", "submission_id": "s-1"}
                assert await it.frontend.post("/submission/new", body) == (200, {"status": "ok", "id": "s-1"})
                answer = await it.verdict("s-1")
                assert answer["verdict"] == "AC"
                assert answer["score"] == 1.0
                async with asyncio.timeout(5):
                    while not (line := await events.content.readline()).startswith(b"data: "):
                        pass
                event = json.loads(line.removeprefix(b"data: "))
                assert event["submission_id"] == "s-1"
                assert event["verdict"] == "AC"
            status, health = await it.monitoring.get("/health")
            assert (status, health["status"]) == (200, "ok")
            assert set(health["checks"]) == {"mysql", "gitserver", "broadcaster", "runners"}
            text = (await it.monitoring.get("/metrics"))[1].splitlines()
            assert 'grader_queue_length{queue="contest"} 0.0' in text
            assert 'grader_queue_length{queue="normal"} 0.0' in text
            assert "grader_submissions_total 1.0" in text
            assert "grader_runners_available 1.0" in text

    asyncio.run(go())


def test_roles_at_both_ports(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            front, back = it.grader.ports
            expected = {
                ("frontend", front, "/grader/status/"): 200,
                ("frontend", front, "/health"): 200,
                ("monitoring", front, "/metrics"): 200,
                ("monitoring", front, "/submission/status/x"): 403,
                ("grader", front, "/health"): 200,
                ("grader", front, "/submission/status/x"): 403,
                ("runner", front, "/submission/status/x"): 403,
                ("runner", front, "/health"): 403,
                ("frontend", back, "/run/request/"): 403,
                ("frontend", back, "/health"): 403,
                ("monitoring", back, "/run/request/"): 403,
                ("monitoring", back, "/health"): 403,
                ("runner", back, "/run/request/"): 400,
                ("runner", back, "/submission/status/x"): 404,
            }
            for (role, port, path), status in expected.items():
                client = Client(port, context(ca.path, ca.issue(role, f"client-{role}")))
                assert (await client.get(path))[0] == status, (role, port, path)

    asyncio.run(go())


def test_bad_submissions_are_refused(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            bad: list[object] = [
                [],
                {},
                {**SUBMISSION, "problem": "../etc"},
                {**SUBMISSION, "problem": 3},
                {**SUBMISSION, "source": "x" * 200_000},
                {**SUBMISSION, "source": "\ud800"},
                {**SUBMISSION, "sauce": ""},
            ]
            for body in bad:
                assert (await it.frontend.post("/submission/new", body))[0] == 400, body
            assert (await it.frontend.get("/submission/status/nobody"))[0] == 404

    asyncio.run(go())


def test_repeating_a_submission_changes_nothing(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            body = {**SUBMISSION, "submission_id": "once"}
            for _ in range(3):
                assert (await it.frontend.post("/submission/new", body))[0] == 200
            assert it.grader.desk.queue.lengths() == {"contest": 0, "normal": 1}
            assert (await it.frontend.post("/submission/new", {**body, "source": "other"}))[0] == 409

    asyncio.run(go())


def test_expired_lease_gives_the_run_to_another_runner(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path, lease_seconds=0.3) as it:
            await it.register("silent")
            await it.register("lively")
            _, answer = await it.frontend.post("/submission/new", SUBMISSION)
            status, work = await it.take("silent")
            assert status == 200
            assert work["settings"] == {"limits": {"time": "1s"}}
            assert (await it.state(answer["id"]))["state"] == "running"
            status, again = await it.take("lively")  # held open until the first lease is over
            assert status == 200
            assert (again["id"], again["attempt"]) == (work["id"], 2)
            assert await it.report(work, "AC") == 409, "who lost the lease must not answer"
            assert await it.report(again, "WA") == 200
            assert (await it.verdict(answer["id"]))["verdict"] == "WA"
            assert await it.report(again, "AC") == 409, "a verdict is given once"

    asyncio.run(go())


def test_run_that_no_runner_finishes_is_a_judge_error(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path, lease_seconds=0.1, max_attempts=2) as it:
            await it.register("silent")
            _, answer = await it.frontend.post("/submission/new", SUBMISSION)
            for _ in range(2):
                assert (await it.take("silent"))[0] == 200
            assert (await it.verdict(answer["id"]))["verdict"] == "JE"

    asyncio.run(go())


def test_runner_that_restarts_or_lost_the_answer_gives_its_run_back(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            await it.register("r", instance="a")
            await it.frontend.post("/submission/new", SUBMISSION)
            _, first = await it.take("r")
            await it.register("r", instance="b")
            status, second = await it.take("r")
            assert (status, second["id"], second["attempt"]) == (200, first["id"], 1)
            assert (await it.runner.post("/run/unregister", {"name": "r", "instance": "b"}))[0] == 200
            assert (await it.take("r"))[0] == 409
            assert it.grader.desk.queue.lengths()["normal"] == 1

    asyncio.run(go())


def test_restart_loses_nothing(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        store = MemoryStore()
        async with judge(ca, tmp_path / "a", store) as it:
            await it.register("r")
            _, running_one = await it.frontend.post("/submission/new", SUBMISSION)
            _, waiting_one = await it.frontend.post("/submission/new", SUBMISSION)
            assert (await it.take("r"))[0] == 200
        async with judge(ca, tmp_path / "b", store) as it, running(it.add_runner()):
            for answer in (running_one, waiting_one):
                assert (await it.verdict(answer["id"]))["verdict"] == "AC"

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    asyncio.run(go())


def test_database_down_is_named_and_survived(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        store = MemoryStore()
        store.down = True
        async with judge(ca, tmp_path, store) as it:  # starts all the same
            status, health = await it.monitoring.get("/health")
            assert status == 503
            assert "2003" in health["checks"]["mysql"]
            assert health["checks"]["gitserver"] == "ok"
            status, answer = await it.frontend.post("/submission/new", SUBMISSION)
            assert (status, answer["error"][:6]) == (503, "mysql:")
            store.down = False
            await it.register("r")
            status, answer = await it.frontend.post("/submission/new", SUBMISSION)
            assert status == 200
            _, work = await it.take("r")
            store.down = True
            assert await it.report(work) == 503, "the runner keeps the result"
            store.down = False
            assert await it.report(work) == 200
            assert (await it.verdict(answer["id"]))["verdict"] == "WA"

    asyncio.run(go())


def test_gitserver_down_delays_and_does_not_judge(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            await it.register("r")
            (tmp_path / "problems" / "sumas" / "settings.json").rename(tmp_path / "kept")
            _, answer = await it.frontend.post("/submission/new", SUBMISSION)
            assert (await it.take("r"))[0] == 204
            assert (await it.verdict(answer["id"]))["verdict"] == "JE", "a problem that is not there has no verdict"
            (tmp_path / "kept").rename(tmp_path / "problems" / "sumas" / "settings.json")

            _, answer = await it.frontend.post("/submission/new", SUBMISSION)
            await it.gitserver.stop()
            assert (await it.take("r"))[0] == 204
            assert (await it.state(answer["id"]))["state"] == "new"
            assert it.grader.desk.queue.lengths()["normal"] == 1
            status, health = await it.monitoring.get("/health")
            assert (status, health["checks"]["mysql"]) == (503, "ok")
            assert health["checks"]["gitserver"] != "ok"

    asyncio.run(go())


def test_contests_come_before_practice(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            await it.register("r")
            for name, more in (("n1", {}), ("n2", {}), ("c1", {"contest": "omi"}), ("c2", {"contest": "omi"})):
                await it.frontend.post("/submission/new", {**SUBMISSION, "submission_id": name, **more})
            _, status = await it.frontend.get("/grader/status/")
            assert status["queues"] == {"contest": 2, "normal": 2}
            order = [(await it.take("r"))[1]["submission"]["id"] for _ in range(4)]
            assert order == ["c1", "c2", "n1", "n2"]

    asyncio.run(go())


def test_work_is_not_given_to_a_runner_that_has_gone(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path, poll_seconds=5.0) as it:
            await it.register("gone")
            await it.register("here")
            poll = asyncio.create_task(it.take("gone"))
            await until(lambda: bool(it.grader.desk.queue._takers))
            poll.cancel()
            await asyncio.wait([poll])
            await asyncio.sleep(0.1)
            await it.frontend.post("/submission/new", SUBMISSION)
            status, work = await it.take("here")
            assert (status, work["attempt"]) == (200, 1)

    asyncio.run(go())


def test_runner_waits_for_its_grader_and_tells(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            nowhere = Runner(runner_config(ca, free_port()))
            async with running(nowhere), running(it.add_runner(name="runner-2")) as contented:
                tls = context(ca.path, ca.issue("monitoring"))
                status, health = await Client(nowhere.ports[0], tls).get("/health")
                assert status == 503
                assert "never heard" in health["checks"]["grader"]
                assert await Client(contented.ports[0], tls).get("/health") == (
                    200,
                    {"status": "ok", "checks": {"grader": "ok"}},
                )
                frontend = Client(contented.ports[0], context(ca.path, ca.issue("frontend")))
                assert (await frontend.get("/health"))[0] == 403
            assert it.grader.desk.runners.available() == [], "a runner that stops takes its leave"

    asyncio.run(go())


def test_stopping_runner_finishes_what_it_has(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            runner = it.add_runner(noop_seconds=0.3)
            async with running(runner):
                _, answer = await it.frontend.post("/submission/new", SUBMISSION)
                await until(lambda: bool(runner._holding))
            assert (await it.state(answer["id"]))["verdict"] == "AC"

    asyncio.run(go())


def test_runner_registers_again_when_the_grader_forgot_it(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path, poll_seconds=0.1) as it, running(it.add_runner()):
            await until(lambda: len(it.grader.desk.runners.available()) == 1)
            it.grader.desk.runners._runners.clear()
            await until(lambda: len(it.grader.desk.runners.available()) == 1)

    asyncio.run(go())
