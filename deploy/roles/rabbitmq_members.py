"""The cluster of brokers: who is in it, who is empty, who declares what all share; read from the members, pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from deploy.errors import FleetError, Unsettled
from deploy.model.fleet import Cluster, Context, Standing
from deploy.model.observed import Answer, Snapshot

CLUSTER = "rabbitmq"
QUERY = "rabbitmq-cluster"
UNIT = "rabbitmq-server.service"
COOKIE = "/var/lib/rabbitmq/.erlang.cookie"

_NOTHING = Answer({}, "was not asked")


def node(host: str) -> str:
    return f"rabbit@{host}"


def insisted(command: str, seconds: int = 120) -> str:
    """Shell: a command of the queues' tool until it says yes, for `seconds` at most; then its last words.

    It says no for a while to a queue that elects, to a member that joins, and while another member's command of the
    same kind runs: by its exit code, or with exit code 0 in a row of what it prints.
    """
    return f"""\
end=$(($(date +%s) + {seconds}))
until said=$({command} </dev/null 2>&1) && ! printf '%s' "$said" | grep -q 'error: '; do
  [ "$(date +%s)" -lt "$end" ] || {{ printf '%s\\n' "$said" | grep -v '^ *$' | head -n 5; exit 1; }}
  sleep 1
done
"""


REBALANCE = insisted("rabbitmq-queues -q rebalance quorum")
"""Shell: leaders are spread anew. One at a time in a cluster: the broker refuses a second, which waits here."""


@dataclass(frozen=True)
class Member:
    """What one host says. `active`: its unit runs; `up`: the broker in it does; `nodes`, `running`: as it sees them.

    `links`: how it talks to other members, `clients`: how clients of other hosts have to come: `tls` or `plain`; empty
    if that cannot be told.
    """

    name: str
    empty: bool
    active: bool
    up: bool
    error: str = ""
    cookie: str = ""
    cluster_name: str = ""
    nodes: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    partitions: frozenset[str] = frozenset()
    links: str = ""
    clients: str = ""
    shut: bool = False
    """It lets nobody in who asks, since a certificate has ended: apply brings another."""

    @property
    def node(self) -> str:
        return node(self.name)


def member(name: str, seen: Snapshot | None) -> Member:
    """A member from one look at it; from its files alone where the broker does not answer."""
    unit = seen.units.get(UNIT) if seen else None
    answer = seen.answers.get(QUERY, _NOTHING) if seen else _NOTHING
    values = answer.values
    up = answer.ok and values.get("up") == "yes"

    def names(key: str) -> frozenset[str]:
        return frozenset(values.get(key, "").split())

    return Member(
        name, empty=values.get("file-data") == "empty", active=bool(unit and unit.running), up=up, error=answer.error,
        cookie=values.get("file-cookie", ""), cluster_name=values.get("name", ""),
        nodes=names("nodes") if up else names("file-nodes"), running=names("running"), partitions=names("partitions"),
        # Its own word, so that of one that is still starting counts as well.
        links=values.get("links", "tls" if "shut" in values else ""),
        clients=values.get("clients", "") if up else "", shut="shut" in values,
    )  # fmt: skip


def members(ctx: Context, seen: Mapping[str, Snapshot]) -> list[Member]:
    return [member(host.name, seen.get(host.name)) for host in ctx.fleet.members("rabbitmq")]


def clusters(ctx: Context, seen: Mapping[str, Snapshot]) -> Mapping[str, Cluster]:
    """The one cluster. Its leader is the first running member: whoever that is declares what all share.

    Raises:
        FleetError: a member belongs elsewhere, or has another cookie.
        Unsettled: members do not see one another, or wait for a majority; it may pass.
    """
    every = members(ctx, seen)
    _same_cookie(every, hashlib.sha256(ctx.secret("rabbitmq/cookie").encode()).hexdigest())
    links = _same_links(every, ctx.settings.rabbitmq.inter_node_tls)
    wanted = _word(ctx.settings.rabbitmq.tls)
    otherwise = frozenset(one.name for one in every if one.clients not in {"", wanted})
    return {CLUSTER: replace(cluster(every, ctx.fleet.name), otherwise=otherwise, links=links)}


def _word(tls: bool) -> str:
    return "tls" if tls else "plain"


def _same_links(every: list[Member], wanted: bool) -> str:
    """How the members that run talk to one another; empty if none does.

    Raises:
        FleetError: some by TLS, some in the clear: they do not understand one another.
    """
    found: dict[str, list[Member]] = {}
    for one in every:
        if one.links:
            found.setdefault(one.links, []).append(one)
    if len(found) < 2:
        return next(iter(found), "")
    # Those go on whose broker serves; where that does not decide, those that are as the setting has it.
    rest = min(found, key=lambda word: (sum(one.up for one in found[word]), word == _word(wanted)))
    names = {word: ", ".join(one.name for one in group) for word, group in found.items()}
    raise FleetError(
        host=found[rest][0].name,
        subject=CLUSTER,
        found=f"members that talk to one another by TLS ({names['tls']}) and in the clear ({names['plain']})",
        expected="all in the same way: they do not understand one another",
        hint=f"on {names[rest]}: systemctl stop {UNIT}; then apply starts it as the others run",
    )


_NO_FILE = hashlib.sha256(b"").hexdigest()


def _same_cookie(every: list[Member], wanted: str) -> None:
    for one in every:
        if one.active and one.cookie not in {wanted, "", _NO_FILE}:
            raise FleetError(
                host=one.name,
                subject=COOKIE,
                found="another Erlang cookie than the fleet's, under a broker that runs",
                expected="the cookie of the inventory's secrets, which all members share",
                hint=f"on that host: systemctl stop {UNIT}; rm {COOKIE}; then apply brings it back with the fleet's",
            )


def cluster(every: list[Member], name: str) -> Cluster:
    """The cluster that these members form; `name` is the fleet's.

    Raises:
        FleetError, Unsettled: see `clusters`.
    """
    empty = frozenset(one.name for one in every if one.empty and not one.active)
    up = [one for one in every if one.up]
    holders = [one for one in every if not one.empty]
    if not up and not holders:
        return Cluster(None)
    for one in every:
        if one.active and one.error and not one.up and not one.shut:
            raise Unsettled(
                host=one.name,
                subject=CLUSTER,
                found=f"a broker that does not answer: {one.error}",
                expected="an answer of every member whose unit runs",
                hint=f"journalctl -u {UNIT} on that host says why",
            )
    _one_cluster(holders, name)
    if up:
        _together(up)
        return Cluster(up[0].name, empty)
    waiting = [one for one in holders if one.active]
    if waiting and len(waiting) == len(holders) and not any(one.shut for one in waiting):
        raise Unsettled(
            subject=CLUSTER,
            found=f"{', '.join(one.name for one in waiting)}: running and paused, or still starting",
            expected="a majority of members that see one another",
            hint="see that the members reach one another (ports 4369 and 25672), then run again",
        )
    return Cluster(holders[0].name, empty)


def _one_cluster(holders: list[Member], name: str) -> None:
    """Every member that holds anything knows of all others that do."""
    known = [one for one in holders if one.nodes]
    for one in known:
        for other in known:
            if other.node not in one.nodes:
                raise FleetError(
                    host=other.name,
                    subject=CLUSTER,
                    found=f"a member of another cluster ({_named(other)}); {one.name} is in {_named(one)}",
                    expected="all members in one cluster",
                    hint=f"find out which holds what counts; on the other: systemctl stop {UNIT}, move "
                    "/var/lib/rabbitmq/mnesia away, and run apply: it joins as a new member",
                )
    declared = {node(one.name) for one in holders}
    for one in known:
        strangers = one.nodes - declared
        if one.cluster_name and strangers and one.cluster_name != name and len(one.nodes) > len(holders):
            raise FleetError(
                host=one.name,
                subject=CLUSTER,
                found=f"a member of the cluster {one.cluster_name!r}, with {', '.join(sorted(strangers))}",
                expected=f"the cluster {name!r} of this inventory",
                hint="this host is in use elsewhere: take it out of the inventory, or out of that cluster first",
            )


def _together(up: list[Member]) -> None:
    for one in up:
        apart = {other.node for other in up} - one.running
        if apart or one.partitions:
            raise Unsettled(
                host=one.name,
                subject=CLUSTER,
                found=f"does not see {', '.join(sorted(apart | one.partitions))}, which runs",
                expected="members that see one another",
                hint="a partition: see that the members reach one another (ports 4369 and 25672); where they do, "
                f"systemctl restart {UNIT} on the one that is alone",
            )


def _named(one: Member) -> str:
    return f"{one.cluster_name or 'unnamed'}: {', '.join(sorted(one.nodes)) or 'no other'}"


def standings(ctx: Context, seen: Mapping[str, Snapshot]) -> Iterator[Standing]:
    """Each member: whether it runs, how many queues it leads, and what is wrong with those."""
    every = members(ctx, seen)
    up = [one for one in every if one.up]
    leaders = _leaders(seen[up[0].name]) if up else {}
    short = sorted(queue for queue, said in leaders.items() if said[0] == "nobody" or said[1] != said[2])
    for one in every:
        if not one.up:
            state = "not running" if not one.active else "paused or starting" if not one.shut else "certificate ended"
            yield Standing(CLUSTER, one.name, "no answer" if one.name not in seen else state, False, one.error)
            continue
        led = sum(said[0] == one.node for said in leaders.values())
        apart = {other.node for other in every} - one.running
        detail = f"leads {led} of {len(leaders)} queues, sees {len(one.running)} of {len(every)} members"
        if one.links and one.links != _word(ctx.settings.rabbitmq.inter_node_tls):
            how = "in the clear" if one.links == "plain" else "by TLS"
            detail += f"; talks to the others {how} until all were stopped together"
        if one is up[0] and short:
            detail += f"; not all copies online: {', '.join(short)}"
        yield Standing(CLUSTER, one.name, "member", not apart and not one.partitions and not short, detail)


def _leaders(seen: Snapshot) -> dict[str, tuple[str, int, int]]:
    """Queue -> (node that leads it, members online, members)."""
    found = {}
    for name, value in seen.answers[QUERY].values.items():
        if name.startswith("leader "):
            leader, _, counts = value.partition(" ")
            online, _, total = counts.partition("/")
            found[name.removeprefix("leader ")] = (leader, int(online), int(total))
    return found
