"""Taking one step of a roll: what each kind of it does on the hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from deploy.converge import apt, desired, shell
from deploy.converge.engine import Run
from deploy.converge.step import owed
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.resources import Unit
from deploy.model.ways import Act, Heir, Way
from deploy.procedures import db
from deploy.procedures import db_proofs as proofs
from deploy.procedures.db_members import Members
from deploy.procedures.roll import notes, refusals
from deploy.procedures.roll.gates import MARK, Gates
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.roles.mysql_rolling import SWITCHOVER

RESTART_SECONDS = 600
LEADS = "leads"
"""The gate at the restart itself: nobody is restarted who has come to lead meanwhile."""


class Moved(Exception):
    """The member that was about to be restarted leads now: the order has to be worked out again."""


@dataclass
class Hands:
    """What the steps are taken with. `started`: (host, way) -> where its journal stood when its restart had ended.
    `changed`: (host, way) that was stopped and given another version; `upgraded`: ways of which some were.

    `who`: as the hosts' locks name this controller; under another's lock nothing is changed.
    """

    run: Run
    gates: Gates
    roll: str
    who: str = ""
    say: Callable[[str], None] = lambda _: None
    started: dict[tuple[str, str], str] = field(default_factory=dict)
    changed: set[tuple[str, str]] = field(default_factory=set)
    upgraded: set[str] = field(default_factory=set)

    def take(self, deed: Deed, debt: Debt | None, way: Way | None, *, back: bool = False) -> None:
        """Do one step.

        Raises:
            FleetError: it did not come about.
            Moved: before a restart, see there; nothing was done.
        """
        if deed.action is Action.UNLOCK:
            notes.unlock(self.run, self.run.hosts, self.who)
            return
        if deed.action is Action.FORGET:
            self._forget()
            return
        assert way is not None
        assert debt is not None
        host, since = deed.host, self.started.get((deed.host, deed.way))
        match deed.action:
            case Action.FETCH:
                script = apt.fetch(deed.units, debt.shared, again=debt.begun)
                if way.may_install and not debt.begun:
                    script = f"{way.may_install}\n{script}"
                self.run.do(host, f"{way.name}: fetch", notes.ours(self.who) + script, unseen=True)
            case Action.BEFORE:
                self.gates.hold(way, host, out=debt.begun)
            case Action.NOTE:
                notes.note(self.run, host, way.name, self.roll, self.who)
            case Action.HAND_OVER:
                self.hand_over(way, host, deed.to)
            case Action.DRAIN:
                for stage in way.drain:
                    self.on_all(stage, f"{way.name}: drain")
            case Action.BACK:
                self._bring_back(way, host, deed.units)
            case Action.INSTALL:
                self.stays(way, host, debt.begun)
                script = apt.change(deed.units, () if way.graceful else way.units)
                self.upgraded.add(way.name)
                if not way.graceful:
                    self.changed.add((host, way.name))
                self.run.do(host, f"{way.name}: install", notes.ours(self.who) + script)
            case Action.RESTART:
                # One that was stopped to be given another version leads nobody.
                if (host, way.name) not in self.changed:
                    self.stays(way, host, debt.begun or back)
                self.changed.discard((host, way.name))
                self._restart(way, host, deed.units)
            case Action.AFTER:
                self.gates.hold(way, host, after=True, declared=not back, since=since)
            case Action.UNDRAIN:
                self.on_all(way.undrain, f"{way.name}: undrain")
            case Action.WATCH:
                watch = self.gates.settings.canary_seconds
                self.gates.hold(way, host, after=True, declared=not back, since=since, watch=watch)
            case Action.SETTLE:
                # Until the roll ends there is a way back for all that it has touched; what has gone it needs no other.
                lines = [shell.forget_kept(unit) for unit in deed.units] if back else []
                self.run.do(host, f"{way.name}: settle", "\n".join([*lines, notes.forget(way.name)]), unseen=True)
            case Action.FINISH:
                installed = way.installed if way.name in self.upgraded else ""
                self.run.do(host, f"{way.name}: finish", f"{way.finish}\n{installed}")
            case _:
                raise AssertionError(deed.action)

    def _forget(self) -> None:
        """What is owed no restart any more is proven: the next change has its way back to this.

        Of hosts that a roll was not to touch nothing is known.
        """
        still = {name: owed(steps) for name, steps in self.run.plan().items()}
        done: dict[str, list[str]] = {}
        for one in notes.read(self.run).kept:
            if one.host in still and one.unit not in still[one.host]:
                done.setdefault(one.host, []).append(shell.forget_kept(one.unit))
        mine = notes.ours(self.who)
        together(done, lambda name: self.run.do(name, "roll: earlier files", mine + "\n".join(done[name]), unseen=True))

    def on_all(self, acts: Iterable[Act], key: str) -> None:
        """Acts on different hosts, all at once."""
        by_host = {act.host: act for act in acts}
        together(by_host, lambda name: self.run.do(name, key, by_host[name].script, by_host[name].seconds))

    def hand_over(self, way: Way, host: str, to: str = "") -> None:
        """Make another member lead, this one where the service lets itself be told, and see that it does.

        Raises:
            FleetError: it did not come about; the member leads on, as before.
        """
        if way.handed_over_by == SWITCHOVER:
            for one in self.run.fleet.members(way.service):
                self.run.look(one.name)
            for words in db.move(Members.looked_at(self.run), to or None).notes:
                self.say(words)
        else:
            said, heir = "", way.heirs.get(to, Heir((), ()))
            try:
                for act in (*heir.prefer, *way.hand_over):
                    said = self.run.do(
                        act.host, f"{way.name}: hand over the lead", f"SAID='{said}'\n{act.script}", act.seconds
                    )
            except FleetError:
                self.on_all(way.undo, f"{way.name}: undo")
                raise
            finally:
                self.on_all(heir.forget, f"{way.name}: no heir any more")
        self.run.look_all()
        if self.run.live.leaders.get(way.cluster) == host:
            raise FleetError(
                host=host, subject=f"{way.name}: hand over the lead", found="it leads still", expected="another leader",
                hint="see who could take its place: fleet status",
            )  # fmt: skip
        self.gates.hold(way, host)

    def _bring_back(self, way: Way, host: str, units: tuple[str, ...]) -> None:
        stop = () if way.graceful else way.units
        script = notes.ours(self.who) + "\n".join([*(shell.bring_back(unit, stop) for unit in units), way.after_back])
        self.run.do(host, f"{way.name}: earlier files", script)

    def stays(self, way: Way, host: str, out: bool) -> None:
        """Nothing, if it does not lead.

        Raises:
            Moved: it has come to lead.
            Untouched: it cannot be told who leads, and the service does not become well.
        """
        if way.cluster and way.moves and LEADS not in self.gates.skip and self._leads(way, host, out):
            raise Moved

    def _restart(self, way: Way, host: str, units: tuple[str, ...]) -> None:
        scripts = [way.restart.get(unit) or shell.restart(Unit(name=unit)) for unit in units]
        said = self.run.do(
            host, f"{way.name}: restart", notes.ours(self.who) + "\n".join([*scripts, MARK]), RESTART_SECONDS,
            expected=f"{' and '.join(units)} to start with what is on the disk",
        )  # fmt: skip
        self.started[host, way.name] = said

    def _leads(self, way: Way, host: str, out: bool) -> bool:
        """Whether it leads, asked once more: a failover in between may have made it the leader.

        out: the member is not well itself, so that the service cannot be; a failover is waited for all the same.
        """
        if out:
            return self.gates.leader(way, host, wait=True) == host
        try:
            leader = self.gates.leader(way, host)
            if leader is None:
                self.gates.hold(way, host)
                leader = self.gates.leader(way, host)
        except (FleetError, FleetErrors) as error:
            raise refusals.Untouched(each_of(error)) from None
        return leader == host


def broken_off(run: Run) -> Members | None:
    """The database's members by the last look, where a switchover among them has broken off; else None."""
    members = run.fleet.members("mysql")
    if not members or any(one.name not in run.snapshots for one in members):
        return None
    found = Members.looked_at(run)
    begun = proofs.promised(found)
    return found if begun and begun[0].promised.startswith("switchover ") else None


def ways_of(run: Run) -> dict[str, tuple[Way, ...]]:
    """Host -> the ways of its services, in the inventory's order of hosts."""
    return {host.name: desired.ways(run.context(host.name)) for host in run.fleet.hosts}
