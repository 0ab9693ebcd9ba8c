"""The grader service: port 21680 for the frontend, port 11302 for runners. One process a database.

Two graders on one database would judge each other's runs again; preventing a second one is the deployment's.
"""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from ..checks import LABEL, NAME, NUMBER, matching, number, only_keys, whole
from ..config import GraderConfig
from ..database import DatabaseDown
from ..health import Unwell
from ..httpd import ApiError, json_object, roles
from ..links import Link
from ..logs import fields
from ..service import Service, service_main
from ..verdicts import VERDICTS
from .desk import Desk
from .model import Result, Store
from .store import MysqlStore
from .submissions import SubmissionQueue
from .upstream import Events, ProblemSettings, reachable

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0  # after which a lease that the runner does not know of was lost on its way to it

FRONT_RULES = {
    "/submission/": roles("frontend"),
    "/grader/": roles("frontend", "monitoring"),
    "/health": roles("frontend", "monitoring", "grader"),
    "/metrics": roles("frontend", "monitoring", "grader"),
}
RUNNER_RULES = {
    "/run/": roles("runner"),
    "/health": roles("runner", "grader"),
    "/metrics": roles("runner", "grader"),
}


class Grader(Service):
    def __init__(self, config: GraderConfig, store: Store | None = None) -> None:
        """`store` is for tests; without it the database of the configuration is used."""
        super().__init__("grader", config)
        self._config = config.queue
        self._store: Store = store if store is not None else MysqlStore(config.mysql)
        self._gitserver = Link(config.gitserver.url, config.gitserver.timeout_seconds, self.tls)
        self._broadcaster = Link(config.broadcaster.url, config.broadcaster.timeout_seconds, self.tls)
        lost = self.metrics.counter("grader_events_lost", "Events that the broadcaster never got.")
        self._events = Events(self._broadcaster, lost)
        settings = ProblemSettings(self._gitserver, config.gitserver.cache_seconds)
        self.desk = Desk(config, self._store, settings, self._events, self.metrics)
        self._submissions: SubmissionQueue | None = None
        if config.rabbitmq is not None:
            self._submissions = SubmissionQueue(
                config.rabbitmq, config.submission_queue, config.dead_letters, self.desk.submit
            )
        self._add_checks()
        self._add_routes(config)

    def _add_checks(self) -> None:
        async def some_runner() -> None:
            if not self.desk.runners.available():
                raise Unwell("none available")

        self.health.add("mysql", self._store.ping)
        self.health.add("gitserver", lambda: reachable(self._gitserver))
        # Without these no verdict is wrong or lost, so that a balancer must not take the grader away.
        self.health.add("broadcaster", lambda: reachable(self._broadcaster), required=False)
        self.health.add("runners", some_runner, required=False)
        if self._submissions is not None:
            self.health.add("rabbitmq", self._submissions.check, required=False)

    def _add_routes(self, config: GraderConfig) -> None:
        # A source may grow sixfold as JSON, which can spell each byte as \u00xx.
        front = self.serve(config.listen, FRONT_RULES, 6 * config.max_source_bytes + 64 * 1024)
        front.router.add_post("/submission/new", self._new)
        front.router.add_get("/submission/status/{id}", self._submission_status)
        front.router.add_post("/submission/status/{id}", self._submission_status)
        front.router.add_get("/grader/status/", self._grader_status)
        back = self.serve(config.runners_listen, RUNNER_RULES)
        back.router.add_post("/run/register", self._register)
        back.router.add_post("/run/unregister", self._unregister)
        back.router.add_get("/run/request/", self._request)
        back.router.add_post("/run/result/{id}", self._result)

    # Life

    async def opened(self) -> None:
        await self._gitserver.open()
        await self._broadcaster.open()
        try:
            await self.desk.recover()
        except DatabaseDown as error:
            log.error("started without the database", extra=fields(error=str(error)))
        self.spawn(self._events.run())
        self.spawn(self.desk.keep_expiring())
        self.spawn(self.desk.keep_recovering())
        if self._submissions is not None:
            self._submissions.start()

    async def closing(self) -> None:
        if self._submissions is not None:
            await self._submissions.stop()
        self.desk.queue.close()

    async def closed(self) -> None:
        await self._events.flush(2.0)
        await self._gitserver.close()
        await self._broadcaster.close()
        await self._store.close()

    # For the frontend

    async def _new(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "id": await self.desk.submit(await json_object(request))})

    async def _submission_status(self, request: web.Request) -> web.Response:
        submission_id = matching(request.match_info, "id", NAME)
        status = await self.desk.status(submission_id)
        answer: dict[str, Any] = {
            "status": "ok",
            "id": submission_id,
            "run_id": status.run_id,
            "state": status.state,
        }
        if status.result is not None:
            answer |= vars(status.result)
        return web.json_response(answer)

    async def _grader_status(self, _: web.Request) -> web.Response:
        queue = self.desk.queue
        runners = [
            {"name": runner.name, "slots": runner.slots, "running": len(queue.held_by(runner.name))}
            for runner in self.desk.runners.available()
        ]
        return web.json_response({"status": "ok", "queues": queue.lengths(), "runners": runners})

    # For runners

    async def _register(self, request: web.Request) -> web.Response:
        data = await json_object(request)
        only_keys(data, "name", "slots", "instance")
        name = matching(data, "name", NAME)
        instance = matching(data, "instance", LABEL) if "instance" in data else ""
        if self.desk.runners.register(name, instance, whole(data, "slots", 1, 256)):
            self.desk.queue.release_lost(name, (), 0.0)
        log.info("runner registered", extra=fields(runner=name))
        return web.json_response(
            {
                "status": "ok",
                "poll_seconds": self._config.poll_seconds,
                "lease_seconds": self._config.lease_seconds,
            }
        )

    async def _unregister(self, request: web.Request) -> web.Response:
        data = await json_object(request)
        name = matching(data, "name", NAME)
        if self.desk.runners.unregister(name, matching(data, "instance", LABEL)):
            released = self.desk.queue.release_lost(name, (), 0.0)
            log.info("runner left", extra=fields(runner=name, released=released))
        return web.json_response({"status": "ok"})

    async def _request(self, request: web.Request) -> web.Response:
        """A long poll, which is also the runner's heart-beat."""
        name = matching(request.headers, "OmegaUp-Runner-Name", NAME)
        if self.desk.runners.touch(name) is None:
            raise ApiError(409, "not registered")
        holding = request.headers.get("OmegaUp-Runner-Holding")
        if holding is not None:
            known = {int(word) for word in holding.split(",") if NUMBER.fullmatch(word.strip())}
            self.desk.queue.release_lost(name, known, ANSWER_SECONDS)

        def alive() -> bool:
            # aiohttp lets a handler go on when its peer has left; work must not be given to nobody.
            return request.transport is not None and not request.transport.is_closing()

        lease = await self.desk.queue.take(name, self._config.poll_seconds, alive)
        self.desk.runners.touch(name)
        work = await self.desk.work(lease) if lease is not None else None
        if lease is not None and not alive():
            self.desk.queue.give_back(lease)
        if work is None or self.stopping.is_set():
            return web.Response(status=204)
        return web.json_response(work)

    async def _result(self, request: web.Request) -> web.Response:
        data = await json_object(request)
        only_keys(data, "lease", "verdict", "score", "time_ms", "memory_bytes")
        verdict = data.get("verdict")
        if not isinstance(verdict, str) or verdict not in VERDICTS:
            raise ApiError(400, f"verdict: expected one of {', '.join(sorted(VERDICTS))}")
        result = Result(
            verdict,
            number(data, "score", 0, 1),
            whole(data, "time_ms", 0, 2**31),
            whole(data, "memory_bytes", 0, 2**62),
        )
        run_id, token = request.match_info["id"], matching(data, "lease", LABEL)
        lease = self.desk.queue.find(int(run_id), token) if NUMBER.fullmatch(run_id) else None
        if lease is None:
            raise ApiError(409, "this lease is not in force")
        self.desk.runners.touch(lease.runner)
        try:
            await self.desk.record(lease, result)
        except DatabaseDown as error:
            raise ApiError(503, f"mysql: {error}") from None  # the runner keeps the result and tries again
        return web.json_response({"status": "ok"})


def main() -> None:
    service_main("grader", GraderConfig, Grader)
