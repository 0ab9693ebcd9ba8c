"""Failover: who is replaced, by whom, and what has to be proven first. Pure: nobody is asked anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deploy.errors import FleetError
from deploy.model.fleet import HostInput, build
from deploy.model.observed import UnitState
from deploy.procedures import db
from deploy.roles.mysql_members import Member

FLEET = build(
    "test",
    {f"data{n}": HostInput(frozenset({"mysql"}), {"ssh_hostname": f"10.0.0.1{n}"}) for n in (1, 2, 3)},
)
OLD = FLEET.host("data1")


def replica(name: str, follows: str = "10.0.0.11", *, writable: bool = False) -> Member:
    return Member(name, FLEET.host(name).address, held=True, running=True, writable=writable, follows=follows)


def gone(name: str) -> Member:
    return Member(name, FLEET.host(name).address, held=True, running=False, writable=False, follows="")


def members(*seen: Member, silent: dict[str, str] | None = None, unit: UnitState | None = None) -> Any:
    asked: list[tuple[str, ...]] = []
    snapshots = {"data1": SimpleNamespace(units={"mariadb.service": unit})}
    return SimpleNamespace(
        run=SimpleNamespace(fleet=FLEET, snapshots=snapshots), seen={one.name: one for one in seen},
        silent=silent or {}, asked=asked, ask=lambda *words, **_: asked.append(words),
    )  # fmt: skip


def unit(active: str, file_state: str = "enabled", load: str = "loaded") -> UnitState:
    return UnitState(load, active, "", file_state, False, 0, 0, {})


def test_whom_the_replicas_follow_is_replaced() -> None:
    assert db._lost(members(gone("data1"), replica("data2"), replica("data3"))).name == "data1"
    assert db._lost(members(replica("data2"), replica("data3"), silent={"data1": "no route"})).name == "data1"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ((replica("data2"), replica("data3", "10.0.0.12")), "replicas that follow 10.0.0.11, 10.0.0.12"),
        ((gone("data1"),), "replicas that follow nobody"),
        ((replica("data2", "10.0.0.99"), replica("data3", "10.0.0.99")), "follow 10.0.0.99"),
        ((replica("data2"), replica("data3", "", writable=True)), "data3 takes writes"),
    ],
)
def test_nobody_is_replaced_on_a_guess(seen: tuple[Member, ...], words: str) -> None:
    with pytest.raises(FleetError, match=words):
        db._lost(members(*seen))


def test_a_primary_that_cannot_be_asked_is_fenced_by_a_persons_word_alone() -> None:
    found = members(silent={"data1": "no route"})
    with pytest.raises(FleetError, match="may still serve others"):
        db._fence(found, OLD, fence=True, fenced="")
    db._fence(found, OLD, fence=False, fenced="powered off")


def test_a_primary_that_may_start_again_is_not_fenced() -> None:
    for state in (unit("active"), unit("failed"), unit("inactive")):
        with pytest.raises(FleetError, match="stopped and masked"):
            db._fence(members(unit=state), OLD, fence=False, fenced="it is off, I swear")
    db._fence(members(unit=unit("inactive", "masked", "masked")), OLD, fence=False, fenced="")


def test_fencing_is_done_when_asked_for() -> None:
    found = members(unit=unit("active"))
    db._fence(found, OLD, fence=True, fenced="")
    assert found.asked == [("data1", "fence")]


def test_a_replica_that_may_hold_more_has_to_answer_or_be_given_up() -> None:
    found = members(replica("data2"), silent={"data1": "x", "data3": "y"})
    with pytest.raises(FleetError, match="--without data3"):
        db._nobody_missing(found, OLD, ())
    db._nobody_missing(found, OLD, ("data3",))


def test_the_one_that_has_most_leads() -> None:
    positions = {"data2": "1-11-95", "data3": "1-11-100"}
    assert db._most(positions, None) == "data3"
    assert db._most({"data2": "1-11-100", "data3": "1-11-100"}, "data3") == "data3"
    with pytest.raises(FleetError, match="data2: mysql failover"):
        db._most(positions, "data2")
