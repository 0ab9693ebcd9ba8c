"""Doing something on several hosts at once, with every error kept and none printed on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import gevent

from deploy.errors import TRACE_VARIABLE, FleetError, FleetErrors, unforeseen

T = TypeVar("T")


def together(names: Iterable[str], work: Callable[[str], T]) -> dict[str, T]:
    """name -> result of `work(name)`, all at once.

    Raises:
        FleetError: one host's; FleetErrors with all of them when there are several.
    """

    def guarded(name: str) -> T | FleetError:
        # An exception that leaves a greenlet is printed with all its arguments, secrets included.
        try:
            return work(name)
        except FleetError as error:
            return error
        except Exception as error:
            if os.environ.get(TRACE_VARIABLE):
                raise
            return unforeseen(error, name)

    jobs = {name: gevent.spawn(guarded, name) for name in names}
    gevent.joinall(jobs.values(), raise_error=True)
    results: dict[str, T] = {}
    errors: list[FleetError] = []
    for name, job in jobs.items():
        if isinstance(job.value, FleetError):
            errors.append(job.value)
        else:
            results[name] = job.value
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise FleetErrors(errors)
    return results
