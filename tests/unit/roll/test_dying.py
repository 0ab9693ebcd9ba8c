"""The controller dies at every step of a roll, before, in the middle of, and after what the step does.

Three imitated hosts, which keep what they have; the controller's memory is lost. Resume ends as an undisturbed roll,
abort as before the roll, and nobody is ever restarted who leads.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.fleet import Live
from deploy.model.resources import File, Package, StepClass, Unit
from deploy.model.ways import Act, Way
from deploy.procedures.roll import journal, notes
from deploy.procedures.roll import run as module
from deploy.procedures.roll.notes import Kept
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.procedures.roll.run import Options
from tests.unit.roll.fleets import DATA, FLEET, context

UNIT = "redis-cache.service"
WAY = Way(
    name="redis-cache", service="redis", units=(UNIT,), cluster="redis-cache", hand_over=(Act("data1", "true"),),
    drain=((Act("data1", "true"),),), undrain=(Act("data1", "true"),), finish="true",
)  # fmt: skip
WHEN = ("before", "in the middle", "after")


class Died(BaseException):
    """As kill -9: nothing is tidied up."""


class Hosts:
    """What is on the hosts, which a dead controller leaves as it is."""

    def __init__(self) -> None:
        self.disk = dict.fromkeys(DATA, "new")
        self.runs = dict.fromkeys(DATA, "old")
        self.kept = set(DATA)
        self.leader = "data1"
        self.locked = False
        self.notes: set[str] = set()
        self.drained: set[str] = set()
        self.steps = 0
        self.dies_at, self.when = -1, "before"

    def plan(self) -> dict[str, list[Step]]:
        found = {}
        for host in DATA:
            steps = []
            if self.disk[host] == "old":
                steps.append(Step(host=host, resource=File(path="/x"), step=StepClass.WRITE, summary="content"))
            if self.runs[host] == "stopped":
                steps.append(Step(host=host, resource=Unit(name=UNIT), step=StepClass.CREATE, summary="started"))
            elif self.runs[host] != "new" or self.disk[host] != "new":
                steps.append(
                    Step(host=host, resource=Unit(name=UNIT), step=StepClass.RESTART, summary="x", pending=True)
                )
            found[host] = steps
        return found

    def act(self, host: str, steps: list[Step]) -> None:
        assert all(isinstance(step.resource, Unit) for step in steps), "no file is touched"
        self.runs[host] = self.disk[host]

    def left(self) -> notes.Left:
        locks = {"data1": {"roll": "r", "who": "w"}} if self.locked else {}
        kept = tuple(Kept(host, UNIT, self.runs[host] == "new") for host in sorted(self.kept))
        return notes.Left(locks, frozenset((host, WAY.name) for host in self.notes), kept)

    def take(self, deed: Deed, debt: Debt | None, way: Way | None, *, back: bool = False) -> None:
        self.steps += 1
        dies = self.steps == self.dies_at
        if dies and self.when == "before":
            raise Died
        if dies and self.when == "in the middle":
            if deed.action in {Action.RESTART, Action.INSTALL}:
                assert self.leader != deed.host
                self.runs[deed.host] = "stopped"
            raise Died
        self._take(deed, back)
        if dies:
            raise Died

    def _take(self, deed: Deed, back: bool) -> None:
        host = deed.host
        match deed.action:
            case Action.NOTE:
                assert all(state != "stopped" or name == host for name, state in self.runs.items())
                self.notes.add(host)
            case Action.HAND_OVER:
                self.leader = next(name for name in DATA if name != host and self.runs[name] != "stopped")
            case Action.DRAIN:
                self.drained.add(host)
            case Action.BACK:
                self.disk[host] = "old"
            case Action.RESTART:
                assert self.leader != host, "restarted while it leads"
                assert self.notes == {host}, "in hand, and nobody else"
                self.runs[host] = self.disk[host]
            case Action.UNDRAIN:
                self.drained.discard(host)
            case Action.SETTLE:
                self.notes.discard(host)
                if back:
                    self.kept.discard(host)
            case Action.FORGET:
                self.kept = {name for name in self.kept if self.plan()[name]}
            case Action.UNLOCK:
                self.locked = False


class Packaged(Hosts):
    """The same, where another version of a package is owed: the disk is what is installed."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = dict.fromkeys(DATA, "old")
        self.kept = set()

    def plan(self) -> dict[str, list[Step]]:
        package = Package(name="redis-server", source="redis", version="new", units=(UNIT,))
        found = {}
        for host in DATA:
            steps, serves = [], self.runs[host] != "stopped"
            if self.disk[host] == "old":
                kind = StepClass.RESTART if serves else StepClass.WRITE
                steps.append(Step(host=host, resource=package, step=kind, summary="old -> new", pending=serves))
            if not serves:
                steps.append(Step(host=host, resource=Unit(name=UNIT), step=StepClass.CREATE, summary="started"))
            elif self.runs[host] != self.disk[host]:
                steps.append(
                    Step(host=host, resource=Unit(name=UNIT), step=StepClass.RESTART, summary="x", pending=True)
                )
            found[host] = steps
        return found

    def act(self, host: str, steps: list[Step]) -> None:
        if any(isinstance(step.resource, Package) for step in steps):
            self.disk[host] = "new"
        self.runs[host] = self.disk[host]

    def _take(self, deed: Deed, back: bool) -> None:
        if deed.action is Action.FETCH:
            self.kept.add(deed.host)
        if deed.action is Action.INSTALL:
            assert self.leader != deed.host, "given another version while it leads"
            assert deed.host in self.kept, "without a way back"
            self.disk[deed.host], self.runs[deed.host] = "new", "stopped"
        if deed.action is Action.BACK and self.disk[deed.host] == "new":
            self.runs[deed.host] = "stopped"
        super()._take(deed, back)


