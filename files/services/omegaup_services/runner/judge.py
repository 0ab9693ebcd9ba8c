"""What a runner says of a submission: `noop` accepts everything, `sandbox` has it executed and compares.

A problem's settings have `limits` (`time_ms`, `memory_bytes`, `output_bytes`) and `cases`, each with `name`, `input`,
`output` and `weight`. A problem without cases asks for no more than a program that compiles.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from ..config import Sandbox

LINE_BYTES = 128 * 1024 * 1024
CHECKED_SECONDS = 30.0
DEFAULTS = {"time_ms": 1000, "memory_bytes": 256 * 1024 * 1024, "output_bytes": 10 * 1024 * 1024}
LARGEST = {"time_ms": 60_000, "memory_bytes": 2**31, "output_bytes": 64 * 1024 * 1024}
LARGEST_WEIGHT = 1e9
VERDICTS = {"exit": "RTE", "signal": "RTE", "time": "TLE", "memory": "MLE", "output": "OLE"}
SIGSYS, SIGKILL = -31, -9


@dataclass(frozen=True)
class Result:
    """As the grader takes it."""

    verdict: str
    score: float
    time_ms: int
    memory_bytes: int


class SandboxDown(Exception):
    """There is no sandbox, or not a tight one: nothing can be said of any submission."""


class Judge(Protocol):
    async def check(self) -> None:
        """Raises SandboxDown when nothing could be judged now."""

    async def judge(self, submission: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Result, str]:
        """The verdict, and words on it for the log. Raises SandboxDown."""


class NoopJudge:
    """AC for any run, after `seconds`. Compiles and executes nothing: it proves the fleet, not the submission."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def check(self) -> None:
        return None

    async def judge(self, submission: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Result, str]:
        started = time.monotonic()
        await asyncio.sleep(self._seconds)
        took = round((time.monotonic() - started) * 1000)
        return Result("AC", 1.0, took, len(submission["source"].encode())), "not executed"


@dataclass(frozen=True)
class Case:
    name: str
    input: str
    output: str
    weight: float


class SandboxJudge:
    """One connection to the sandbox's socket is one submission: systemd makes a box for each."""

    def __init__(self, config: Sandbox) -> None:
        self._config = config
        self._checked = 0.0

    async def check(self) -> None:
        if time.monotonic() - self._checked < CHECKED_SECONDS:
            return
        async with aclosing(self._talk(None, 10.0)) as answers:
            async for _ in answers:
                pass
        self._checked = time.monotonic()

    async def judge(self, submission: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Result, str]:
        try:
            limits, cases = _limits(settings), _cases(settings)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            # Whoever wrote them: no runner ends over it.
            return Result("JE", 0.0, 0, 0), f"the problem's settings: {type(error).__name__}: {error}"
        request = {
            "language": submission["language"], "source": submission["source"], **limits,
            "cases": [{"name": case.name, "input": case.input} for case in cases],
        }  # fmt: skip
        # What the sandbox itself allows each case, and some for its start.
        seconds = 30 + len(cases) * (2 * limits["time_ms"] / 1000 + 2)
        async with aclosing(self._talk(request, seconds)) as talk:
            answers = [answer async for answer in talk]
        return verdict(answers, cases)

    async def _talk(self, request: Mapping[str, Any] | None, seconds: float) -> AsyncGenerator[dict[str, Any], None]:
        """The answers to a request; without one, only whether there is a tight box."""
        path = str(self._config.socket)
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
                try:
                    hello = json.loads(await reader.readline() or b"{}")
                    if hello.get("uncontained") != []:
                        words = ", ".join(hello.get("uncontained", ["it says nothing of itself"]))
                        raise SandboxDown(f"sandbox {path}: not tight: {words}")
                    if request is None:
                        return
                    if request["language"] not in hello["languages"]:
                        yield {"compiled": False, "detail": f"language {request['language']}: not here"}
                        return
                    writer.write(json.dumps(request).encode() + b"\n")
                    await writer.drain()
                    while line := await reader.readline():
                        yield json.loads(line)
                finally:
                    writer.close()
        except TimeoutError:
            raise SandboxDown(f"sandbox {path}: no end within {seconds:.0f} s") from None
        except (OSError, ValueError) as error:
            self._checked = 0.0
            raise SandboxDown(f"sandbox {path}: {error}") from None


def _limits(settings: Mapping[str, Any]) -> dict[str, int]:
    given = settings.get("limits") or {}
    return {name: max(1, min(int(given.get(name, value)), LARGEST[name])) for name, value in DEFAULTS.items()}


def _cases(settings: Mapping[str, Any]) -> list[Case]:
    return [
        Case(str(case.get("name", at)), str(case["input"]), str(case["output"]), _weight(case.get("weight", 1.0)))
        for at, case in enumerate(settings.get("cases") or ())
    ]


def _weight(given: Any) -> float:
    weight = float(given)
    if not 0 <= weight <= LARGEST_WEIGHT:
        raise ValueError(f"weight {given!r}")
    return weight


def verdict(answers: list[dict[str, Any]], cases: list[Case]) -> tuple[Result, str]:
    """What becomes of what the sandbox has said. Fewer answers than cases: the program has ended its own watcher, or
    the box was ended over it.
    """
    if not answers:
        return Result("RFE", 0.0, 0, 0), "the box ended before anything was compiled"
    compiled, runs = answers[0], answers[1:]
    if not compiled["compiled"]:
        return Result("CE", 0.0, 0, 0), compiled["detail"]
    outcomes = [_outcome(run, case) for run, case in zip(runs, cases, strict=False)]
    outcomes += ["RFE"] * (len(cases) - len(runs))
    total = sum(case.weight for case in cases)
    won = sum(case.weight for case, outcome in zip(cases, outcomes, strict=True) if outcome == "AC")
    score = round(won / total, 6) if total > 0 else 1.0
    wrong = next((at for at, outcome in enumerate(outcomes) if outcome != "AC"), None)
    slowest = max((run["time_ms"] for run in runs), default=0)
    largest = max((run["memory_bytes"] for run in runs), default=0)
    if wrong is None:
        return Result("AC", 1.0, slowest, largest), f"{len(cases)} cases"
    words = runs[wrong]["detail"].strip().rpartition("\n")[2] if wrong < len(runs) else "the box ended before it"
    detail = f"case {cases[wrong].name}: {outcomes[wrong]}: {words}"
    return Result("PA" if 0 < score < 1 else outcomes[wrong], score, slowest, largest), detail


def _outcome(run: Mapping[str, Any], case: Case) -> str:
    if run["status"] != "ok":
        # The system call filter's signal: it asked for what no program has a use for.
        return "RFE" if run["code"] == SIGSYS else VERDICTS[run["status"]]
    # Token by token: how a line ends, and how many blanks there are, is not what was asked.
    said = base64.b64decode(run["output"]).decode(errors="replace")
    return "AC" if said.split() == case.output.split() else "WA"
