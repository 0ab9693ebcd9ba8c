"""A roll from its lock to its end: owed, ordered, taken step by step, written down before each; and its ways back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from deploy.converge.engine import Run
from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.ways import Way
from deploy.procedures.roll import journal as journals
from deploy.procedures.roll import notes, reboots, refusals
from deploy.procedures.roll.journal import Journal
from deploy.procedures.roll.mending import take_over
from deploy.procedures.roll.order import Action, Debt, Deed, chosen, debts, deeds, sequence, way_of, whole
from deploy.procedures.roll.steps import MOVES, Options, Rolled, Say, Steps, leaders
from deploy.procedures.roll.taking import Hands, Moved, ways_of
from deploy.procedures.session import Session

__all__ = ["Options", "Rolled", "abort", "dry", "resume", "roll"]


def dry(session: Session, options: Options) -> list[Deed]:
    """The steps that `roll` would take now.

    Raises:
        FleetError: it would refuse.
    """
    _refuse(session, options)
    run = session.run
    ways = chosen(ways_of(run), options.service)
    return whole(_owed(run, ways), ways, leaders(run.live), options.canary)


def roll(session: Session, options: Options, say: Say = lambda _: None) -> Rolled:
    """Pay what is owed.

    Raises:
        FleetError, FleetErrors: it refuses to begin, or it cannot go on and could not go back: then the notes stay.
    """
    _refuse(session, options)
    run = session.run
    if not _owed(run, chosen(ways_of(run), options.service)):
        return Rolled("nothing")
    journal = Journal.begin(session.path, options.doing, **options.asked())
    rolling = _Roll(session, options, journal, say)
    rolling.begin()
    return rolling.go()


def resume(session: Session, options: Options, say: Say = lambda _: None) -> Rolled:
    """Go on with a roll that did not end: what is stopped is started, what is half done is done again, then the rest.

    session: not looked at yet, since what a dead roll left may have to be mended before it can be told who leads.

    Raises:
        FleetError, FleetErrors: as `roll`; or there is nothing to go on with.
    """
    refusals.known(session.run.fleet, options.service, options.canary)
    left = notes.read(session.run)
    name = refusals.left_over(session.path, left)
    options, boots = _as_begun(session, options, left)
    journal = Journal.resume(session.path, name, "fleet roll --resume")
    if boots:
        return reboots.resume(session, options, journal, say, left)
    rolling = _Roll(session, options, journal, say, noted=left.noted)
    take_over(rolling)
    return rolling.go()


def abort(session: Session, options: Options, say: Say = lambda _: None) -> Rolled:
    """Bring every member back to what it had loaded before the change; those that were restarted, through the gates.
    Where the roll, or this, is of one service, its members alone, and who was left half done.

    session: not looked at yet, as for `resume`.

    Raises:
        FleetError, FleetErrors: there is nothing to go back from, or a member could not be brought back.
    """
    refusals.known(session.run.fleet, options.service, options.canary)
    left = notes.read(session.run)
    if not journals.unfinished(session.path) and not left.locks:
        # No roll: then what was restarted since was restarted by somebody else, and runs with the change.
        left = replace(left, kept=tuple(one for one in left.kept if not one.touched))
        if not left.kept:
            raise refusals.nothing(session.path, "--abort")
    refusals.not_complete(session.path)
    roll_name = refusals.left_over(session.path, left, required=False)
    options, boots = _as_begun(session, options, left)
    journal = Journal.resume(session.path, roll_name, refusals.ABORT)
    if boots:
        return reboots.abort(session, options, journal, say, left)
    rolling = _Roll(session, options, journal, say, noted=left.noted)
    take_over(rolling)
    return rolling.back(left)


def _as_begun(session: Session, options: Options, left: notes.Left) -> tuple[Options, bool]:
    """The options of the roll that did not end, but for what these say themselves; and whether it is a reboot.

    Raises:
        FleetError: it is, and hosts were left out.
    """
    asked = notes.begun(session.path, left)
    boots = reboots.left(asked["doing"], left)
    if boots:
        refusals.unlimited(session.run.fleet, session.run.targets)
    return options.as_begun(asked), boots


def _refuse(session: Session, options: Options) -> None:
    run = session.run
    refusals.known(run.fleet, options.service, options.canary)
    refusals.nobody_elses(session.path, notes.read(run))
    refusals.applied(run.plan())


def _owed(run: Run, ways: Mapping[str, tuple[Way, ...]]) -> list[Debt]:
    """What is to be paid.

    Raises:
        FleetError: a host that it takes was left out.
    """
    found = debts(run.plan(), ways)
    for debt in found:
        refusals.reached(run.fleet, run.hosts, debt, way_of(ways, debt.host, debt.way))
    return found


class _Roll(Steps):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.hands = Hands(self.run, self.gates, self.journal.roll, self.journal.who, self._noticed)

    # -- forward -------------------------------------------------------------------------------------------

    def go(self) -> Rolled:
        proven: set[str] = set()
        settled: set[tuple[str, str]] = set()
        expected = dict(leaders(self.run.live))
        moves = 0
        while True:
            ways = chosen(ways_of(self.run), self.options.service, self.noted)
            order = sequence(
                debts(self.run.plan(), ways, self.noted), ways, leaders(self.run.live), self.options.canary
            )
            if not order:
                break
            debt = order[0]
            way = way_of(ways, debt.host, debt.way)
            refusals.reached(self.run.fleet, self.run.hosts, debt, way)
            if (debt.host, debt.way) in settled:
                return self._stop(refusals.owed_still(debt), debt, way)
            try:
                self._member(debt, way, canary=debt.way not in proven)
            except Moved:
                moves += 1
                if moves > MOVES:
                    return self._stop(refusals.restless(debt, way), debt, way)
                self._noticed(f"{debt.host} has come to lead {way.cluster}: the order is worked out again")
                with suppress(FleetError, FleetErrors):
                    self.hands.on_all(way.undrain, f"{way.name}: undrain")
                self._look()
                continue
            except (FleetError, FleetErrors) as error:
                return self._stop(error, debt, way)
            proven.add(debt.way)
            settled.add((debt.host, debt.way))
            self.noted -= {(debt.host, debt.way)}
            if not any(other.way == debt.way for other in order[1:]) and way.finish:
                try:
                    self._take(Deed(Action.FINISH, debt.host, debt.way), debt, way)
                except (FleetError, FleetErrors) as error:
                    raise refusals.in_the_middle(error, self.session.path) from None
            self._look()
            expected = self._compared(expected, debt, way)
        self._end("done")
        return Rolled("done", tuple(self.taken))

    def _member(self, debt: Debt, way: Way, *, canary: bool) -> None:
        leads = bool(way.cluster) and leaders(self.run.live).get(way.cluster) == debt.host
        self.journal.write("owed", host=debt.host, way=debt.way, why=debt.why, leads=leads)
        for deed in deeds(debt, way, leads=leads, canary=canary):
            self._take(deed, debt, way)

    def _compared(self, expected: Mapping[str, str], debt: Debt, way: Way) -> dict[str, str]:
        """Says so when somebody leads whom this roll did not make lead."""
        found = dict(leaders(self.run.live))
        for cluster, host in found.items():
            ours = cluster == way.cluster and expected.get(cluster) == debt.host
            if expected.get(cluster) not in {None, host} and not ours:
                self._noticed(f"{host} leads {cluster} now, not {expected[cluster]}: the order is worked out again")
        return found

    # -- the way back --------------------------------------------------------------------------------------

    def _stop(self, error: FleetError | FleetErrors, debt: Debt, way: Way) -> Rolled:
        """Nothing was changed on the member yet: leave it as it was. Else: back to what it had loaded before."""
        errors = each_of(error)
        last = self.taken[-1].action
        if self._left_untouched(error):
            if last in {Action.DRAIN, Action.INSTALL, Action.RESTART}:
                self.hands.on_all(way.undrain, f"{way.name}: undrain")
            if debt.begun:
                # It is still as the dead roll left it, and somebody else is not well: nothing is done to it now.
                raise FleetErrors([*errors, refusals.on_its_way_back(debt)]) from None
            self.run.do(debt.host, f"{way.name}: note", notes.forget(way.name))
            self._end("stopped")
            return Rolled("stopped", tuple(self.taken), errors)
        self._noticed(f"{debt.host}: {way.name} does not hold: its earlier files come back")
        try:
            for deed in self._back_deeds(debt, way):
                self._take_back(deed, debt, way)
        except (FleetError, FleetErrors) as second:
            raise FleetErrors([*errors, *each_of(second), refusals.on_its_way_back(debt)]) from None
        self._end("stopped")
        changed = [one.host for one in self.taken if one.action is Action.SETTLE and one.way == debt.way]
        told = refusals.went_back(errors[0], debt, way, last, dict.fromkeys(one for one in changed if one != debt.host))
        return Rolled("stopped", tuple(self.taken), (told, *errors[1:]))

    def _take_back(self, deed: Deed, debt: Debt, way: Way) -> None:
        """A step on the way back; where the member has come to lead, it hands over first.

        Raises:
            FleetError, FleetErrors: it did not come about.
        """
        for _ in range(MOVES):
            try:
                self._take(deed, debt, way, back=True)
            except Moved:
                self._take(Deed(Action.HAND_OVER, debt.host, debt.way), debt, way)
            else:
                return
        raise refusals.restless(debt, way)

    def _back_deeds(self, debt: Debt, way: Way) -> list[Deed]:
        every = deeds(debt, way, leads=False, canary=False, back=True)
        return [deed for deed in every if deed.action not in {Action.BEFORE, Action.NOTE, Action.DRAIN}]

    def back(self, left: notes.Left) -> Rolled:
        """Every member with earlier files that was chosen: where the new ones were loaded it is restarted, else not."""
        ways, moves = chosen(ways_of(self.run), self.options.service, self.noted), 0
        kept = {(one.host, one.unit): one.touched for one in left.kept}
        while True:
            owed = []
            for host, own in ways.items():
                for way in own:
                    units = tuple(unit for unit in way.units if (host, unit) in kept)
                    begun = (host, way.name) in self.noted
                    if units or begun:
                        owed.append(Debt(host, way.name, units or way.units, begun=begun))
            order = sequence(owed, ways, leaders(self.run.live))
            if not order:
                break
            debt, way = order[0], way_of(ways, order[0].host, order[0].way)
            refusals.reached(self.run.fleet, self.run.hosts, debt, way)
            touched = debt.begun or way.graceful or any(kept.get((debt.host, unit), False) for unit in debt.units)
            try:
                self._one_back(debt, way, touched, has_files=any((debt.host, unit) in kept for unit in debt.units))
            except Moved:
                moves += 1
                if moves > MOVES:
                    raise FleetErrors([*refusals.restless(debt, way).errors, refusals.on_its_way_back(debt)]) from None
                self._look()
                continue
            self.noted -= {(debt.host, debt.way)}
            for unit in way.units:
                kept.pop((debt.host, unit), None)
            # Files that came back under a server that goes on running change nothing of what the next is judged by.
            if touched:
                self._look()
        self._end("aborted")
        return Rolled("aborted", tuple(self.taken))

    def _one_back(self, debt: Debt, way: Way, touched: bool, has_files: bool) -> None:
        leads = bool(way.cluster) and leaders(self.run.live).get(way.cluster) == debt.host
        every = deeds(debt, way, leads=leads, canary=False, back=has_files)
        if not touched:
            every = [deed for deed in every if deed.action in {Action.BACK, Action.SETTLE}]
        for deed in every:
            self._take(deed, debt, way, back=True)
