"""Who is the primary: read from the members themselves, pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deploy.errors import FleetError
from deploy.model.fleet import Cluster, Context, Fleet, Standing
from deploy.model.observed import Answer, Snapshot
from deploy.roles import mysql_tls

FILES_QUERY = "mysql-files"
"""What can be read without the server: where the data comes from, whom it follows."""
SERVER_QUERY = "mysql"
CLUSTER = "mysql"

_NOTHING = Answer({}, "was not asked")


@dataclass(frozen=True)
class Member:
    """What one host says. `held`: it has the fleet's data, complete. `follows`: address, empty for nobody.

    `promised`: a switchover or failover made it follow nobody and has not come to open it: `switchover ADDRESS` of
    whom it was to replace. `closed`: a switchover closed it, and it opens again by itself.
    """

    name: str
    address: str
    held: bool
    running: bool
    writable: bool
    follows: str
    promised: str = ""
    closed: bool = False


def member(name: str, address: str, seen: Snapshot) -> Member:
    """A member from one look at it; from the files alone where the server does not answer."""
    files = seen.answers.get(FILES_QUERY, _NOTHING)
    server = seen.answers.get(SERVER_QUERY, _NOTHING)
    running = server.ok
    return Member(
        name, address,
        held=files.values.get("origin", "").startswith(("primary", "seeded ")),
        running=running,
        writable=running and server.values.get("variable read_only") == "OFF",
        follows=(server if running else files).values.get("follows", ""),
        promised=files.values.get("promised", ""),
        closed=bool(files.values.get("closed")),
    )  # fmt: skip


def members(fleet: Fleet, seen: Mapping[str, Snapshot]) -> list[Member]:
    """Those of the fleet's members that were looked at."""
    return [member(host.name, host.address, seen[host.name]) for host in fleet.members("mysql") if host.name in seen]


def behind(seen: Snapshot, one: Member, primary: Member, max_lag: float) -> str:
    """Why this member cannot take its primary's place now; empty if it can. max_lag in seconds."""
    values = seen.answers.get(SERVER_QUERY, _NOTHING).values
    if not one.running:
        return "its server does not answer"
    if not one.held:
        return f"its data is {values.get('data', 'unknown')}"
    if one.follows != primary.address:
        return f"follows {one.follows or 'nobody'}"
    if values.get("threads") != "io Yes, sql Yes":
        return f"replication: {values.get('threads', 'none')}"
    if values.get("writes") != "none of its own":
        return f"writes of its own: {values.get('writes')}"
    lag = values.get("lag", "NULL")
    return "" if lag.isdigit() and int(lag) <= max_lag else f"{lag} s behind"


def standings(ctx: Context, seen: Mapping[str, Snapshot]) -> Iterator[Standing]:
    """Each member: primary or replica, how far behind, whether commits wait for replicas."""
    everybody = ctx.fleet.members("mysql")
    found = members(ctx.fleet, seen)
    names = {host.address: host.name for host in everybody}
    lone = sum(one.writable and not one.follows for one in found) == 1
    wanted = ctx.settings.mysql.semi_sync and len(everybody) > 1
    for host in everybody:
        one = next((other for other in found if other.name == host.name), None)
        values = seen[host.name].answers.get(SERVER_QUERY, _NOTHING).values if one else {}
        sync = values.get("semi-sync", "?")
        if one is None or not one.running:
            why = seen[host.name].answers.get(SERVER_QUERY, _NOTHING).error if one else ""
            yield Standing(CLUSTER, host.name, "no answer" if one is None else "not running", False, why)
        elif one.follows:
            well = values.get("threads") == "io Yes, sql Yes" and not one.writable
            yield Standing(
                CLUSTER, host.name, "replica", well and (not wanted or sync == "acknowledges"),
                f"of {names.get(one.follows, one.follows)}, {values.get('threads', '')}, "
                f"{values.get('lag', '?')} s behind, at {values.get('position', '?')}, semi-sync: {sync}"
                + (", takes writes" if one.writable else "") + _plain(ctx, values),
            )  # fmt: skip
        else:
            well = one.writable and lone and (not wanted or sync == "waits for a replica")
            yield Standing(
                CLUSTER, host.name, "primary" if one.writable else "follows nobody", well,
                ("takes writes" if one.writable else "takes no writes")
                + f", at {values.get('position', '?')}, semi-sync: {sync}" + _plain(ctx, values),
            )  # fmt: skip


def _plain(ctx: Context, values: Mapping[str, str]) -> str:
    """What is said of a member that is to be shut to plain text, and is not yet."""
    takes = mysql_tls.on(ctx) and values.get("variable require_secure_transport") == "OFF"
    return ", takes plain text" if takes else ""


def clusters(ctx: Context, seen: Mapping[str, Snapshot]) -> Mapping[str, Cluster]:
    """The database's one cluster.

    Raises:
        FleetError: it cannot be told who is the primary, or a member has what its primary does not.
    """
    found = members(ctx.fleet, seen)
    primary = leader(ctx, seen)
    if primary is not None and primary in seen:
        for one in found:
            if one.held and one.running and one.name != primary:
                _agrees(seen[one.name], one, seen[primary], primary)
    answers = {one.name: seen[one.name].answers.get(SERVER_QUERY, _NOTHING) for one in found}
    unit = ctx.fleet.profile.service("mysql").units[0]
    encrypted = mysql_tls.can_be_shut(ctx, seen, answers, unit)
    return {"mysql": Cluster(primary, frozenset(one.name for one in found if not one.held), encrypted)}


