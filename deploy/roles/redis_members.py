"""Who is primary of a Redis instance: read from its members and from the sentinels, pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deploy.errors import FleetError, Unsettled
from deploy.model.fleet import Cluster, Context, Standing
from deploy.model.observed import Answer, Snapshot

INSTANCES = ("cache", "sessions")
SENTINEL_QUERY = "sentinel"

_NOTHING = Answer({}, "was not asked")


def cluster_of(instance: str) -> str:
    return f"redis-{instance}"


@dataclass(frozen=True)
class Member:
    """What one host says of an instance. `born`: it has run here before. `follows`: address; empty for nobody."""

    name: str
    address: str
    born: bool
    running: bool
    primary: bool
    follows: str


@dataclass(frozen=True)
class View:
    """Whom one sentinel takes for the primary of an instance: an address, empty if it does not answer."""

    name: str
    primary: str


def member(name: str, address: str, seen: Snapshot | None, instance: str) -> Member:
    """A member from one look at it; from its own state file where the server does not answer."""
    unit = seen.units.get(f"redis-{instance}.service") if seen else None
    answer = seen.answers.get(cluster_of(instance), _NOTHING) if seen else _NOTHING
    # A stranger on the port of a stopped member has no say.
    running = bool(unit and unit.running and answer.ok)
    follows = answer.values.get("info-master_host" if running else "file-follows", "")
    return Member(
        name, address, born="file-born" in answer.values, running=running,
        primary=running and answer.values.get("info-role") == "master", follows=follows,
    )  # fmt: skip


def views(ctx: Context, seen: Mapping[str, Snapshot], instance: str) -> list[View]:
    """What every sentinel of the inventory says."""
    return [
        View(host.name, _sentinel(seen.get(host.name)).values.get(f"{instance} ip", ""))
        for host in ctx.fleet.members("sentinel")
    ]


def _sentinel(seen: Snapshot | None) -> Answer:
    return seen.answers.get(SENTINEL_QUERY, _NOTHING) if seen else _NOTHING


def clusters(ctx: Context, seen: Mapping[str, Snapshot]) -> Mapping[str, Cluster]:
    """Who is primary of each instance.

    Raises:
        FleetError: members or sentinels contradict one another, or there are only replicas.
        Unsettled: so far; a failover may be under way.
    """
    return {
        cluster_of(instance): cluster(
            instance,
            [member(host.name, host.address, seen.get(host.name), instance) for host in ctx.fleet.members("redis")],
            views(ctx, seen, instance),
        )
        for instance in INSTANCES
    }


def cluster(instance: str, members: list[Member], sentinels: list[View]) -> Cluster:
    """One instance's primary, from what its members and the sentinels say.

    Raises:
        FleetError, Unsettled: see `clusters`.
    """
    born = [one for one in members if one.born]
    if not born:
        return Cluster(None)
    primaries = [one for one in born if one.primary]
    if len(primaries) > 1:
        raise Unsettled(
            subject=cluster_of(instance),
            found=f"{len(primaries)} primaries: {', '.join(one.name for one in primaries)}",
            expected="one primary among the members",
            hint="Sentinel makes one of them follow within half a minute; if it does not, find out which has the data "
            "and make the other follow it (REPLICAOF), then run again",
        )
    found = primaries[0] if primaries else _resting(instance, members, sentinels)
    _agreed(instance, found, born, sentinels)
    return Cluster(found.name, frozenset(one.name for one in members if not one.born))


def _resting(instance: str, members: list[Member], sentinels: list[View]) -> Member:
    """The primary where none runs: all stopped, say. Never while the sentinels could be about to choose another."""
    born = [one for one in members if one.born]
    heads = [one for one in born if not one.running and not one.follows]
    followed = {one.follows for one in born if one.follows}
    able = 2 * sum(bool(view.primary) for view in sentinels) > len(sentinels)
    replicas_run = any(one.running for one in born)
    if len(heads) == 1 and followed <= {heads[0].address} and not (able and replicas_run):
        return heads[0]
    if len(followed) == 1 and not heads and not followed & {one.address for one in members}:
        raise FleetError(
            subject=cluster_of(instance),
            found=f"every member follows {next(iter(followed))}, which is no member of the inventory",
            expected="the primary among the members",
            hint="put that host back into the group `redis`, give the role to another member (SENTINEL FAILOVER "
            f"{instance}, on a sentinel), and take it out then",
        )
    kind = Unsettled if able else FleetError
    raise kind(
        subject=cluster_of(instance),
        found=f"no primary ({'; '.join(_words(one) for one in born)}; {_counted(sentinels)})",
        expected="one primary, or all members to agree whom they followed",
        hint="start the sentinels, which choose a replica; or see `SENTINEL MASTER` and `INFO replication` on the "
        "hosts, and make the member with the newest data primary (REPLICAOF NO ONE); then run again",
    )


def _agreed(instance: str, primary: Member, born: list[Member], sentinels: list[View]) -> None:
    dissent = [view for view in sentinels if view.primary and view.primary != primary.address]
    if dissent:
        raise Unsettled(
            subject=cluster_of(instance),
            found=f"{primary.name} is primary, but {', '.join(f'{v.name} says {v.primary}' for v in dissent)}",
            expected="the sentinels to agree with the members",
            hint="a failover may be under way: run again in a moment; else see SENTINEL MASTER on those hosts",
        )
    answering = [view for view in sentinels if view.primary]
    strangers = [one for one in born if one.running and one is not primary and one.follows != primary.address]
    if strangers and 2 * len(answering) <= len(sentinels):
        raise FleetError(
            subject=cluster_of(instance),
            found=f"{'; '.join(_words(one) for one in (primary, *strangers))}; {_counted(sentinels)}",
            expected="every replica to follow the primary, or a majority of the sentinels to say who is",
            hint="start the sentinels, or make the replicas follow the primary that has the data (REPLICAOF)",
        )


def standings(ctx: Context, seen: Mapping[str, Snapshot]) -> Iterator[Standing]:
    """The members of both instances, as they say themselves."""
    for instance in INSTANCES:
        every = [member(host.name, host.address, seen.get(host.name), instance) for host in ctx.fleet.members("redis")]
        lone = sum(one.primary for one in every) == 1
        names = {one.address: one.name for one in every}
        for one in every:
            shot = seen.get(one.name)
            values = shot.answers.get(cluster_of(instance), _NOTHING).values if shot else {}
            if not one.running:
                yield Standing(cluster_of(instance), one.name, "no answer" if shot is None else "not running", False)
            elif one.primary:
                kept = values.get("info-min_slaves_good_slaves", values.get("info-connected_slaves", "0"))
                yield Standing(
                    cluster_of(instance), one.name, "primary", lone,
                    f"{kept} replicas keep up, offset {values.get('info-master_repl_offset', '?')}"
                    + ("" if lone else ": not the only one"),
                )  # fmt: skip
            else:
                link = values.get("info-master_link_status", "?")
                yield Standing(
                    cluster_of(instance), one.name, "replica", link == "up",
                    f"of {names.get(one.follows, one.follows)}, link {link}, "
                    f"offset {values.get('info-slave_repl_offset', '?')}",
                )  # fmt: skip
        for view in views(ctx, seen, instance):
            primary = names.get(view.primary, view.primary)
            yield Standing(
                f"{cluster_of(instance)} sentinels", view.name, "sentinel" if primary else "no answer", bool(primary),
                f"takes {primary} for the primary" if primary else "",
            )  # fmt: skip


def _counted(sentinels: Iterable[View]) -> str:
    every = list(sentinels)
    return f"{sum(bool(view.primary) for view in every)} of {len(every)} sentinels answer"


def _words(one: Member) -> str:
    if one.primary:
        return f"{one.name} is primary"
    state = "" if one.running else " (not running)"
    return f"{one.name} follows {one.follows or 'nobody'}{state}"
