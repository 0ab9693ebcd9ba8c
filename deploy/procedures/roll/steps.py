"""What every kind of roll has: its journal, its lock, and each step written down before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.fleet import Live
from deploy.model.settings import Roll
from deploy.model.ways import Way
from deploy.procedures.roll import notes, refusals
from deploy.procedures.roll.gates import Gates
from deploy.procedures.roll.journal import Journal
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.procedures.roll.taking import Hands
from deploy.procedures.session import Session

MOVES = 5
"""A member that is about to be restarted and comes to lead so often in one roll: something else is wrong."""

SHOWN = frozenset(
    {Action.HAND_OVER, Action.DRAIN, Action.INSTALL, Action.BACK, Action.RESTART, Action.REBOOT, Action.WATCH}
)
"""What other controllers can read on the host itself."""

UNTOUCHED = frozenset({Action.FETCH, Action.BEFORE, Action.NOTE, Action.HAND_OVER, Action.DRAIN})
"""Steps that change nothing on a member that would have to go back."""

Say = Callable[[str], None]
"""Told each step before it is taken, and what is noticed on the way."""


@dataclass(frozen=True)
class Options:
    """`service`: only its members. `canary`: the host to begin with, where it is owed and does not lead.

    `hosts`: those to be booted anew, whether they ask for it or not. `skip`: gates by name that are not asked: for the
    tests that show what each is there for. `doing`: the command that it is a part of, for the journal.
    """

    service: str = ""
    canary: str = ""
    hosts: tuple[str, ...] = ()
    skip: frozenset[str] = frozenset()
    doing: str = "fleet roll"

    def asked(self) -> dict[str, str]:
        """As the journal has them, for whoever has to go on."""
        return {"service": self.service, "canary": self.canary, "hosts": ",".join(self.hosts)}

    def as_begun(self, given: Mapping[str, str]) -> Options:
        """What these leave open is as was asked of the roll that did not end; the hosts to be booted always are."""
        service, canary = self.service or given.get("service", ""), self.canary or given.get("canary", "")
        hosts = tuple(name for name in given.get("hosts", "").split(",") if name)
        return replace(self, service=service, canary=canary, hosts=hosts)


@dataclass(frozen=True)
class Rolled:
    """What a roll did: its steps, in order, and how it ended: done, nothing, stopped, aborted."""

    how: str
    steps: tuple[Deed, ...] = ()
    errors: tuple[FleetError, ...] = ()


def leaders(live: Live) -> Mapping[str, str]:
    """Cluster -> who leads it, as its members said."""
    return {cluster: host for cluster, host in live.leaders.items() if cluster in live.proven}


@dataclass
class Steps:
    """A roll under way."""

    session: Session
    options: Options
    journal: Journal
    say: Say
    noted: frozenset[tuple[str, str]] = frozenset()
    taken: list[Deed] = field(default_factory=list)
    hands: Hands = field(init=False)

    def __post_init__(self) -> None:
        self.run = self.session.run
        self.settings: Roll = self.run.fleet.hosts[0].settings.roll
        self.gates = Gates(self.run, self.settings, self.options.skip)

    def lock(self, *, take_over: bool) -> None:
        deed = Deed(Action.LOCK)
        self._write(deed)
        # Not the hosts to be booted: which of them were is in the journal alone.
        asked = {"doing": self.options.doing, "service": self.options.service, "canary": self.options.canary}
        notes.lock(self.run, self.journal.roll, self.journal.who, asked, take_over=take_over)
        self.journal.write("done", action=deed.action.name)

    def begin(self) -> None:
        """Lock all hosts for a new roll; where another has one of them, the journal says that this one was refused."""
        try:
            self.lock(take_over=False)
        except (FleetError, FleetErrors):
            self.journal.end("refused")
            raise

    def _take(self, deed: Deed, debt: Debt | None = None, way: Way | None = None, *, back: bool = False) -> None:
        self._write(deed)
        self.hands.take(deed, debt, way, back=back)
        self.journal.write("done", action=deed.action.name, host=deed.host, way=deed.way)

    def _write(self, deed: Deed) -> None:
        self.journal.write(
            "take", action=deed.action.name, host=deed.host, way=deed.way, units=deed.units, words=deed.words()
        )
        self.taken.append(deed)
        self.say(deed.words())
        if deed.action in SHOWN:
            notes.tell(self.run, deed.host, deed.words(), self.journal.who)

    def _left_untouched(self, error: FleetError | FleetErrors) -> bool:
        """Write down what failed at the last step; whether the member is as it was."""
        last = self.taken[-1].action
        self.journal.write("failed", action=last.name, why=[one.message() for one in each_of(error)])
        return last in UNTOUCHED or isinstance(error, refusals.Untouched)

    def _noticed(self, words: str) -> None:
        self.journal.write("noticed", words=words)
        self.say(f"({words})")

    def _look(self) -> None:
        """Look at all hosts, between two members."""
        try:
            self.run.look_all()
        except (FleetError, FleetErrors) as error:
            self.journal.write("failed", action="look", why=[str(error)])
            raise refusals.in_the_middle(error, self.session.path) from None

    def _end(self, how: str) -> None:
        self._take(Deed(Action.FORGET))
        self._take(Deed(Action.UNLOCK))
        self.journal.end(how)
