"""The runner: asks the grader for runs, judges them, reports. Metrics and health on port 6060.

It executes nothing itself: see judge.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any

from ..checks import NAME
from ..config import RunnerConfig
from ..health import Unwell
from ..httpd import roles
from ..links import Delays, Link, LinkDown, Refused
from ..logs import fields
from ..schema import ConfigError
from ..service import Service, service_main
from ..verdicts import VERDICTS
from .judge import Judge, NoopJudge, Result, SandboxDown, SandboxJudge

log = logging.getLogger(__name__)

RULES = {"/health": roles("monitoring", "runner"), "/metrics": roles("monitoring", "runner")}
NOT_REGISTERED = 409


class Runner(Service):
    def __init__(self, config: RunnerConfig) -> None:
        super().__init__("runner", config)
        if NAME.fullmatch(config.name) is None:
            raise ConfigError(f"name: {config.name!r} does not match {NAME.pattern}")
        self._config = config
        self._instance = secrets.token_hex(8)
        self._grader = Link(config.grader.url, config.grader.timeout_seconds, self.tls)
        self._poll_seconds = 20.0  # the grader tells its own at registration
        self._registered = False
        self._registering = asyncio.Lock()
        self._heard: float | None = None
        self._last_error = "not tried yet"
        self._holding: set[int] = set()
        self._polls: set[asyncio.Task[dict[str, Any]]] = set()
        self._slots: list[asyncio.Task[None]] = []
        self._runs = self.metrics.counted("runner_runs", "Runs judged.", "verdict", VERDICTS)
        self._failures = self.metrics.counter("runner_grader_failures", "Calls to the grader that failed.")
        self.metrics.gauge("runner_slots_busy", "Runs in hand.").set_function(lambda: len(self._holding))
        self.health.add("grader", self._check_contact)
        self._judged: Judge
        if config.judge == "sandbox":
            self._judged = SandboxJudge(config.sandbox)
            self.health.add("sandbox", self._check_sandbox)
        else:
            self._judged = NoopJudge(config.noop_seconds)
        self.serve(config.listen, RULES)

    async def _check_contact(self) -> None:
        silence = time.monotonic() - self._heard if self._heard is not None else None
        if silence is None:
            raise Unwell(f"never heard: {self._last_error}")
        # A long poll is silent for as long as the grader holds it.
        limit = max(self._config.max_silence_seconds, self._poll_seconds + self._config.grader.timeout_seconds)
        if silence > limit:
            raise Unwell(f"silent for {silence:.0f} s, limit {limit:g} s: {self._last_error}")

    async def _check_sandbox(self) -> None:
        try:
            await self._judged.check()
        except SandboxDown as error:
            raise Unwell(str(error)) from None

    async def opened(self) -> None:
        await self._grader.open()
        try:
            await self._register()
        except (LinkDown, Refused) as error:
            self._failed(error)
        self._slots = [self.spawn(self._slot()) for _ in range(self._config.slots)]

    async def closing(self) -> None:
        """Take no more work, but finish and report what is in hand, within the grace of the shutdown."""
        for poll in list(self._polls):
            poll.cancel()
        if self._slots:
            await asyncio.wait(self._slots, timeout=self._config.shutdown_seconds)
        try:
            await asyncio.wait_for(self._call("POST", "/run/unregister", self._identity()), 2.0)
        except (TimeoutError, LinkDown, Refused) as error:
            log.warning("could not take leave", extra=fields(error=str(error)))

    async def closed(self) -> None:
        await self._grader.close()

    def _identity(self) -> dict[str, Any]:
        return {"name": self._config.name, "instance": self._instance}

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        extra_seconds: float = 0.0,
    ) -> dict[str, Any]:
        answer = await self._grader.call(method, path, body, headers, extra_seconds)
        self._heard = time.monotonic()
        return answer

    def _failed(self, error: Exception) -> None:
        self._failures.inc()
        self._last_error = str(error)
        log.warning("grader call failed", extra=fields(error=str(error)))

    async def _register(self) -> None:
        async with self._registering:  # the first slot that finds it missing does it for all
            if self._registered:
                return
            answer = await self._call("POST", "/run/register", {**self._identity(), "slots": self._config.slots})
            self._poll_seconds = float(answer.get("poll_seconds", self._poll_seconds))
            self._registered = True
            log.info("registered", extra=fields(name=self._config.name))

    async def _slot(self) -> None:
        """One run after another, until the service stops."""
        delays = Delays(self._config.backoff)
        while not self.stopping.is_set():
            try:
                # Before it asks: a run is nobody's to fail for want of a sandbox.
                await self._judged.check()
                await self._register()
                work = await self._poll()
            except SandboxDown as error:
                self._last_error = str(error)
                log.error("no sandbox", extra=fields(error=str(error)))
                await self._pause(delays.next())
                continue
            except Refused as error:
                if error.code == NOT_REGISTERED and self._registered:
                    self._registered = False  # the grader has restarted, or thought us dead
                    continue
                self._failed(error)
                await self._pause(delays.next())
                continue
            except LinkDown as error:
                self._failed(error)
                await self._pause(delays.next())
                continue
            delays.reset()
            if work:
                await self._judge(work)

    async def _poll(self) -> dict[str, Any]:
        """Work, or {} when there is none or the service stops."""
        headers = {
            "OmegaUp-Runner-Name": self._config.name,
            "OmegaUp-Runner-Holding": ",".join(map(str, sorted(self._holding))),
        }
        poll = asyncio.get_running_loop().create_task(
            self._call("GET", "/run/request/", headers=headers, extra_seconds=self._poll_seconds)
        )
        self._polls.add(poll)
        try:
            work = await poll
        except asyncio.CancelledError:
            if self.stopping.is_set() and poll.cancelled():
                return {}
            raise
        finally:
            self._polls.discard(poll)
        if work:
            # Before anything else is awaited: another slot's poll must name it as held.
            self._holding.add(int(work["id"]))
        return work

    async def _judge(self, work: Mapping[str, Any]) -> None:
        run_id = int(work["id"])
        try:
            result = await self._verdict(work, run_id)
            if await self._report(run_id, {"lease": work["lease"], **vars(result)}, float(work["lease_seconds"])):
                self._runs.labels(result.verdict).inc()
        except SandboxDown as error:
            # Not reported: the grader learns with the next request that we no longer hold it, and gives it away again.
            log.error("run given back", extra=fields(run=run_id, error=str(error)))
        finally:
            self._holding.discard(run_id)

    async def _verdict(self, work: Mapping[str, Any], run_id: int) -> Result:
        try:
            judged, detail = await self._judged.judge(work["submission"], work["settings"])
        except SandboxDown:
            raise
        except Exception:  # a fault of ours with this submission: the slot goes on with the next
            log.exception("cannot be judged", extra=fields(run=run_id))
            judged, detail = Result("JE", 0.0, 0, 0), "an error of the runner"
        log.info("judged", extra=fields(run=run_id, verdict=judged.verdict, detail=detail[:200]))
        return judged

    async def _report(self, run_id: int, result: Mapping[str, Any], lease_seconds: float) -> bool:
        """Repeat until the grader has it, refuses it, or the lease is over and another runner has the run."""
        delays = Delays(self._config.backoff)
        until = time.monotonic() + lease_seconds
        while time.monotonic() < until:
            try:
                await self._call("POST", f"/run/result/{run_id}", result)
                return True
            except Refused as error:
                log.warning("result refused", extra=fields(run=run_id, error=str(error)))
                return False
            except LinkDown as error:
                self._failed(error)
                await asyncio.sleep(delays.next())
        log.warning("result given up", extra=fields(run=run_id))
        return False

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return


def main() -> None:
    service_main("runner", RunnerConfig, Runner)
