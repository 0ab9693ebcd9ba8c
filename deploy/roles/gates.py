"""Gates that every service has, and how those of clusters are made of what their members say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from deploy.model.fleet import Context, Standing
from deploy.model.observed import Snapshot
from deploy.model.ways import Gate, View

SLOW = 5.0
"""A health check that takes so many times what it took before is slow; never below SLOW_SECONDS."""
SLOW_SECONDS = 1.0


def running(service: str, units: Iterable[str]) -> Gate:
    """The units run on every member."""
    names = tuple(units)

    def why_not(view: View) -> Iterator[str]:
        for host in view.ctx.fleet.members(service):
            if not view.counts(host.name):
                continue
            for name in names:
                unit = view.seen[host.name].units.get(name)
                if unit is None or not unit.running:
                    yield f"{host.name}: {name} is {unit.active if unit else 'not there'}"

    return Gate("running", why_not, without=True)


def healthy() -> Gate:
    """The catalog's health checks of the service are well on every member."""

    def why_not(view: View) -> Iterator[str]:
        for one in view.health:
            if not one.well and view.counts(one.host):
                yield f"{one.host}: {one.label}: {one.detail}"

    return Gate("health", why_not, without=True)


def quick() -> Gate:
    """The member answers about as fast as before."""

    def why_not(view: View) -> Iterator[str]:
        for one in view.health:
            usual = view.usual.get((one.host, one.label))
            if one.host == view.member and usual is not None and one.seconds > max(SLOW_SECONDS, SLOW * usual):
                yield f"{one.host}: {one.label} takes {one.seconds:.1f} s, before the change {usual:.1f} s"

    return Gate("latency", why_not, before=False)


def silent() -> Gate:
    """The member has logged no error since it was restarted."""
    return Gate("errors", lambda view: [f"{view.member}: {line}" for line in view.errors[-2:]], before=False)


def standing(
    name: str, clusters: Iterable[str], ask: Callable[[Context, Mapping[str, Snapshot]], Iterable[Standing]]
) -> Gate:
    """Every member of these clusters stands well, by its role's own judgement, and it is clear who leads."""
    wanted = frozenset(clusters)

    def why_not(view: View) -> Iterator[str]:
        if view.dispute:
            yield view.dispute
        for one in ask(view.ctx, view.seen):
            if one.cluster in wanted and not one.well:
                yield f"{one.host}: {one.cluster} {one.role}: {one.detail or 'unwell'}"

    return Gate(name, why_not)


def usual(service: str, units: Iterable[str]) -> tuple[Gate, ...]:
    """What is asked of a service that says nothing else."""
    return running(service, units), healthy(), quick(), silent()
