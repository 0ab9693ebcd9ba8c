"""The grader's own calls: problem settings from gitserver, events to the broadcaster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter

from ..health import Unwell
from ..links import Link, LinkDown, Refused, segment
from ..logs import fields

log = logging.getLogger(__name__)

EVENTS_WAITING = 1000
EVENT_ATTEMPTS = 3
CACHED_PROBLEMS = 1000


class NoSuchProblem(Exception):
    """gitserver knows no such problem: the submission cannot be judged, ever."""


async def reachable(link: Link) -> None:
    """Probe: the other side answers and accepts our role. Its own ailments are its own /health's to tell."""
    try:
        await link.call("GET", "/health")
    except LinkDown as error:
        if ": 503: " not in str(error):
            raise Unwell(str(error)) from None
    except Refused as error:
        raise Unwell(str(error)) from None


class ProblemSettings:
    """GET /problem/{alias}/settings, remembered for `cache_seconds`."""

    def __init__(self, link: Link, cache_seconds: float) -> None:
        self._link = link
        self._cache_seconds = cache_seconds
        self._cache: dict[str, tuple[float, dict[str, Any]]] = {}

    async def get(self, alias: str) -> dict[str, Any]:
        """Raises LinkDown (try later) or NoSuchProblem (never)."""
        known = self._cache.get(alias)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        try:
            answer = await self._link.call("GET", f"/problem/{segment(alias)}/settings")
        except Refused as error:
            if error.code == 404:
                raise NoSuchProblem(alias) from None
            # Anything else (403: a certificate of the wrong role) is the deployment's fault, not the
            # submission's.
            raise LinkDown(str(error)) from None
        if len(self._cache) >= CACHED_PROBLEMS:
            self._cache.clear()
        self._cache[alias] = (time.monotonic() + self._cache_seconds, answer)
        return answer


class Events:
    """Sends result events in the background: a broadcaster that is down never delays or fails a verdict."""

    def __init__(self, link: Link, lost: Counter) -> None:
        self._link = link
        self._lost = lost
        self._waiting: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(EVENTS_WAITING)

    def send(self, event: Mapping[str, Any]) -> None:
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._lost.inc()

    async def run(self) -> None:
        """Deliver for ever, in order."""
        while True:
            event = await self._waiting.get()
            await self._deliver(event)

    async def flush(self, seconds: float) -> None:
        """Deliver what still waits, after `run` has been cancelled; what takes longer is lost."""
        try:
            async with asyncio.timeout(seconds):
                while not self._waiting.empty():
                    await self._deliver(self._waiting.get_nowait())
        except TimeoutError:
            self._lost.inc(1 + self._waiting.qsize())

    async def _deliver(self, event: Mapping[str, Any]) -> None:
        for attempt in range(1, EVENT_ATTEMPTS + 1):
            try:
                await self._link.call("POST", "/broadcast/", event)
                return
            except Refused as error:
                log.error("event refused", extra=fields(error=str(error)))
                break
            except LinkDown as error:
                log.warning("event not delivered", extra=fields(error=str(error), attempt=attempt))
                await asyncio.sleep(0.5 * attempt)
        self._lost.inc()
