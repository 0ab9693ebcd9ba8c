"""What is owed, in which order it is paid, and the steps that this takes: pure. --dry prints what a run then does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from deploy.converge.step import Step, units_of
from deploy.model.catalog import CATALOG
from deploy.model.resources import Package
from deploy.model.ways import Way


class Action(Enum):
    """A kind of step, as the journal and people call it."""

    LOCK = "lock the hosts"
    FETCH = "fetch the packages, and keep the earlier ones"
    BEFORE = "gate before"
    NOTE = "note on the host"
    HAND_OVER = "hand over the lead"
    DRAIN = "drain"
    BACK = "bring the earlier files back"
    INSTALL = "install"
    RESTART = "restart"
    REBOOT = "boot anew"
    RETURN = "wait until it is back"
    AFTER = "gate after"
    UNDRAIN = "undrain"
    WATCH = "watch the canary"
    SETTLE = "settle"
    FINISH = "finish"
    FORGET = "forget the earlier files"
    UNLOCK = "unlock the hosts"


@dataclass(frozen=True)
class Debt:
    """A member that is owed restarts, and why. `begun`: a roll that died has left it half done.

    `packages`: SOURCE=VERSION to be installed while it is out. `shared`: all units of the host that run from those.
    """

    host: str
    way: str
    units: tuple[str, ...]
    why: tuple[str, ...] = ()
    begun: bool = False
    packages: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deed:
    """One step. No host: it concerns the whole fleet. `units`: those concerned, or SOURCE=VERSION to be installed.

    `to`: who is to get a lead that is handed over; empty: whoever the service takes.
    """

    action: Action
    host: str = ""
    way: str = ""
    units: tuple[str, ...] = ()
    to: str = ""

    def words(self) -> str:
        where = f"{self.host}: {self.way}: " if self.host else ""
        units = f" {' '.join(self.units)}" if self.units else ""
        to = f" to {self.to}" if self.to else ""
        return f"{where}{self.action.value}{to}{units}"


Ways = Mapping[str, tuple[Way, ...]]
"""Host -> the ways of its services."""


def zones_of(ways: Ways) -> dict[str, str]:
    """Host -> its failure domain."""
    return {host: own[0].zone if own else "" for host, own in ways.items()}


def way_of(ways: Ways, host: str, name: str) -> Way:
    return next(way for way in ways[host] if way.name == name)


def chosen(ways: Ways, service: str, noted: frozenset[tuple[str, str]] = frozenset()) -> dict[str, tuple[Way, ...]]:
    """The ways of this service (empty: of all), and those that a dead roll has left half done."""

    def wanted(host: str, way: Way) -> bool:
        return service in {"", way.service} or (host, way.name) in noted

    return {host: tuple(way for way in own if wanted(host, way)) for host, own in ways.items()}


def debts(plan: Mapping[str, Sequence[Step]], ways: Ways, noted: Iterable[tuple[str, str]] = ()) -> list[Debt]:
    """Who is owed what, from the hosts' own word. noted: (host, way) that a dead roll has left half done."""
    half_done = set(noted)
    found = []
    for host, steps in plan.items():
        why: dict[str, list[str]] = {}
        installs: list[Package] = []
        for step in steps:
            if not step.pending:
                continue
            for unit in units_of(step):
                why.setdefault(unit, []).append(f"{step.key}: {step.summary}")
            if isinstance(step.resource, Package):
                installs.append(step.resource)
        for way in ways.get(host, ()):
            begun = (host, way.name) in half_done
            owed = tuple(unit for unit in way.units if unit in why or begun)
            if owed:
                reasons = dict.fromkeys(reason for unit in owed for reason in why.get(unit, ()))
                own = [item for item in installs if set(item.units) & set(way.units)]
                found.append(
                    Debt(
                        host, way.name, owed, tuple(reasons) or ("left half done",), begun,
                        tuple(dict.fromkeys(f"{item.origin}={item.version}" for item in own)),
                        tuple(dict.fromkeys(unit for item in own for unit in item.units)),
                    )
                )  # fmt: skip
    return found


def sequence(owed: Iterable[Debt], ways: Ways, leaders: Mapping[str, str], canary: str = "") -> list[Debt]:
    """The order: services as they depend on one another; half done ones first; who leads last; else the canary first.

    Between these, all members of one failure domain before those of the next; the leader's domain is the last of them.
    leaders: cluster -> host, as the members say at the moment.
    """
    hosts = list(ways)
    services = [service.name for service in CATALOG]
    zones = zones_of(ways)

    def rank(debt: Debt) -> tuple[tuple[int, bool], str, bool, bool, bool, tuple[bool, bool, str], int]:
        way = way_of(ways, debt.host, debt.way)
        leader = leaders.get(way.cluster, "") if way.cluster else ""
        zone = zones[debt.host]
        domain = (zone == zones.get(leader), zone != zones.get(canary), zone)
        place = services.index(way.ahead_of or way.service), not way.ahead_of
        return (
            place, debt.way, not debt.begun, leader == debt.host, debt.host != canary, domain,
            hosts.index(debt.host),
        )  # fmt: skip

    return sorted(owed, key=rank)


def deeds(debt: Debt, way: Way, *, leads: bool, canary: bool, back: bool = False) -> list[Deed]:
    """The steps for one member. back: to what it had loaded before, not to what is on its disk now."""

    def deed(action: Action, units: tuple[str, ...] = ()) -> Deed:
        return Deed(action, debt.host, debt.way, units)

    installs = debt.packages if not back else ()
    found = [deed(Action.FETCH, installs)] if installs else []
    found += [deed(Action.BEFORE), deed(Action.NOTE)]
    if leads and way.moves:
        found.append(deed(Action.HAND_OVER))
    if way.drain:
        found.append(deed(Action.DRAIN))
    if installs:
        found.append(deed(Action.INSTALL, installs))
    if back:
        found.append(deed(Action.BACK, debt.units))
    found += [deed(Action.RESTART, debt.units), deed(Action.AFTER)]
    if way.undrain:
        found.append(deed(Action.UNDRAIN))
    if canary:
        found.append(deed(Action.WATCH))
    return [*found, deed(Action.SETTLE, debt.units)]


def whole(
    owed: Iterable[Debt], ways: Ways, leaders: Mapping[str, str], canary: str = "", *, back: bool = False,
) -> list[Deed]:  # fmt: skip
    """All steps, if who leads stays as it is but for what the roll itself hands over."""
    order = sequence(owed, ways, leaders, canary)
    found = [Deed(Action.LOCK)] if order else []
    installed: set[tuple[str, str]] = set()
    for number, debt in enumerate(order):
        # Whoever of a host is first installs for all that run from the same packages; the others are restarted.
        left = tuple(one for one in debt.packages if (debt.host, one) not in installed)
        installed |= {(debt.host, one) for one in left}
        debt = replace(debt, packages=left)
        way = way_of(ways, debt.host, debt.way)
        first = number == 0 or order[number - 1].way != debt.way
        leads = bool(way.cluster) and leaders.get(way.cluster) == debt.host
        found += deeds(debt, way, leads=leads, canary=first and not back, back=back)
        last = number + 1 == len(order) or order[number + 1].way != debt.way
        if last and way.finish:
            found.append(Deed(Action.FINISH, debt.host, debt.way))
    return [*found, Deed(Action.FORGET), Deed(Action.UNLOCK)] if order else []
