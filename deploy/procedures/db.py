"""Who takes the database's writes: to see it, to move it in order, and to move it when its host is gone.

Only a person starts either. What can go wrong half-way leaves no second primary: a closed primary opens again by
itself only while every other member says that it takes no writes. A move that broke off is gone on with by the same
command: the member that was to lead says so, on its disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors
from deploy.procedures import db_proofs as proofs
from deploy.procedures.db_members import Members, members
from deploy.roles.mysql import server_id
from deploy.roles.mysql_members import Member

__all__ = ["Moved", "failover", "members", "switchover"]

REOPEN_SECONDS = 60
"""After which a closed primary tries to open again by itself."""
PROMOTE_WITHIN = 20.0
"""Seconds after the close in which the other may still be promoted: well before the old one could open again."""
OPEN_WITHIN = 35.0
"""The same for opening it while the old one was not seen to follow: opening takes up to 20 seconds more."""
OPEN = "open"


@dataclass(frozen=True)
class Moved:
    """What a switchover or failover did. `pause`: seconds in which nobody took writes, of this run.

    `left`: members that did not answer. `notes`: what is not yet as it should be, for a person to read.
    """

    old: str
    new: str
    position: str
    pause: float
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def switchover(name: str, to: str | None, identity: Path | None = None, max_lag: float = 5.0) -> Moved:
    """Move the writes to another member, in order: no transaction is lost, none is done twice.

    Raises:
        FleetError: not everything is well (nothing was changed), or a step did not come about (what was closed is
        open again, or opens by itself).
        FleetErrors: a step did not come about, and what was closed stays so.
    """
    with members(name, identity, "fleet db switchover") as found:
        return move(found, to, max_lag)


def move(found: Members, to: str | None, max_lag: float = 5.0) -> Moved:
    """A switchover among members that were looked at a moment ago, under a lock that is held already.

    Raises:
        FleetError, FleetErrors: see `switchover`.
    """
    if begun_before := proofs.promised(found):
        old, new = _broken_off(found, begun_before, to)
    else:
        old = proofs.primary(found)
        new = proofs.target(found, old, to, max_lag)
    found.touch()
    begun = time.monotonic()
    position = ""
    if not old.follows:
        again = () if old.writable else ("again",)
        position = found.ask(old.name, "close", str(REOPEN_SECONDS), *again)
        # Until the other is told to open, nobody but this run can make it a primary.
        with _opened_again(found, old.name):
            if time.monotonic() - begun > PROMOTE_WITHIN:
                raise FleetError(
                    host=new, subject="mysql switchover", found=f"{time.monotonic() - begun:.0f} s gone",
                    expected=f"at most {PROMOTE_WITHIN:.0f} s from the close to the promotion",
                    hint="nothing was moved; see what is slow and try again",
                )  # fmt: skip
            reached = ("reached", f"'{position}'")
            led = found.ask(new, "lead", "switchover", old.address, first=reached, seconds=15)
    else:
        led = found.ask(new, "lead", "switchover", old.address, seconds=15)
    others = [one for one in found.seen if one != new]
    notes = _follow(found, others, new)
    if old.name in notes and time.monotonic() - begun > OPEN_WITHIN:
        raise FleetError(
            host=old.name, subject="mysql switchover", found=f"it does not follow {new}: {notes[old.name]}",
            expected="the old primary to follow, or to be closed for long enough yet",
            hint="fleet db switchover again goes on from here; where the old primary is gone: fleet db failover",
        )  # fmt: skip
    notes |= _open(found, new)
    return Moved(old.name, new, position or led, time.monotonic() - begun, notes=tuple(notes.values()))


@contextmanager
def _opened_again(found: Members, name: str) -> Iterator[None]:
    """Should the block fail, its primary takes writes again; should that fail as well, both are said."""
    try:
        yield
    except FleetError as error:
        try:
            found.ask(name, "reopen", "force")
        except FleetError as second:
            raise FleetErrors([error, second]) from None
        raise


def _broken_off(found: Members, promised: list[Member], to: str | None) -> tuple[Member, str]:
    """The old and the new primary of a switchover that an earlier run began.

    Raises:
        FleetError: it was a failover; or somebody who is needed does not answer.
    """
    kind, spec = proofs.promised_by(found, promised[0])
    new = promised[0].name
    if len(promised) > 1 or kind != "switchover" or (to or new) != new:
        raise FleetError(
            subject="mysql switchover",
            found=f"a {kind} to {', '.join(one.name for one in promised)} that broke off",
            expected="none, or one to be gone on with",
            hint=f"fleet db {kind} again goes on with it" + (f", without --to {to}" if to else ""),
        )
    proofs.everybody(found)
    return found.seen[spec.name], new


def _follow(found: Members, names: Iterable[str], new: str) -> dict[str, str]:
    """Make members follow the new primary; host -> why one does not. It is opened all the same: writers wait for it."""
    address = found.run.fleet.host(new).address
    failed: dict[str, str] = {}

    def one(name: str) -> None:
        try:
            found.ask(name, "follow", address, seconds=20)
        except FleetError as error:
            failed[name] = f"{name} does not follow {new} yet ({error.found}): fleet apply mends it"

    together(names, one)
    return failed


def _open(found: Members, new: str, *lost: str) -> dict[str, str]:
    said = found.ask(new, OPEN, *lost, seconds=20)
    return {} if said == OPEN else {new: f"{new}: {said}"}


def failover(
    name: str, to: str | None, identity: Path | None = None, *, fence: bool = False, fenced: str = "",
    without: tuple[str, ...] = (),
) -> Moved:  # fmt: skip
    """Replace a primary that is gone: by the replica that has most, once the old one is proven not to serve.

    fence: stop and mask it, where its host can be reached. fenced: how a person knows that a host that cannot be
    reached does not serve (it is off, its port is shut). without: replicas that are known to be lost too, or are not
    to be waited for: what only they have is given up.

    Raises:
        FleetError: it is not fenced, or a member that may hold more does not answer; nothing was changed.
    """
    with members(name, identity, "fleet db failover") as found:
        old = proofs.lost(found, without)
        proofs.nobody_missing(found, old, without)
        replicas = [
            one.name for one in found.seen.values() if one.held and one.running and one.name not in {old.name, *without}
        ]
        if not replicas:
            raise FleetError(
                subject="mysql failover", found="no replica with the fleet's data", expected="one that can lead",
                hint="bring a replica back; or the old primary",
            )  # fmt: skip
        proofs.fence(found, old, fence, fenced)
        found.touch()
        begun = time.monotonic()
        positions = together(replicas, lambda one: found.ask(one, "drained", seconds=60))
        new = proofs.most(positions, to, next((one.name for one in proofs.promised(found)), ""))
        found.ask(new, "lead", "failover", old.address, seconds=15)
        notes = _follow(found, [one for one in replicas if one != new], new)
        notes |= _open(found, new, str(server_id(old)), f"'{positions[new]}'")
        return Moved(
            old.name, new, positions[new], time.monotonic() - begun, tuple(found.silent), tuple(notes.values())
        )