def _agrees(seen: Snapshot, one: Member, at_primary: Snapshot, primary: str) -> None:
    """Refuse a member that wrote what its primary does not have, unless a failover is on record that explains it.

    What a server wrote itself is in the log's state of every server that has it, under the server's number.
    """
    values = seen.answers.get(SERVER_QUERY, _NOTHING).values
    theirs = at_primary.answers.get(SERVER_QUERY, _NOTHING)
    server, writes = values.get("variable server_id", ""), values.get("writes", "none of its own")
    if not theirs.ok or "state" not in theirs.values or not writes.startswith("its own, up to "):
        return
    # A failover that this copy is younger than explains nothing.
    since = seen.answers.get(FILES_QUERY, _NOTHING).values.get("since", "0")
    if int(theirs.values.get(f"lost {server}", 0)) > int(since):
        return
    known = _gtids(theirs.values["state"])
    for (domain, author), number in _gtids(writes.removeprefix("its own, up to ")).items():
        if author == server and number > known.get((domain, author), 0):
            has = known.get((domain, author))
            raise FleetError(
                host=one.name,
                subject=CLUSTER,
                found=f"transactions of its own up to {domain}-{author}-{number}, of which its primary {primary} has "
                + (f"those up to {has}" if has else "none"),
                expected="a replica that has what its primary has, and nothing else",
                hint="mariadb-binlog shows them: write on the primary what is to stay of them; then echo reseed "
                ">/var/lib/mysql/fleet-origin on this host and run apply: it is filled anew. Nothing was changed",
            )


def _gtids(text: str) -> dict[tuple[str, str], int]:
    """(domain, server) -> number, of a list of GTIDs."""
    parts = [part.split("-") for part in text.replace(" ", "").split(",") if part.count("-") == 2]
    return {(domain, server): int(number) for domain, server, number in parts}


def leader(ctx: Context, seen: Mapping[str, Snapshot]) -> str | None:
    """The primary, as the members show it; None when none of them has ever held the fleet's data.

    The writable member that follows nobody. When there is none (a primary comes back read-only from every restart),
    the one that follows nobody and that all the others follow; that takes an answer of every member.

    Raises:
        FleetError: two are writable, or it cannot be told.
    """
    everybody = ctx.fleet.members("mysql")
    found = members(ctx.fleet, seen)
    holders = [one for one in found if one.held]
    heads = [one for one in holders if not one.follows]
    writable = [one for one in heads if one.writable]
    if len(writable) > 1:
        raise FleetError(
            subject="mysql",
            found=f"{len(writable)} writable primaries: {_names(writable)}",
            expected="one",
            hint="find out which has the data that counts; on the other one SET GLOBAL read_only=1, and echo reseed "
            "into /var/lib/mysql/fleet-origin if its copy can go; then run again",
        )
    if writable:
        return writable[0].name
    if silent := [host.name for host in everybody if host.name not in seen]:
        raise FleetError(
            subject="mysql",
            found=f"no writable primary, and no answer of {', '.join(silent)}",
            expected="an answer of every member before a primary is opened or made",
            hint="bring the host back, or take it out of the group in the inventory",
        )
    if not holders:
        return None
    followers = [one for one in holders if one.follows]
    if len(heads) == 1 and all(one.follows == heads[0].address for one in followers):
        return heads[0].name
    # A switchover or failover broke off while the others were made to follow: behind one another, all follow it.
    if len(heads) == 1 and heads[0].promised and all(_ends_in(one, heads[0], holders) for one in followers):
        return heads[0].name
    raise FleetError(
        subject="mysql",
        found=f"no writable primary; {'; '.join(_words(one) for one in found)}",
        expected="one member with the data that follows nobody, followed by all others that have it",
        hint=_way_out(ctx, found),
    )


def _ends_in(one: Member, head: Member, holders: Iterable[Member]) -> bool:
    at = {other.address: other for other in holders}
    passed = {one.name}
    while one.follows in at and at[one.follows].name not in passed:
        one = at[one.follows]
        passed.add(one.name)
    return one is head


def _way_out(ctx: Context, found: Iterable[Member]) -> str:
    """What to do when nobody takes writes and it cannot be told who may."""
    holders = [one for one in found if one.held]
    promised = [one for one in holders if one.promised and not one.follows]
    if promised:
        return (
            f"a {promised[0].promised.partition(' ')[0]} to {_names(promised)} broke off: "
            f"`fleet db {promised[0].promised.partition(' ')[0]}` again goes on with it"
        )
    followed = {one.follows for one in holders}
    addresses = {host.address for host in ctx.fleet.members("mysql")}
    empty = [one for one in found if not one.held and followed == {one.address}]
    if empty:
        return (
            f"{empty[0].name}, which they follow, has lost its disk: `fleet db failover` puts one of them in its "
            "place; then apply fills it anew"
        )
    if len(followed) == 1 and not followed & {"", *addresses}:
        return (
            f"the primary, {followed.pop()}, was taken out of the inventory while it led, and may still take writes: "
            "put it back, move the writes (`fleet db switchover`, or `failover` where it is gone), then take it out"
        )
    return (
        "find the member with the newest data (gtid_current_pos), prove that no other server takes writes, on it STOP "
        "SLAVE; RESET SLAVE ALL; SET GLOBAL read_only=0, and run again: the others are made to follow it"
    )


def _names(members: Iterable[Member]) -> str:
    return ", ".join(one.name for one in members)


def _words(one: Member) -> str:
    what = "has no data of the fleet's" if not one.held else f"follows {one.follows or 'nobody'}"
    return f"{one.name} {what}" + ("" if one.running or not one.held else " (server not answering)")
