"""A roll as a whole: what follows what, when a step fails and when somebody else comes to lead. Hosts are imitated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge.step import Step
from deploy.errors import FleetError, FleetErrors
from deploy.model.fleet import Live
from deploy.model.resources import StepClass, Unit
from deploy.model.ways import Act, Heir, Way
from deploy.procedures import db
from deploy.procedures.roll import journal, mending, notes, refusals
from deploy.procedures.roll import run as module
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.procedures.roll.run import Options
from deploy.procedures.roll.taking import Moved
from tests.unit.roll.fleets import DATA, FLEET, context

UNIT = "redis-cache.service"
WAY = Way(
    name="redis-cache", service="redis", units=(UNIT,), cluster="redis-cache", hand_over=(Act("data1", "true"),),
    drain=((Act("data1", "true"),),), undrain=(Act("data1", "true"),),
)  # fmt: skip
On = Callable[[Deed, "World"], None]


class World:
    """Three members of which some are owed a restart; taking steps changes it."""

    def __init__(self, folder: Path, owed: tuple[str, ...] = DATA, leader: str = "data1") -> None:
        self.owed, self.leader = set(owed), leader
        self.kept = set(owed)
        self.taken: list[Deed] = []
        self.cleaned: list[str] = []
        self.on: On = lambda deed, world: None
        run = SimpleNamespace(
            fleet=FLEET, hosts=dict.fromkeys(DATA), plan=self.plan, look_all=self.look, context=context,
            do=lambda host, key, script, **more: self.cleaned.append(f"{host} {key}"), failures=[],
        )  # fmt: skip
        self.run: Any = run
        self.session: Any = SimpleNamespace(run=run, path=folder)
        self.look()

    def look(self) -> None:
        self.run.live = Live({"redis-cache": self.leader}, frozenset({"redis-cache"}))

    def plan(self) -> dict[str, list[Step]]:
        def step(host: str) -> Step:
            return Step(host=host, resource=Unit(name=UNIT), step=StepClass.RESTART, summary="x", pending=True)

        return {host: [step(host)] if host in self.owed else [] for host in DATA}

    def take(self, deed: Deed, debt: Debt | None, way: Way | None, *, back: bool = False) -> None:
        self.on(deed, self)
        self.taken.append(deed)
        if deed.action is Action.HAND_OVER:
            self.leader = next(host for host in DATA if host != deed.host and host not in self.owed)
            self.look()
        if deed.action is Action.RESTART and not back:
            self.owed.discard(deed.host)
        if deed.action is Action.BACK:
            self.owed.discard(deed.host)

    def restarts(self) -> list[str]:
        return [one.host for one in self.taken if one.action is Action.RESTART]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(module, "ways_of", lambda run: dict.fromkeys(DATA, (WAY,)))
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), ()))
    monkeypatch.setattr(notes, "lock", lambda run, roll, who, asked, *, take_over: None)
    undrained = made.cleaned
    hands = SimpleNamespace(take=made.take, on_all=lambda acts, key: undrained.append(key))
    monkeypatch.setattr(module, "Hands", lambda *_: hands)
    return made


def fails(action: Action, host: str, times: int = 1) -> On:
    left = [times]

    def on(deed: Deed, _: World) -> None:
        if (deed.action, deed.host) == (action, host) and left[0]:
            left[0] -= 1
            raise FleetError(host=host, subject="gate", found="it is slow", expected="it to be quick")

    return on


def test_dry_prints_what_is_then_done(world: World) -> None:
    planned = module.dry(world.session, Options())
    found = module.roll(world.session, Options())
    assert found.how == "done"
    assert list(found.steps) == planned
    assert world.restarts() == ["data2", "data3", "data1"]


def test_nothing_owed(world: World) -> None:
    world.owed.clear()
    assert module.roll(world.session, Options()).how == "nothing"
    assert world.taken == []


def test_a_canary_that_does_not_hold_goes_back_and_nobody_else_is_touched(world: World) -> None:
    world.on = fails(Action.WATCH, "data2")
    found = module.roll(world.session, Options())
    assert found.how == "stopped"
    assert {one.host for one in found.steps if one.host} == {"data2"}
    actions = [one.action for one in found.steps]
    after = actions[actions.index(Action.WATCH) + 1 :]
    assert after == [
        Action.BACK, Action.RESTART, Action.AFTER, Action.UNDRAIN, Action.SETTLE, Action.FORGET, Action.UNLOCK,
    ]  # fmt: skip
    message = found.errors[0].message()
    assert message.startswith("data2: redis-cache, at the step 'watch the canary': found it is slow")
    assert "has its earlier files again and is well" in message
    assert journal.unfinished(world.session.path) is None


@pytest.mark.parametrize("action", [Action.BEFORE, Action.HAND_OVER, Action.DRAIN])
def test_what_fails_before_the_restart_changes_nothing(world: World, action: Action) -> None:
    world.owed = {"data1"}
    world.on = fails(action, "data1")
    found = module.roll(world.session, Options())
    assert found.how == "stopped"
    assert world.restarts() == []
    assert found.errors[0].found == "it is slow"
    assert ("redis-cache: undrain" in world.cleaned) == (action is Action.DRAIN)


def test_a_way_back_that_fails_leaves_the_roll_unfinished(world: World) -> None:
    world.on = fails(Action.AFTER, "data2", times=2)
    with pytest.raises(Exception, match="on its way back"):
        module.roll(world.session, Options())
    assert journal.unfinished(world.session.path) is not None
    with pytest.raises(FleetError, match="has not ended"):
        module.roll(world.session, Options())


def test_a_failover_by_itself_is_noticed_and_the_order_worked_out_again(world: World) -> None:
    said: list[str] = []

    def on(deed: Deed, world: World) -> None:
        if deed.action is Action.SETTLE and deed.host == "data2":
            world.leader = "data3"

    world.on = on
    found = module.roll(world.session, Options(), said.append)
    assert found.how == "done"
    assert world.restarts() == ["data2", "data1", "data3"]
    assert any("data3 leads redis-cache now, not data1" in one for one in said)
    handed = [one.host for one in found.steps if one.action is Action.HAND_OVER]
    assert handed == ["data3"]


def test_nobody_is_restarted_who_came_to_lead_a_moment_ago(world: World) -> None:
    once = [True]

    def on(deed: Deed, world: World) -> None:
        if deed.action is Action.RESTART and deed.host == "data2" and once.pop() if once else False:
            world.leader = "data2"
            raise Moved

    world.on = on
    found = module.roll(world.session, Options())
    assert found.how == "done"
    assert world.restarts() == ["data1", "data3", "data2"]
    assert [one.host for one in found.steps if one.action is Action.HAND_OVER] == ["data2"]


@pytest.mark.parametrize("touched", [False, True], ids=["before", "at"])
def test_only_a_member_that_was_touched_goes_back(world: World, touched: bool) -> None:
    """Right before its restart it could not be told who leads; the twin: the restart itself fails."""

    def on(deed: Deed, _: World) -> None:
        if deed.action is Action.RESTART and deed not in world.taken:
            error = FleetError(host=deed.host, subject="gate", found="two primaries", expected="one")
            world.on = lambda *_: None
            raise error if touched else refusals.Untouched([error])

    world.on = on
    found = module.roll(world.session, Options())
    assert found.how == "stopped"
    assert "two primaries" in found.errors[0].message()
    assert (Action.BACK in {one.action for one in found.steps}) == touched
    assert world.restarts() == (["data2"] if touched else [])
    assert "redis-cache: undrain" in world.cleaned or touched


def test_a_lead_that_never_rests_ends_the_roll(world: World) -> None:
    def on(deed: Deed, world: World) -> None:
        if deed.action is Action.RESTART:
            raise Moved

    world.on = on
    found = module.roll(world.session, Options())
    assert found.how == "stopped"
    assert world.restarts() == []
    assert "comes to lead again and again" in found.errors[0].message()


def test_each_step_is_written_before_it_is_taken(world: World) -> None:
    seen: list[bool] = []

    def on(deed: Deed, world: World) -> None:
        last = list(journal.read(world.session.path))[-1]
        seen.append(last["event"] == "take" and last["words"] == deed.words())

    world.on = on
    module.roll(world.session, Options())
    assert seen
    assert all(seen)


def test_what_apply_would_still_do_comes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(host="data1", resource=Unit(name=UNIT), step=StepClass.CREATE, summary="inactive -> started")
    world.run.plan = lambda: {"data1": [step]}
    with pytest.raises(FleetError, match="fleet apply first"):
        module.roll(world.session, Options())


@pytest.mark.parametrize("work", [module.dry, module.roll])
def test_a_service_that_does_not_exist_is_refused(world: World, work: Callable[..., object]) -> None:
    with pytest.raises(FleetError, match="found 'reddis', expected one of"):
        work(world.session, Options(service="reddis"))


@pytest.mark.parametrize("work", [module.dry, module.roll])
def test_a_member_is_not_rolled_without_a_host_that_it_needs(world: World, work: Callable[..., object]) -> None:
    del world.run.hosts["data3"]
    with pytest.raises(
        FleetError, match=r"found data3 left out by --limit, expected every host .*: data1, data2, data3"
    ):
        work(world.session, Options())
    assert world.taken == []


def test_a_member_needs_its_service_its_witnesses_and_those_where_it_is_drained() -> None:
    alone = Way(name="gitserver", service="gitserver", units=())
    assert alone.needs(FLEET) == ["app1"]
    assert replace(alone, witnesses=("redis",)).needs(FLEET) == [*DATA, "app1"]
    elsewhere = (Act("data2", "true"),)
    for also in (
        {"drain": (elsewhere,)}, {"undrain": elsewhere}, {"hand_over": elsewhere}, {"undo": elsewhere},
        {"heirs": {"app1": Heir(elsewhere, ())}}, {"heirs": {"app1": Heir((), elsewhere)}},
    ):  # fmt: skip
        assert replace(alone, **also).needs(FLEET) == ["data2", "app1"]


def test_a_resumed_roll_stops_at_a_member_that_needs_a_host_which_was_left_out(world: World) -> None:
    def dies(deed: Deed, _: World) -> None:
        if deed.action is Action.RESTART:
            raise KeyboardInterrupt

    world.on = dies
    with pytest.raises(KeyboardInterrupt):
        module.roll(world.session, Options())
    world.on = lambda deed, world: None
    del world.run.hosts["data3"]
    with pytest.raises(FleetError, match="data3 left out by --limit"):
        module.resume(world.session, Options())
    assert world.restarts() == []


def test_who_was_rolled_before_the_one_that_goes_back_is_named(world: World) -> None:
    world.on = fails(Action.AFTER, "data3")
    found = module.roll(world.session, Options())
    assert found.how == "stopped"
    message = found.errors[0].message()
    assert "data3 has its earlier files again and is well; data2 run with the change already" in message


def test_a_lead_that_never_rests_ends_a_way_back_too(world: World) -> None:
    world.owed = {"data2"}
    fail = fails(Action.AFTER, "data2")

    def on(deed: Deed, world: World) -> None:
        fail(deed, world)
        if deed.action is Action.RESTART and any(one.action is Action.BACK for one in world.taken):
            raise Moved

    world.on = on
    with pytest.raises(FleetErrors, match="comes to lead again and again"):
        module.roll(world.session, Options())
    assert journal.unfinished(world.session.path) is not None


def test_an_error_between_two_members_says_how_to_go_on(world: World) -> None:
    looks = world.run.look_all

    def look() -> None:
        if "data2" in world.restarts():
            raise FleetError(host="data3", subject="connection", found="refused", expected="an answer")
        looks()

    world.run.look_all = look
    with pytest.raises(FleetErrors, match=r"refused.*\n.*none of them is half done.*--resume goes on"):
        module.roll(world.session, Options())
    assert journal.unfinished(world.session.path) is not None


def test_an_abort_without_a_roll_leaves_alone_what_somebody_restarted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (notes.Kept("data1", UNIT, touched=True), notes.Kept("data2", UNIT, touched=False))
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), kept))
    assert module.abort(world.session, Options()).how == "aborted"
    assert [(one.host, one.action) for one in world.taken if one.host] == [
        ("data2", Action.BACK), ("data2", Action.SETTLE),
    ]  # fmt: skip
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), kept[:1]))
    with pytest.raises(FleetError, match="no roll that has not ended"):
        module.abort(world.session, Options())


@pytest.mark.parametrize("said", ["journal", "lock", "abort"])
def test_an_abort_of_one_service_leaves_the_others_owed(
    world: World, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """But for a member of another that was left half done."""
    other = Way(name="redis-sentinel", service="sentinel", units=("redis-sentinel.service",))
    monkeypatch.setattr(module, "ways_of", lambda run: dict.fromkeys(DATA, (WAY, other)))
    kept = tuple(notes.Kept(host, unit, touched=False) for host in DATA for unit in (UNIT, *other.units))
    noted = frozenset({("data3", other.name)})
    lock = {"roll": "r", **({"service": "redis"} if said == "lock" else {})}
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({"data1": lock}, noted, kept))
    if said == "journal":
        journal.Journal.begin(world.session.path, "fleet roll", service="redis")
    assert module.abort(world.session, Options(service="redis" if said == "abort" else "")).how == "aborted"
    back = [(one.host, one.way) for one in world.taken if one.action is Action.BACK]
    assert sorted(back) == [*((host, WAY.name) for host in DATA[:2]), ("data3", WAY.name), ("data3", other.name)]
    assert [one.host for one in world.taken if one.action is Action.RESTART] == ["data3"]


@pytest.mark.parametrize("work", [module.resume, module.abort])
def test_what_ends_a_roll_refuses_a_service_that_does_not_exist(world: World, work: Callable[..., Any]) -> None:
    journal.Journal.begin(world.session.path, "fleet roll")
    with pytest.raises(FleetError, match="--service"):
        work(world.session, Options(service="radish"))
    assert world.taken == []
    assert journal.unfinished(world.session.path) is not None


@pytest.mark.parametrize(("touched", "looks"), [(False, 1), (True, 3)])
def test_an_abort_looks_again_only_after_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch, touched: bool, looks: int
) -> None:
    kept = tuple(notes.Kept(host, UNIT, touched) for host in ("data2", "data3"))
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({"data1": {"roll": "r"}}, frozenset(), kept))
    looked = 0

    def look() -> None:
        nonlocal looked
        looked += 1
        world.look()

    world.run.look_all = look
    assert module.abort(world.session, Options()).how == "aborted"
    assert looked == looks


def dead(world: World, monkeypatch: pytest.MonkeyPatch, error: FleetError) -> list[str]:
    """A roll that died; the first look after it fails. What is done then."""
    done: list[str] = []
    looks = world.run.look_all

    def look() -> None:
        if "moved" not in done:
            raise error
        looks()

    world.run.look_all = look
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({"data1": {"roll": "r"}}, frozenset(), ()))
    monkeypatch.setattr(db, "move", lambda found, to: done.append("moved"))
    return done


@pytest.mark.parametrize("work", [module.resume, module.abort])
def test_a_move_of_the_writes_that_broke_off_is_gone_on_with_first(
    world: World, monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any]
) -> None:
    done = dead(world, monkeypatch, FleetError(subject="mysql", found="no writable primary", expected="one"))
    monkeypatch.setattr(mending, "broken_off", lambda run: "members")
    assert work(world.session, Options()).how in {"done", "aborted"}
    assert done == ["moved"]


@pytest.mark.parametrize(("left", "looks"), [((), 1), ((Unit(name=UNIT),), 2)], ids=["nothing", "a stopped member"])
def test_hosts_are_looked_at_again_only_where_something_was_mended(
    world: World, left: tuple[Unit, ...], looks: int
) -> None:
    done: list[str] = []
    world.run.look_all = lambda: done.append("look")
    world.run.act = lambda host, steps: done.append("mend")
    world.run.plan = lambda: {
        "data1": [Step(host="data1", resource=one, step=StepClass.RESTART, summary="starts") for one in left]
    }
    written = journal.Journal.begin(world.session.path, "a roll")
    mending.look(world.session, written, lambda _: None)
    mending.mend(world.session, written, lambda _: None)
    assert done.count("look") == looks
    assert done[-1] == "look", "what is worked out next is worked out from how they are"


def test_where_nothing_was_being_moved_the_refusal_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    done = dead(world, monkeypatch, FleetError(subject="redis", found="two primaries", expected="one"))
    monkeypatch.setattr(mending, "broken_off", lambda run: None)
    with pytest.raises(FleetError, match="two primaries"):
        module.resume(world.session, Options())
    assert done == []


def test_who_is_owed_it_still_goes_back_instead_of_being_restarted_for_ever(world: World) -> None:
    def overridden(deed: Deed, here: World) -> None:
        if deed.action is Action.SETTLE and not any(one.action is Action.BACK for one in here.taken):
            here.owed.add(deed.host)

    world.on = overridden
    found = module.roll(world.session, Options())
    assert found.how == "stopped"
    assert "overrides what the inventory says" in found.errors[0].message()
    assert world.restarts() == ["data2", "data2"], "the change, and the way back"
