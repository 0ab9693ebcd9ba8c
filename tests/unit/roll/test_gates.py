"""A gate is asked until it holds several times in a row, or time is up; a single good look in a flap is noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deploy.errors import FleetError
from deploy.model.settings import Roll
from deploy.model.ways import Gate, View, Way
from deploy.procedures.roll import gates as module
from deploy.procedures.roll.gates import Gates
from tests.unit.roll.fleets import context

WAY = Way(
    name="x", service="redis", units=("x.service",),
    gates=(Gate("flag", lambda view: view.errors), Gate("later", lambda _: ["always"], before=False)),
)  # fmt: skip


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.01)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def asked(looks: list[str], **settings: Any) -> Gates:
    """Gates whose looks are these, one after another: `.` good, `x` bad, `!` a member that does not answer.

    By default data2 leads: `?` bad while two say that they do, `o` good and `b` bad under data3.
    """
    left = iter(looks)

    class Fake(Gates):
        def view(self, way: Way, member: str, *, out: bool = False, since: str | None = None) -> View:
            look = next(left)
            if look == "!":
                raise FleetError(host="data3", subject="connection", found="refused", expected="an answer")
            leader = None if look == "?" else "data3" if look in "ob" else "data2"
            return View(context(member), member, {}, errors=("unwell",) if look in "x?b" else (), leader=leader)

    run: Any = None
    return Fake(run, Roll(**({"reads": 3, "read_interval": 1.0, "before_seconds": 10.0} | settings)))


CANARY = Way(name="x", service="redis", units=(), gates=WAY.gates[:1])


def watched(looks: str) -> None:
    asked(list(looks)).hold(CANARY, "data1", after=True, declared=False, watch=20)


def test_three_in_a_row() -> None:
    looks = list("xx..x...")
    asked(looks).hold(WAY, "data1")
    with pytest.raises(StopIteration):
        asked(list("..x..")).hold(WAY, "data1")


def test_time_is_up_and_the_message_says_what_was_seen() -> None:
    with pytest.raises(FleetError, match="data1: x, before it was touched \\(gate flag\\): found unwell"):
        asked(list("x" * 30)).hold(WAY, "data1")


def test_a_member_that_does_not_answer_is_not_well() -> None:
    with pytest.raises(FleetError, match=r"gate answers.*data3: connection: found refused"):
        asked(list("!" * 30)).hold(WAY, "data1")


def test_a_canary_is_watched_for_its_time_and_a_single_lapse_is_noise(clock: Clock) -> None:
    watched("..x.." * 10)
    assert 19 <= clock.now <= 22


def test_a_canary_that_stays_unwell_is_found_out() -> None:
    with pytest.raises(FleetError, match="while it was watched"):
        watched("....xxx...")


def test_a_failover_by_itself_is_not_the_canarys_fault(clock: Clock) -> None:
    watched("...?????bbb" + "o" * 20)
    assert 19 <= clock.now <= 22


@pytest.mark.parametrize("looks", ["." * 3 + "?" * 30, "." * 3 + "??" + "b" * 30])
def test_a_failover_that_does_not_end_is(looks: str, clock: Clock) -> None:
    """After `before_seconds`, whoever leads then."""
    with pytest.raises(FleetError, match="while it was watched"):
        watched(looks)
    assert 12 <= clock.now <= 15


def test_nor_is_it_forgiven_what_comes_after_the_failover(clock: Clock) -> None:
    with pytest.raises(FleetError, match="while it was watched"):
        watched("..???oobbb")
    assert clock.now <= 10


def test_one_that_is_unwell_while_nothing_moves_is_found_out_as_soon_as_ever() -> None:
    with pytest.raises(FleetError, match="while it was watched"):
        watched("...?...xxx" + "." * 30)


def test_a_gate_is_asked_at_its_time_and_can_be_left_out() -> None:
    with pytest.raises(FleetError, match="gate later"):
        asked(list("." * 300)).hold(WAY, "data1", after=True, declared=False)
    left_out = asked(list("..."))
    left_out.skip = frozenset({"later"})
    left_out.hold(WAY, "data1", after=True, declared=False)


def test_who_leads_is_waited_for_where_a_failover_is_under_way(clock: Clock) -> None:
    """And for no longer than a failover takes; who only asks is told at once."""
    leads = replace(WAY, cluster="redis-cache")
    assert asked(list("???o")).leader(leads, "data1", wait=True) == "data3"
    assert asked(list("?o")).leader(leads, "data1") is None
    clock.now = 0.0
    assert asked(list("?" * 30)).leader(leads, "data1", wait=True) is None
    assert 10 <= clock.now <= 11
    assert asked([]).leader(WAY, "data1", wait=True) is None, "there is nothing to lead"
