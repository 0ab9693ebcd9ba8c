"""Who takes the database's writes: to see it, to move it in order, and to move it when its host is gone.

Only a person starts either. What can go wrong half-way leaves no second primary: a closed primary opens again by
itself only while every other member says that it takes no writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api import Config, Host, State
from pyinfra.context import ctx_state

from deploy.converge import lock, remote
from deploy.converge.engine import Run
from deploy.converge.inventory import connect_one, folder, load, open_keys
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.fleet import HostSpec
from deploy.roles.mysql import ROLE_TOOL, server_id
from deploy.roles.mysql_members import CLUSTER, Member, behind, member

REOPEN_SECONDS = 60
"""After which a closed primary tries to open again by itself."""
PROMOTE_WITHIN = 20.0
"""Seconds after the close in which the other may still be promoted: well before the old one could open again."""


@dataclass
class Members:
    """The database's members: those that answer, looked at; and why the others do not."""

    run: Run
    seen: dict[str, Member]
    silent: dict[str, str] = field(default_factory=dict)

    def ask(self, name: str, *words: str, seconds: int = 30) -> str:
        """Run a part on a member; its one line.

        Raises:
            FleetError: it did not come about.
        """
        reply = remote.run(self.run.hosts[name], f"{ROLE_TOOL} {' '.join(words)}\n", seconds=seconds)
        said = " ".join((reply.stdout or reply.stderr)[-2:])
        if not reply.ok:
            raise FleetError(
                host=name, subject=f"mysql {words[0]}", found=self.run.masker(said or "no word of why"),
                expected="the step to succeed", hint="fleet db status shows where the members stand",
            )  # fmt: skip
        return reply.stdout[-1] if reply.stdout else ""


@contextmanager
def members(name: str, identity: Path | None = None, lock_for: str | None = None) -> Iterator[Members]:
    """The database's members, looked at; one that does not answer is no obstacle yet."""
    path = folder(name)
    inventory, fleet = load(path)
    hosts = {host.name: host for host in inventory if fleet.host(host.name).has("mysql")}
    state = State(inventory, Config(CONNECT_TIMEOUT=5))
    with ctx_state.use(state):
        silent: dict[str, str] = {}
        answers: dict[str, Host] = {}

        def reach(one: str) -> None:
            try:
                connect_one(hosts[one])
                answers[one] = hosts[one]
            except FleetError as error:
                silent[one] = error.found

        with lock.hold(path, lock_for) if lock_for else nullcontext():
            try:
                run = Run(fleet, path, open_keys(path, identity), answers, frozenset())
                together(hosts, reach)
                together(answers, run.look)
                seen = {
                    host.name: member(host.name, host.address, run.snapshots[host.name])
                    for host in fleet.members("mysql")
                    if host.name in answers
                }
                yield Members(run, seen, silent)
            finally:
                for host in hosts.values():
                    if host.connected:
                        host.disconnect()


def _primary(found: Members) -> Member:
    """The one member that takes writes.

    Raises:
        FleetError: there is none, or more than one.
    """
    writable = [one for one in found.seen.values() if one.writable and not one.follows]
    if len(writable) != 1:
        raise FleetError(
            subject=CLUSTER,
            found=f"{len(writable)} members that take writes" + "".join(f" {one.name}" for one in writable),
            expected="one primary",
            hint="a primary that was only restarted is opened by `fleet apply`; one that is gone is replaced by "
            "`fleet db failover`",
        )
    return writable[0]


@dataclass(frozen=True)
class Moved:
    """What a switchover or failover did. `pause`: seconds in which nobody took writes."""

    old: str
    new: str
    position: str
    pause: float
    left: tuple[str, ...] = ()


def switchover(name: str, to: str | None, identity: Path | None = None, max_lag: float = 5.0) -> Moved:
    """Move the writes to another member, in order: no transaction is lost, none is done twice.

    Raises:
        FleetError: not everything is well (nothing was changed), or a step did not come about (what was closed is
        open again, or opens by itself).
    """
    with members(name, identity, "fleet db switchover") as found:
        return move(found, to, max_lag)


def move(found: Members, to: str | None, max_lag: float = 5.0) -> Moved:
    """A switchover among members that were looked at a moment ago, under a lock that is held already.

    Raises:
        FleetError: see `switchover`.
    """
    old = _primary(found)
    new = _target(found, old, to, max_lag)
    others = [one.name for one in found.seen.values() if one.name not in {old.name, new}]
    spec = found.run.fleet.host(new)
    begun = time.monotonic()
    position = found.ask(old.name, "close", str(REOPEN_SECONDS))
    try:
        found.ask(new, "reached", f"'{position}'", seconds=15)
        if time.monotonic() - begun > PROMOTE_WITHIN:
            raise FleetError(
                host=new, subject="mysql switchover", found=f"{time.monotonic() - begun:.0f} s gone",
                expected=f"at most {PROMOTE_WITHIN:.0f} s from the close to the promotion",
                hint="nothing was moved; see what is slow and try again",
            )  # fmt: skip
    except FleetError:
        found.ask(old.name, "reopen")
        raise
    found.ask(new, "lead", seconds=10)
    together([old.name, *others], lambda one: found.ask(one, "follow", spec.address, seconds=20))
    found.ask(new, "open", seconds=20)
    return Moved(old.name, new, position, time.monotonic() - begun)


