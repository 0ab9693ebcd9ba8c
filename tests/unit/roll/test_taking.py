"""Taking a step: nobody is restarted who leads at that moment, and a hand-over that fails is undone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import shell
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.fleet import Live
from deploy.model.observed import Answer, Snapshot
from deploy.model.resources import StepClass, Unit
from deploy.model.ways import Act, Heir, Way
from deploy.procedures.roll import notes
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.procedures.roll.refusals import Untouched
from deploy.procedures.roll.taking import Hands, Moved, broken_off
from tests.unit.roll.fleets import DATA, FACTS, FLEET, address

UNIT = "redis-cache.service"
WAY = Way(
    name="redis-cache", service="redis", units=(UNIT,), cluster="redis-cache",
    hand_over=(Act("data1", "pause"), Act("data2", "move"), Act("data1", "follow $SAID")),
    undo=(Act("data1", "unpause"),),
)  # fmt: skip
DEBT = Debt("data1", "redis-cache", (UNIT,))
RESTART = Deed(Action.RESTART, "data1", "redis-cache", (UNIT,))
HAND_OVER = Deed(Action.HAND_OVER, "data1", "redis-cache")


class World:
    """Runs nothing; notes what it was told. `fails`: the script that does not succeed."""

    def __init__(self, leader: str | None, skip: frozenset[str] = frozenset(), fails: str = "") -> None:
        self.done: list[tuple[str, str]] = []
        self.held = 0
        self.waited: list[bool] = []
        self.leader, self.fails = leader, fails
        gates: Any = SimpleNamespace(skip=skip, leader=self.who, hold=self.hold)
        run: Any = SimpleNamespace(do=self.do, look_all=self.look, live=Live({"redis-cache": leader or ""}))
        self.run = run
        self.hands = Hands(run, gates, "r1")

    def who(self, _: Way, __: str, *, wait: bool = False) -> str | None:
        self.waited.append(wait)
        return self.leader

    def hold(self, *_: Any, **__: Any) -> None:
        self.held += 1
        if self.fails == "hold":
            raise FleetError(host="data1", subject="redis-cache", found="two primaries", expected="one")

    def look(self) -> None:
        self.run.live = Live({"redis-cache": self.leader or ""})

    def do(self, host: str, key: str, script: str, seconds: int = 0, **_: Any) -> str:
        self.done.append((host, script))
        if self.fails and self.fails in script:
            raise FleetError(host=host, subject=key, found="no", expected="yes")
        if script.endswith("follow $SAID"):
            self.leader = "data2"
        return "10.0.0.12" if script.endswith("move") else "1700000000"


def test_who_has_come_to_lead_is_not_restarted() -> None:
    world = World("data1")
    with pytest.raises(Moved):
        world.hands.take(RESTART, DEBT, WAY)
    assert world.done == []


def test_without_that_gate_the_leader_is_restarted() -> None:
    """The twin."""
    world = World("data1", skip=frozenset({"leads"}))
    world.hands.take(RESTART, DEBT, WAY)
    assert "systemctl restart" in world.done[0][1]


def test_while_nobody_leads_nobody_is_restarted() -> None:
    world = World(None)
    world.hands.take(RESTART, DEBT, WAY)
    assert world.held == 1, "it is waited for"


def test_where_it_cannot_be_told_who_leads_nothing_is_changed() -> None:
    world = World(None, fails="hold")
    with pytest.raises(Untouched, match="found two primaries"):
        world.hands.take(RESTART, DEBT, WAY)
    assert world.done == []


def test_for_a_member_that_is_out_itself_only_a_failover_is_waited_for() -> None:
    world = World(None)
    world.hands.take(RESTART, DEBT, WAY, back=True)
    assert (world.held, world.waited) == (0, [True])
    assert len(world.done) == 1


def test_what_one_part_says_is_told_to_the_next() -> None:
    world = World("data1")
    world.hands.take(HAND_OVER, DEBT, WAY)
    assert [host for host, _ in world.done] == ["data1", "data2", "data1"]
    assert world.done[2][1] == "SAID='10.0.0.12'\nfollow $SAID"
    assert world.held == 1


HEIRS = replace(WAY, heirs={"data2": Heir((Act("data2", "prefer"),), (Act("data2", "forget"),))})


def test_who_is_to_get_the_lead_is_preferred_for_as_long_as_that_takes() -> None:
    world = World("data1")
    world.hands.take(replace(HAND_OVER, to="data2"), DEBT, HEIRS)
    assert [script.rpartition("\n")[2] for _, script in world.done] == [
        "prefer", "pause", "move", "follow $SAID", "forget",
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["prefer", "pause", "move", "follow"])
def test_a_hand_over_that_fails_is_undone(part: str) -> None:
    world = World("data1", fails=part)
    with pytest.raises(FleetError, match="found no"):
        world.hands.take(replace(HAND_OVER, to="data2"), DEBT, HEIRS)
    assert world.done[-2:] == [("data1", "unpause"), ("data2", "forget")]


def test_a_lead_that_stays_is_an_error() -> None:
    world = World("data1")
    still = Way(name="redis-cache", service="redis", units=(UNIT,), cluster="redis-cache", hand_over=WAY.hand_over[:2])
    with pytest.raises(FleetError, match="it leads still"):
        world.hands.take(HAND_OVER, DEBT, still)


def test_a_switchover_that_broke_off_is_known_by_its_promise() -> None:
    def run(promised: str, *hosts: str) -> Any:
        files = Answer({"origin": "primary", "promised": promised})
        server = Answer({"variable read_only": "ON"})
        seen = Snapshot("x", FACTS, answers={"mysql-files": files, "mysql": server})
        follows = Answer({"origin": "primary"}), Answer({"variable read_only": "ON", "follows": address("data1")})
        other = Snapshot("y", FACTS, answers={"mysql-files": follows[0], "mysql": follows[1]})
        return SimpleNamespace(fleet=FLEET, snapshots={name: seen if name == "data2" else other for name in hosts})

    found = broken_off(run("switchover 10.0.0.11", *DATA))
    assert found is not None
    assert found.seen["data2"].promised == "switchover 10.0.0.11"
    assert broken_off(run("failover 10.0.0.11", *DATA)) is None, "a person has to say that the old one is fenced"
    assert broken_off(run("", *DATA)) is None
    assert broken_off(run("switchover 10.0.0.11", "data1", "data2")) is None, "not everybody was asked"


def test_only_what_was_rolled_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """data2 is still owed its restart, data3 was left out: both keep their way back."""
    world = World("data1")
    step = Step(host="data2", resource=Unit(name=UNIT), step=StepClass.RESTART, summary="x", pending=True)
    world.run.plan = lambda: {"data1": [], "data2": [step]}
    kept = tuple(notes.Kept(host, UNIT, touched=True) for host in DATA)
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), kept))
    world.hands.take(Deed(Action.FORGET), None, None)
    assert [host for host, script in world.done if shell.forget_kept(UNIT) in script] == ["data1"]
