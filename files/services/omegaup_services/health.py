"""Is this service well, and if not, which part of it: what /health answers.

A required part that is unwell makes 503 with status "error"; one that is not required makes 200 with
"degraded".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from .metrics import Metrics

PROBE_SECONDS = 3.0  # shorter than the 5 s that a load balancer or a scraper usually waits
FRESH_SECONDS = 1.0  # several load balancers ask at once; the database is asked once


class Unwell(Exception):
    """Why a part is unwell, in words for the operator."""


@dataclass(frozen=True)
class Check:
    """`probe` returns when the part is well and raises (Unwell, or anything) when not."""

    name: str
    probe: Callable[[], Awaitable[None]]
    required: bool = True


@dataclass(frozen=True)
class Report:
    """`checks` maps each part to "ok" or to what is wrong with it."""

    status: str
    checks: Mapping[str, str]

    @property
    def code(self) -> int:
        return 503 if self.status == "error" else 200


class Health:
    """Runs the checks side by side, each for at most PROBE_SECONDS, and remembers the answer for
    FRESH_SECONDS.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._checks: list[Check] = []
        self._lock = asyncio.Lock()
        self._last: tuple[float, Report] | None = None

    def add(self, name: str, probe: Callable[[], Awaitable[None]], *, required: bool = True) -> None:
        self._checks.append(Check(name, probe, required))

    async def report(self) -> Report:
        async with self._lock:
            if self._last is not None and time.monotonic() - self._last[0] < FRESH_SECONDS:
                return self._last[1]
            words = await asyncio.gather(*(self._ask(check) for check in self._checks))
            unwell = [check for check, word in zip(self._checks, words, strict=True) if word != "ok"]
            status = "error" if any(check.required for check in unwell) else "degraded" if unwell else "ok"
            report = Report(status, {check.name: word for check, word in zip(self._checks, words, strict=True)})
            self._last = (time.monotonic(), report)
            return report

    async def _ask(self, check: Check) -> str:
        try:
            await asyncio.wait_for(check.probe(), PROBE_SECONDS)
            word = "ok"
        except TimeoutError:
            word = f"no answer within {PROBE_SECONDS:g} s"
        except Exception as error:  # whatever a driver raises is what the operator has to read
            word = str(error) or type(error).__name__
        self._metrics.healthy.labels(check.name).set(word == "ok")
        return word