def _target(found: Members, old: Member, to: str | None, max_lag: float) -> str:
    if found.silent:
        raise FleetError(
            subject="mysql switchover",
            found=f"no answer of {', '.join(f'{name} ({why})' for name, why in found.silent.items())}",
            expected="an answer of every member",
            hint="bring it back first; where the primary itself is gone: fleet db failover",
        )
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


def failover(
    name: str, to: str | None, identity: Path | None = None, *, fence: bool = False, fenced: str = "",
    without: tuple[str, ...] = (),
) -> Moved:  # fmt: skip
    """Replace a primary that is gone: by the replica that has most, once the old one is proven not to serve.

    fence: stop and mask it, where its host can be reached. fenced: how a person knows that a host that cannot be
    reached does not serve (it is off, its port is shut). without: replicas that are known to be lost too.

    Raises:
        FleetError: it is not fenced, or a member that may hold more does not answer; nothing was changed.
    """
    with members(name, identity, "fleet db failover") as found:
        old = _lost(found)
        _fence(found, old, fence, fenced)
        _nobody_missing(found, old, without)
        replicas = [one.name for one in found.seen.values() if one.name != old.name and one.held and one.running]
        if not replicas:
            raise FleetError(
                subject="mysql failover", found="no replica with the fleet's data", expected="one that can lead",
                hint="bring a replica back; or the old primary",
            )  # fmt: skip
        begun = time.monotonic()
        positions = together(replicas, lambda one: found.ask(one, "drained", seconds=60))
        new = _most(positions, to)
        spec = found.run.fleet.host(new)
        found.ask(new, "lead", seconds=10)
        others = [one for one in replicas if one != new]
        together(others, lambda one: found.ask(one, "follow", spec.address, seconds=20))
        found.ask(new, "open", str(server_id(old)), f"'{positions[new]}'", seconds=20)
        return Moved(old.name, new, positions[new], time.monotonic() - begun, tuple(found.silent))


def _lost(found: Members) -> HostSpec:
    """The primary that is gone: whom the replicas follow.

    Raises:
        FleetError: there is one that serves, or it cannot be told who it was.
    """
    fleet = found.run.fleet
    serving = [one for one in found.seen.values() if one.writable and not one.follows]
    followed = {one.follows for one in found.seen.values() if one.follows and one.held}
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
            hint="put the host back into the inventory, or repoint the replicas by hand",
        )  # fmt: skip
    if any(one.name != old.name for one in serving):
        raise FleetError(
            subject="mysql failover", found=f"{serving[0].name} takes writes", expected="no primary",
            hint="there is nothing to replace: fleet db status",
        )  # fmt: skip
    return old


def _fence(found: Members, old: HostSpec, fence: bool, fenced: str) -> None:
    if old.name in found.silent:
        if not fenced:
            raise FleetError(
                host=old.name,
                subject="mysql failover",
                found=f"the old primary does not answer ({found.silent[old.name]}): it may still serve others",
                expected="proof that it does not",
                hint="switch it off or shut its port, and say so: --fenced 'powered off by ...'",
            )
        return
    unit = found.run.snapshots[old.name].units["mariadb.service"]
    masked = unit.load == "masked" or unit.file_state in {"masked", "masked-runtime"}
    if not unit.running and masked:
        return
    if not fence:
        raise FleetError(
            host=old.name,
            subject="mysql failover",
            found=f"the old primary's unit is {unit.active}{'' if masked else ', and may start at any time'}",
            expected="stopped and masked",
            hint="--fence does that first; where it is well, `fleet db switchover` is what you want",
        )
    found.ask(old.name, "fence", seconds=60)


def _nobody_missing(found: Members, old: HostSpec, without: tuple[str, ...]) -> None:
    """A commit was acknowledged when one replica had it: that may be the one that does not answer."""
    missing = [name for name in found.silent if name not in {old.name, *without}]
    if missing:
        raise FleetError(
            subject="mysql failover",
            found=f"no answer of {', '.join(missing)}",
            expected="every replica: it may be the only one that has the last commits",
            hint="bring it back; or give up what only it may have: "
            + " ".join(f"--without {name}" for name in missing),
        )


def _most(positions: Mapping[str, str], to: str | None) -> str:
    """The replica that has most; `to` if it has as much."""

    def sequence(position: str) -> int:
        return max((int(part.rpartition("-")[2]) for part in position.split(",") if part), default=0)

    best = max(sequence(position) for position in positions.values())
    equal = [name for name, position in positions.items() if sequence(position) == best]
    if to and to not in equal:
        raise FleetError(
            host=to, subject="mysql failover", found=f"position {positions.get(to, 'none: no replica')}",
            expected=f"as much as {equal[0]} has: {positions[equal[0]]}", hint=f"leave --to out, or --to {equal[0]}",
        )  # fmt: skip
    return to or equal[0]
