"""Which runners there are, by what they have said and when they were last heard."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Runner:
    """`instance` tells one process of a runner from the next of the same name; `seen` is monotonic
    seconds.
    """

    name: str
    instance: str
    slots: int
    seen: float


class Runners:
    """A runner not heard of for `timeout_seconds` is forgotten, and has to register again."""

    def __init__(self, timeout_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._runners: dict[str, Runner] = {}

    def register(self, name: str, instance: str, slots: int) -> bool:
        """True if another process had this name: what that one held is lost."""
        before = self._runners.get(name)
        self._runners[name] = Runner(name, instance, slots, self._clock())
        return before is not None and before.instance != instance

    def unregister(self, name: str, instance: str) -> bool:
        """False if this process is not (or no longer) the one registered under the name."""
        known = self._runners.get(name)
        if known is None or known.instance != instance:
            return False
        del self._runners[name]
        return True

    def touch(self, name: str) -> Runner | None:
        """Note that `name` was heard. None if it is not registered, or was forgotten."""
        self.prune()
        runner = self._runners.get(name)
        if runner is not None:
            runner.seen = self._clock()
        return runner

    def prune(self) -> list[str]:
        """Forget the silent; returns their names."""
        limit = self._clock() - self._timeout_seconds
        silent = [name for name, runner in self._runners.items() if runner.seen < limit]
        for name in silent:
            del self._runners[name]
        return silent

    def available(self) -> list[Runner]:
        self.prune()
        return sorted(self._runners.values(), key=lambda runner: runner.name)