def controller(hosts: Hosts, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new process that knows nothing but what is on the disk and on the hosts."""
    live = Live({"redis-cache": hosts.leader}, frozenset({"redis-cache"}))
    run = SimpleNamespace(
        fleet=FLEET, hosts=dict.fromkeys(DATA), plan=hosts.plan, context=context, act=hosts.act, failures=[], live=live,
        do=lambda *_, **__: "",
    )  # fmt: skip

    def look() -> None:
        run.live = Live({"redis-cache": hosts.leader}, frozenset({"redis-cache"}))

    def lock(*_: Any, take_over: bool) -> None:
        assert take_over or not hosts.locked
        hosts.locked = True

    run.look_all = look
    monkeypatch.setattr(module, "ways_of", lambda _: dict.fromkeys(DATA, (WAY,)))
    monkeypatch.setattr(notes, "read", lambda _: hosts.left())
    monkeypatch.setattr(notes, "lock", lock)
    monkeypatch.setattr(module, "Hands", lambda *_: SimpleNamespace(take=hosts.take, on_all=lambda *_: None))
    return SimpleNamespace(run=run, path=folder)


def steps_of_an_undisturbed_roll(kind: type[Hosts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    hosts = kind()
    assert module.roll(controller(hosts, tmp_path, monkeypatch), Options()).how == "done"
    assert set(hosts.runs.values()) == {"new"}
    return hosts.steps


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """That each line is synced is shown elsewhere (test_journal); here there are thousands."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def killed(kind: type[Hosts], number: int, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    journal.path_of(tmp_path).unlink(missing_ok=True)
    hosts = kind()
    hosts.dies_at, hosts.when = number, when
    with pytest.raises(Died):
        module.roll(controller(hosts, tmp_path, monkeypatch), Options())
    return hosts


@pytest.mark.parametrize("kind", [Hosts, Packaged])
@pytest.mark.parametrize("when", WHEN)
def test_resume_from_every_step_ends_as_an_undisturbed_roll(
    kind: type[Hosts], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = steps_of_an_undisturbed_roll(kind, tmp_path, monkeypatch)
    assert total > 20
    for number in range(1, total + 1):
        hosts = killed(kind, number, when, tmp_path, monkeypatch)
        assert sum(state == "stopped" for state in hosts.runs.values()) <= 1
        with pytest.raises(FleetError, match="has not ended"):
            module.roll(controller(hosts, tmp_path, monkeypatch), Options())
        found = module.resume(controller(hosts, tmp_path, monkeypatch), Options())
        assert found.how == "done", (number, when)
        assert set(hosts.runs.values()) == {"new"}
        assert (hosts.notes, hosts.drained, hosts.locked, hosts.kept) == (set(), set(), False, set())
        assert journal.unfinished(tmp_path) is None


@pytest.mark.parametrize("kind", [Hosts, Packaged])
@pytest.mark.parametrize("when", WHEN)
def test_abort_from_every_step_ends_as_before_the_roll(
    kind: type[Hosts], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = steps_of_an_undisturbed_roll(kind, tmp_path, monkeypatch)
    for number in range(1, total + 1):
        hosts = killed(kind, number, when, tmp_path, monkeypatch)
        if number > total - 2:
            # It was over but for the tidying up: there is nothing to go back from.
            with pytest.raises(FleetError, match="a roll that was complete"):
                module.abort(controller(hosts, tmp_path, monkeypatch), Options())
            continue
        found = module.abort(controller(hosts, tmp_path, monkeypatch), Options())
        assert found.how == "aborted", (number, when)
        assert set(hosts.runs.values()) == {"old"}
        assert set(hosts.disk.values()) == {"old"}
        assert (hosts.notes, hosts.drained, hosts.locked, hosts.kept) == (set(), set(), False, set())
        assert journal.unfinished(tmp_path) is None


@pytest.mark.parametrize("kind", [Hosts, Packaged])
@pytest.mark.parametrize("when", WHEN)
def test_an_abort_that_is_killed_itself_is_aborted_again(
    kind: type[Hosts], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 40):
        hosts = killed(kind, 12, "after", tmp_path, monkeypatch)
        hosts.dies_at, hosts.when = hosts.steps + number, when
        try:
            module.abort(controller(hosts, tmp_path, monkeypatch), Options())
        except Died:
            assert module.abort(controller(hosts, tmp_path, monkeypatch), Options()).how == "aborted"
        assert set(hosts.runs.values()) == {"old"}, number
        assert (hosts.notes, hosts.locked, hosts.kept) == (set(), False, set())
