"""What a run must be for TLS between hosts to be turned on or off: all of the members and all their clients at once.

A member listens with TLS or without, so one half of them would not find the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.errors import FleetError, FleetErrors

CHANGES: Mapping[str, tuple[str, tuple[str, ...]]] = {"redis-transport": ("redis", ("proxy",))}
"""Role whose steps are such a change -> the service, and who dials its members."""

LISTENER = re.compile(r"\btls-port=\d+")
"""What says in such a step whether there is TLS."""


def whole(run: Run, plan: Mapping[str, list[Step]]) -> None:
    """Before anything is changed.

    Raises:
        FleetErrors: this run would leave a service half with TLS and half without.
    """
    wrong = [
        error
        for role, (service, clients) in CHANGES.items()
        if any(step.role == role and _turns(step) for steps in plan.values() for step in steps)
        for error in _half(run, service, clients)
    ]
    if wrong:
        raise FleetErrors(wrong)


def _turns(step: Step) -> bool:
    """Whether a listener gets TLS by it, or loses it: not every parameter of it that somebody has changed by hand."""
    before, after = (LISTENER.findall(words) for words in (step.before, step.after))
    return before != after


def _half(run: Run, service: str, clients: Iterable[str]) -> Iterator[FleetError]:
    parts = dict.fromkeys(host.name for name in (service, *clients) for host in run.fleet.members(name))
    subject = f"{service}: TLS between hosts"
    if left := [name for name in parts if name not in run.targets]:
        yield FleetError(
            subject=subject, found=f"a change of it on some hosts, but not on {', '.join(left)}",
            expected="all members and all hosts that dial them in one run", hint="apply without --limit",
        )  # fmt: skip
    clusters = next(one for one in run.fleet.services() if one.name == service).clusters
    new = {name for cluster in clusters if cluster in run.live.proven for name in run.live.empty.get(cluster, ())}
    if new:
        yield FleetError(
            subject=subject, found=f"a change of it together with new members: {', '.join(sorted(new))}",
            expected="one after the other: a new member could not join those that listen in the other way",
            hint=f"set {service} = {{'tls': ...}} as it was and apply, or leave the new members out of the inventory "
            "at first",
        )  # fmt: skip
