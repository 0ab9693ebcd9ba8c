"""What has to be so before the database's writes are moved: who leads, who could, who is gone, who may hold more."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.errors import FleetError
from deploy.model.fleet import HostSpec
from deploy.procedures.db_members import Members
from deploy.roles.mysql_members import CLUSTER, Member, behind


def promised(found: Members) -> list[Member]:
    """Members that an earlier run made follow nobody, to lead, and did not come to open."""
    if any(one.writable and not one.follows for one in found.seen.values()):
        return []
    return [one for one in found.seen.values() if one.held and one.running and not one.follows and one.promised]


def promised_by(found: Members, one: Member) -> tuple[str, HostSpec]:
    """What promised this member to lead (`switchover`, `failover`), and whom it was to replace.

    Raises:
        FleetError: that is no member any more.
    """
    kind, _, address = one.promised.partition(" ")
    old = next((host for host in found.run.fleet.members("mysql") if host.address == address), None)
    if old is None:
        raise FleetError(
            host=one.name, subject=f"mysql {kind}", found=f"a {kind} that broke off, to replace {address}",
            expected="a member of the inventory", hint="put that host back into the inventory until this is over",
        )  # fmt: skip
    return kind, old


def primary(found: Members) -> Member:
    """The one member that takes writes; or that took them until a switchover closed it and broke off.

    Raises:
        FleetError: there is none, or more than one.
    """
    heads = [one for one in found.seen.values() if not one.follows]
    writable = [one for one in heads if one.writable]
    closed = [one for one in heads if one.closed and one.held and one.running]
    if not writable and len(closed) == 1:
        return closed[0]
    if len(writable) != 1:
        raise FleetError(
            subject=CLUSTER,
            found=f"{len(writable)} members that take writes" + "".join(f" {one.name}" for one in writable),
            expected="one primary",
            hint="a primary that was only restarted is opened by `fleet apply`; one that is gone is replaced by "
            "`fleet db failover`",
        )
    return writable[0]


def everybody(found: Members) -> None:
    """Raise FleetError unless every member answers."""
    if found.silent:
        raise FleetError(
            subject="mysql switchover",
            found=f"no answer of {', '.join(f'{name} ({why})' for name, why in found.silent.items())}",
            expected="an answer of every member",
            hint="bring it back first; where the primary itself is gone: fleet db failover",
        )


def target(found: Members, old: Member, to: str | None, max_lag: float) -> str:
    """Who is to take the writes.

    Raises:
        FleetError: a member does not answer, or is not in step.
    """
    everybody(found)
    if to == old.name:
        raise FleetError(
            host=to, subject="mysql switchover", found="it takes the writes already", expected="a replica",
            hint="there is nothing to do: fleet db status",
        )  # fmt: skip
    fit, unfit = [], []
    for one in found.seen.values():
        if one is old:
            continue
        why = behind(found.run.snapshots[one.name], one, old, max_lag)
        if why:
            unfit.append(f"{one.name}: {why}")
        else:
            fit.append(one.name)
    # Every replica, not only the one chosen: the others follow it next.
    if unfit or not fit or (to and to not in fit):
        raise FleetError(
            subject="mysql switchover",
            found="; ".join(unfit) or (f"{to!r}, which is no replica" if fit else "no replica"),
            expected=f"replicas that run and are at most {max_lag:g} s behind"
            + (f", one of them {to}" if to and to not in fit else ""),
            hint="`fleet db status` shows them; `fleet apply` mends what is only stopped",
        )
    return to or fit[0]


def lost(found: Members, without: tuple[str, ...] = ()) -> HostSpec:
    """The primary that is gone: whom the replicas follow, or whom a failover that broke off was to replace.

    Raises:
        FleetError: there is one that serves, or it cannot be told who it was.
    """
    fleet = found.run.fleet
    for one in promised(found):
        if one.name not in without:
            return promised_by(found, one)[1]
    serving = [one for one in found.seen.values() if one.writable and not one.follows]
    followed = {one.follows for one in found.seen.values() if one.follows and one.held and one.name not in without}
    if len(followed) != 1:
        raise FleetError(
            subject="mysql failover",
            found=f"replicas that follow {', '.join(sorted(followed)) or 'nobody'}",
            expected="all replicas to follow the primary that is gone",
            hint="fleet db status",
        )
    address = followed.pop()
    old = next((host for host in fleet.members("mysql") if host.address == address), None)
    if old is None:
        raise FleetError(
            subject="mysql failover", found=f"replicas that follow {address}", expected="a member of the inventory",
            hint="put the host back into the inventory until it is replaced, then take it out",
        )  # fmt: skip
    if any(one.name != old.name for one in serving):
        raise FleetError(
            subject="mysql failover", found=f"{serving[0].name} takes writes", expected="no primary",
            hint="there is nothing to replace: fleet db status",
        )  # fmt: skip
    return old


def fence(found: Members, old: HostSpec, do: bool, fenced: str) -> None:
    """Make sure that the old primary serves nobody, and does not begin to. do: where that is not so, see to it.

    Raises:
        FleetError: it may serve.
    """
    if not found.connected(old.name):
        if not fenced:
            raise FleetError(
                host=old.name,
                subject="mysql failover",
                found=f"the old primary does not answer ({found.silent.get(old.name, '')}): it may still serve others",
                expected="proof that it does not",
                hint="switch it off or shut its port, and say so: --fenced 'powered off by ...'",
            )
        return
    seen = found.run.snapshots.get(old.name)
    unit = seen.units["mariadb.service"] if seen else None
    if unit is not None and unit.load == "not-found":
        # Its disk is gone, and its server with it: nothing there could start.
        found.without_server(old.name)
        return
    masked = unit is not None and (unit.load == "masked" or unit.file_state in {"masked", "masked-runtime"})
    # One that is still shutting down may serve for a quarter of an hour.
    if masked and unit is not None and unit.active in {"inactive", "failed"}:
        found.ask(old.name, "fenced")
        return
    if not do:
        state = f"unit is {unit.active}" if unit else f"host cannot be looked at ({found.silent.get(old.name, '')})"
        raise FleetError(
            host=old.name,
            subject="mysql failover",
            found=f"the old primary's {state}{'' if masked else ', and may start at any time'}",
            expected="stopped and masked",
            hint="--fence does that first; where it is well, `fleet db switchover` is what you want",
        )
    found.ask(old.name, "fence", seconds=60)


def nobody_missing(found: Members, old: HostSpec, without: tuple[str, ...]) -> None:
    """A commit was acknowledged when one replica had it: that may be the one that cannot be asked.

    Raises:
        FleetError: there is such a one, and nobody has given it up.
    """
    known = {host.name for host in found.run.fleet.members("mysql")}
    if unknown := [name for name in without if name not in known]:
        raise FleetError(
            subject="--without", found=", ".join(unknown), expected=f"members: {', '.join(sorted(known))}",
            hint="correct the name",
        )  # fmt: skip
    missing = dict(found.silent)
    for one in found.seen.values():
        if one.held and not one.running:
            missing[one.name] = "its server does not answer"
        elif one.held and not one.follows and not one.promised:
            missing[one.name] = "follows nobody"
    missing = {name: why for name, why in missing.items() if name not in {old.name, *without}}
    if missing:
        # After a failover that came about, its own primary is what this one would replace.
        leads = found.seen.get(old.name)
        serves = f"; and {old.name} takes writes: there may be nothing to replace" if leads and leads.writable else ""
        raise FleetError(
            subject="mysql failover",
            found=f"no answer of {', '.join(f'{name} ({why})' for name, why in missing.items())}{serves}",
            expected="every replica: it may be the only one that has the last commits",
            hint="bring it back; or give up what only it may have: "
            + " ".join(f"--without {name}" for name in missing),
        )


def most(positions: Mapping[str, str], to: str | None, rather: str = "") -> str:
    """The replica that has most; `to`, else `rather`, if it has as much."""

    def sequence(position: str) -> int:
        return max((int(part.rpartition("-")[2]) for part in position.split(",") if part), default=0)

    best = max(sequence(position) for position in positions.values())
    equal = [name for name, position in positions.items() if sequence(position) == best]
    if to and to not in equal:
        raise FleetError(
            host=to, subject="mysql failover", found=f"position {positions.get(to, 'none: no replica')}",
            expected=f"as much as {equal[0]} has: {positions[equal[0]]}", hint=f"leave --to out, or --to {equal[0]}",
        )  # fmt: skip
    return to or (rather if rather in equal else equal[0])
