"""Tell what happens, and do it on many hosts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Something that happened: `host` is None when it concerns the lab."""

    host: str | None
    text: str
    seconds: float
    done: bool = False


Progress = Callable[[Event], None]


def _quiet(event: Event) -> None:
    pass


class Reporter:
    """Turns texts into events with the time since the start."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress or _quiet
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def __call__(self, text: str, name: str | None = None, done: bool = False) -> None:
        self._progress(Event(name, text, self.seconds, done))


def each(names: Sequence[str], work: Callable[[str], object]) -> None:
    """Do it for all at once; when all have ended, raise the first error."""
    pool = ThreadPoolExecutor(max_workers=max(1, min(16, len(names))))
    try:
        futures = [pool.submit(work, name) for name in names]
        errors = [error for future in futures if (error := future.exception())]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if errors:
        raise errors[0]
