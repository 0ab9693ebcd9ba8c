"""What apply refuses, and what it forgets once it is proven. No host: the engine is imitated."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.observed import HostFactsSeen, Snapshot
from deploy.model.resources import File, HostState, StepClass, Unit
from deploy.procedures import apply as module
from deploy.procedures.roll import notes
from deploy.procedures.session import Timings

WRITE = Step(
    host="data1", resource=File(path="/etc/x", kept_for=("a.service", "b.service")), step=StepClass.WRITE, summary="x"
)
OWED = Step(host="data1", resource=Unit(name="a.service"), step=StepClass.RESTART, summary="x", pending=True)


def session(before: list[Step], after: list[Step], done: list[tuple[str, str]], kept: tuple[str, ...] = ()) -> Any:
    seen = Snapshot("data1", HostFactsSeen("debian", "12", 1, 1, kept=kept))
    issuer = SimpleNamespace(info=SimpleNamespace(not_after=datetime.max.replace(tzinfo=UTC)))
    run: Any = SimpleNamespace(
        keys=SimpleNamespace(authorities=SimpleNamespace(issuer=issuer)),
        acted=[], failures=[], hosts={"data1": None}, targets=frozenset(), remaining=dict, snapshots={"data1": seen},
        only=None, acted_until=0.0,
    )  # fmt: skip
    run.plan = lambda: {"data1": after if run.acted else before}
    run.steps = lambda name: run.plan()[name]
    run.do = lambda name, key, script, **more: done.append((name, script))
    return SimpleNamespace(run=run, path=Path(), timings=Timings({}))


def test_under_a_roll_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    acted: list[object] = []
    monkeypatch.setattr(module, "_act", acted.append)
    monkeypatch.setattr(module, "succeed", acted.append)
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({"data1": {"who": "eve@other"}}, frozenset(), ()))
    with pytest.raises(FleetError, match=r"a roll of eve@other.*--resume goes on"):
        module.apply(session([WRITE], [], []))
    assert acted == []
    assert module.apply(session([OWED], [OWED], [])).pending == (OWED,), "where it has nothing to do, it does not ask"


def test_after_another_authority_came_to_issue_what_differs_is_worked_out_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = session([WRITE], [], [])
    plans = iter([{"data1": [WRITE]}])
    opened.run.plan = lambda: next(plans, {"data1": []})
    monkeypatch.setattr(module, "_act", lambda _: None)
    monkeypatch.setattr(module, "succeed", lambda run: True)
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), ()))
    monkeypatch.setattr(module, "_parcels_are_there", lambda run, planned: seen.extend(planned))
    seen: list[object] = []
    module.apply(opened)
    assert seen == [[]], "it acts by the second plan"


def test_only_what_is_owed_no_restart_loses_its_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), ()))
    monkeypatch.setattr(module, "_act", lambda opened: opened.run.acted.append(WRITE))
    done: list[tuple[str, str]] = []
    assert module.apply(session([WRITE], [OWED], done)).pending == (OWED,)
    assert [name for name, _ in done] == ["data1"]
    assert "b.service" in done[0][1]
    assert "a.service" not in done[0][1]


@pytest.mark.parametrize("rolls", [False, True])
def test_what_an_apply_that_died_has_left_goes_too_unless_a_roll_has_it_in_hand(
    rolls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = {"data1": {"who": "eve@other"}} if rolls else {}
    monkeypatch.setattr(notes, "read", lambda run: notes.Left(locks, frozenset(), ()))
    done: list[tuple[str, str]] = []
    module.apply(session([OWED], [OWED], done, kept=("a.service", "c.service")))
    assert [("c.service" in script, "a.service" in script) for _, script in done] == ([] if rolls else [(True, False)])


def test_the_host_is_told_how_it_ended_and_what_its_files_are_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "read", lambda run: notes.Left({}, frozenset(), ()))
    done: list[tuple[str, str]] = []
    opened = session([OWED], [OWED], done)
    opened.run.targets = frozenset({"data1", "not reached"})
    once, gone = File(path="/var/x", once=True), File(path="/etc/y", absent=True)
    opened.run.state = lambda name: HostState(name, (File(path="/etc/x", content="hello\n"), once, gone))
    module.apply(opened)
    ((name, script),) = done
    assert name == "data1"
    assert "fleet_apply_ok 1\n" in script
    assert "fleet_apply_owed 1\n" in script
    listed = [line.split("  ")[1] for line in script.splitlines() if re.match("[0-9a-f]{64}  /", line)]
    assert listed == ["/etc/x"]


def test_a_host_that_cannot_be_told_is_no_failure() -> None:
    def refused(*_: object, **__: object) -> str:
        raise FleetError(host="data1", subject="note", found="no space left", expected="")

    opened = session([], [], [])
    opened.run.targets, opened.run.do = frozenset({"data1"}), refused
    opened.run.state = lambda name: HostState(name, ())
    assert module.apply(opened).errors == ()
