"""What a roll refuses, and how it says what came of one that did not hold."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.converge.step import Step
from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.fleet import Fleet
from deploy.model.ways import Way
from deploy.procedures.roll import journal as journals
from deploy.procedures.roll import notes
from deploy.procedures.roll.order import Action, Debt

ABORT = "fleet roll --abort"
"""As the journal calls it."""


def known(fleet: Fleet, service: str, canary: str, *, option: str = "--canary") -> None:
    """Raise FleetError for a service or host that does not exist; `option`: by which the host was given."""
    services = [one.name for one in fleet.services()]
    hosts = [host.name for host in fleet.hosts]
    for name, value, names in (("--service", service, services), (option, canary, hosts)):
        if value and value not in names:
            raise FleetError(subject=name, found=repr(value), expected=f"one of {', '.join(names)}")


def reached(fleet: Fleet, hosts: Container[str], debt: Debt, way: Way) -> None:
    """Raise FleetError for a host that `--limit` leaves out of `hosts`, and this member cannot be rolled without."""
    needed = way.needs(fleet)
    if left_out := [name for name in needed if name not in hosts]:
        raise FleetError(
            host=debt.host, subject=f"roll of {way.name}", found=f"{', '.join(left_out)} left out by --limit",
            expected=f"every host that it is rolled with: {', '.join(needed)}",
            hint="leave out only hosts of other services, or roll those that can be with --service",
        )  # fmt: skip


def unlimited(fleet: Fleet, targets: Container[str]) -> None:
    """Raise FleetError where `--limit` leaves hosts out of what a reboot that died has to be ended with."""
    if left_out := [host.name for host in fleet.hosts if host.name not in targets]:
        raise FleetError(
            subject="--limit", found=f"a reboot that has not ended, and {', '.join(left_out)} left out",
            expected="all hosts", hint="end it without --limit",
        )  # fmt: skip


def applied(plan: Mapping[str, list[Step]]) -> None:
    """The files have to be there before what loads them is restarted."""
    left = [step for steps in plan.values() for step in steps if not step.pending]
    none_left(
        left, "steps", "nothing that apply would still do", "fleet apply first; fleet plan shows what it would do"
    )


def paid(plan: Mapping[str, list[Step]]) -> None:
    """A boot loads what a restart would, without a way back."""
    left = [step for steps in plan.values() for step in steps if step.pending]
    expected = "no restart owed: a boot would load the change, and could not go back from it"
    none_left(left, "restarts owed", expected, "fleet roll first, then fleet roll --reboot")


def none_left(left: Sequence[Step], what: str, expected: str, hint: str) -> None:
    """Raise FleetError, which names the first, if there is any step. what: they are called together."""
    if left:
        raise FleetError(
            host=left[0].host, subject=left[0].key, found=f"{left[0].summary} ({len(left)} {what} in all)",
            expected=expected, hint=hint,
        )  # fmt: skip


def nobody_rolls(left: notes.Left) -> None:
    """Raise FleetError if a roll has a host in hand, or left it so."""
    if left.locks:
        # Where it is at work, rather than where it only holds the lock.
        host = next((name for name in left.last if name in left.locks), next(iter(left.locks)))
        raise notes.held(host, left.locks[host], left.last.get(host, ""))


def nobody_elses(path: Path, left: notes.Left) -> None:
    nobody_rolls(left)
    if found := journals.unfinished(path):
        raise FleetError(
            subject=f"roll of {path.name}",
            found=f"one that was begun at {found.get('at')} and has not ended; its last step: {_last(found)}",
            expected="no unfinished roll",
            hint="--resume goes on with it, --abort brings back what was before",
        )


def _last(found: Mapping[str, Any]) -> str:
    last = found.get("last")
    return str(last["words"]) if last else "none"


def left_over(path: Path, left: notes.Left, *, required: bool = True) -> str:
    """The name of the roll that did not end."""
    if found := journals.unfinished(path):
        return str(found["roll"])
    if left.locks:
        return next(iter(left.locks.values())).get("roll", "unnamed")
    if required:
        raise nothing(path, "--resume")
    return "kept"


def nothing(path: Path, option: str) -> FleetError:
    return FleetError(
        subject=f"roll {option}", found="no roll that has not ended, here or on the hosts", expected="one",
        hint=f"fleet roll {path.name} begins one; fleet roll {path.name} --dry shows what it would do",
    )  # fmt: skip


def went_back(error: FleetError, debt: Debt, way: Way, last: Action, changed: Iterable[str] = ()) -> FleetError:
    """changed: the members that were rolled before this one, and hold."""
    others = ", ".join(changed)
    others = f"{others} run with the change already" if others else "the others were not touched"
    return FleetError(
        host=debt.host,
        subject=f"{way.name}, at the step {last.value!r}",
        found=error.found,
        expected=error.expected,
        hint=f"{debt.host} has its earlier files again and is well; {others}. Correct the change in the "
        "inventory, run fleet apply, then roll again. " + error.hint,
    )


def owed_still(debt: Debt) -> FleetError:
    return FleetError(
        host=debt.host, subject=f"{debt.way}, after its restart", found="; ".join(debt.why),
        expected="nothing that is owed a restart still",
        hint="something on the host overrides what the inventory says: systemctl cat " + debt.units[0],
    )  # fmt: skip


def on_its_way_back(debt: Debt) -> FleetError:
    return FleetError(
        host=debt.host, subject=f"{debt.way}, on its way back", found="a member that is not well",
        expected="it to be well with its earlier files",
        hint="no other member was or will be touched. Mend it by hand, then --resume or --abort; journalctl -u "
        f"{debt.units[0]} on that host says more",
    )  # fmt: skip


def not_back(host: str, path: Path) -> FleetError:
    return FleetError(
        host=host, subject="reboot", found="a host that is not well after its boot, or that a roll had in hand",
        expected="it to serve as before",
        hint=f"no other host was or will be touched. Mend it by hand, then fleet roll {path.name} --resume goes on; "
        "--abort ends the roll as soon as this host is well",
    )  # fmt: skip


def in_the_middle(error: FleetError | FleetErrors, path: Path) -> FleetErrors:
    """Between two members nothing is half done, but the roll has not ended."""
    ended = FleetError(
        subject=f"roll of {path.name}", found="an error between two members: none of them is half done",
        expected="every step to succeed", hint="mend that, then --resume goes on, or --abort goes back",
    )  # fmt: skip
    return FleetErrors([*each_of(error), ended])


def not_complete(path: Path) -> None:
    """A roll that had come to its end before its controller died has proven all of it, and nothing is kept any more."""
    last = (journals.unfinished(path) or {}).get("last")
    going_back = any(line.get("doing") == ABORT for line in journals.read(path))
    if last and not going_back and last.get("action") in {Action.FORGET.name, Action.UNLOCK.name}:
        raise FleetError(
            subject="roll --abort", found="a roll that was complete: every member is restarted and proven",
            expected="one with members to bring back",
            hint="--resume ends it; to go back, put the earlier values into the inventory, apply and roll",
        )  # fmt: skip


class Untouched(FleetErrors):
    """Right before the step that would have changed the member: nothing was changed on it."""


def restless(debt: Debt, way: Way) -> Untouched:
    """It came to lead each time that it was about to be restarted."""
    why = FleetError(
        host=debt.host, subject=f"{way.name}, before its restart", found="it comes to lead again and again",
        expected="a leader that stays", hint="nothing was changed on it; see why the lead moves: fleet status",
    )  # fmt: skip
    return Untouched([why])
