"""Failover: who is replaced, by whom, and what has to be proven first. Pure: nobody is asked anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.errors import FleetError, FleetErrors
from deploy.model.fleet import HostInput, build
from deploy.model.observed import UnitState
from deploy.procedures import db
from deploy.procedures import db_proofs as proofs
from deploy.procedures.db_members import Members
from deploy.roles.mysql_members import Member

FLEET = build(
    "test",
    {f"data{n}": HostInput(frozenset({"mysql"}), {"ssh_hostname": f"10.0.0.1{n}"}) for n in (1, 2, 3)},
)
OLD = FLEET.host("data1")


def replica(name: str, follows: str = "10.0.0.11", *, writable: bool = False, promised: str = "") -> Member:
    return Member(name, FLEET.host(name).address, True, True, writable, follows, promised)


def gone(name: str, follows: str = "") -> Member:
    return Member(name, FLEET.host(name).address, held=True, running=False, writable=False, follows=follows)


class Found(Members):
    """Members that answer as they are told to: the first word of what is asked -> the answer, or an error."""

    def __init__(self, *seen: Member, silent: dict[str, str] | None = None, unit: UnitState | None = None) -> None:
        snapshots = {"data1": SimpleNamespace(units={"mariadb.service": unit})}
        hosts = {one.name: None for one in FLEET.hosts if one.name not in (silent or {})}
        run: Any = SimpleNamespace(fleet=FLEET, snapshots=snapshots, hosts=hosts)
        super().__init__(run, {one.name: one for one in seen}, silent or {})
        self.asked: list[tuple[str, ...]] = []
        self.fails: dict[tuple[str, str], str] = {}
        self.says: dict[tuple[str, str], str] = {}

    def ask(self, name: str, *words: str, first: tuple[str, ...] = (), seconds: int = 30) -> str:
        if first:
            self.ask(name, *first)
        self.asked.append((name, *words))
        if why := self.fails.get((name, words[0])):
            raise FleetError(host=name, subject=words[0], found=why, expected="the step to succeed")
        return self.says.get((name, words[0]), words[0])

    def without_server(self, name: str) -> None:
        self.ask(name, "without_server")

    def touch(self) -> None:
        """The audit trail is not theirs to prove."""

    def steps(self) -> list[tuple[str, ...]]:
        return [(name, words[0]) for name, *words in self.asked]


members = Found


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Callable[[Found], Found]:
    """The procedures work on these members."""

    def use(found: Found) -> Found:
        monkeypatch.setattr(db, "members", lambda *_: nullcontext(found))
        monkeypatch.setattr(proofs, "behind", lambda *_: "")
        return found

    return use


def unit(active: str, file_state: str = "enabled", load: str = "loaded") -> UnitState:
    return UnitState(load, active, "", file_state, False, 0, 0, {})


def test_whom_the_replicas_follow_is_replaced() -> None:
    assert proofs.lost(members(gone("data1"), replica("data2"), replica("data3"))).name == "data1"
    assert proofs.lost(members(replica("data2"), replica("data3"), silent={"data1": "no route"})).name == "data1"


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
        proofs.lost(members(*seen))


def test_a_primary_that_cannot_be_asked_is_fenced_by_a_persons_word_alone() -> None:
    found = members(silent={"data1": "no route"})
    with pytest.raises(FleetError, match="may still serve others"):
        proofs.fence(found, OLD, do=True, fenced="")
    proofs.fence(found, OLD, do=False, fenced="powered off")


def test_a_primary_that_may_start_again_is_not_fenced() -> None:
    dying = unit("deactivating", "masked", "masked")
    for state in (unit("active"), unit("failed"), unit("inactive"), dying):
        with pytest.raises(FleetError, match="stopped and masked"):
            proofs.fence(members(unit=state), OLD, do=False, fenced="it is off, I swear")
    found = members(unit=unit("inactive", "masked", "masked"))
    proofs.fence(found, OLD, do=False, fenced="")
    assert found.steps() == [("data1", "fenced")], "the host itself says that nothing runs"


def test_a_host_without_a_server_is_proven_to_run_none() -> None:
    found = members(unit=unit("inactive", "", "not-found"))
    proofs.fence(found, OLD, do=False, fenced="")
    assert found.steps() == [("data1", "without_server")]
    found.fails["data1", "without_server"] = "1234 mariadbd"
    with pytest.raises(FleetError, match="1234 mariadbd"):
        proofs.fence(found, OLD, do=True, fenced="")


def test_fencing_is_done_when_asked_for() -> None:
    found = members(unit=unit("active"))
    proofs.fence(found, OLD, do=True, fenced="")
    assert found.steps() == [("data1", "fence")]


def test_a_replica_that_may_hold_more_has_to_answer_or_be_given_up() -> None:
    found = members(replica("data2"), silent={"data1": "x", "data3": "y"})
    with pytest.raises(FleetError, match="--without data3"):
        proofs.nobody_missing(found, OLD, ())
    proofs.nobody_missing(found, OLD, ("data3",))


@pytest.mark.parametrize(
    "held_back", [gone("data3", "10.0.0.11"), replica("data3", "")], ids=["server down", "follows nobody"]
)
def test_a_replica_that_is_seen_but_cannot_be_asked_counts_like_a_silent_one(held_back: Member) -> None:
    found = members(gone("data1"), replica("data2"), held_back)
    with pytest.raises(FleetError, match=r"data3 .*--without data3"):
        proofs.nobody_missing(found, OLD, ())
    proofs.nobody_missing(found, OLD, ("data3",))
    with pytest.raises(FleetError, match="correct the name"):
        proofs.nobody_missing(found, OLD, ("data9",))


def test_who_is_given_up_is_not_asked(moving: Callable[[Found], Found]) -> None:
    found = moving(members(gone("data1"), replica("data2"), replica("data3"), unit=unit("inactive", "masked")))
    found.fails["data3", "drained"] = "an SQL error"
    found.says["data2", "drained"] = "1-11-7"
    with pytest.raises(FleetError, match="an SQL error"):
        db.failover("test", None)
    found.asked.clear()
    moved = db.failover("test", None, without=("data3",))
    assert (moved.old, moved.new, moved.position) == ("data1", "data2", "1-11-7")
    assert "data3" not in {name for name, _ in found.steps()}


def test_writers_do_not_wait_for_a_replica_that_does_not_follow(moving: Callable[[Found], Found]) -> None:
    found = moving(members(gone("data1"), replica("data2"), replica("data3"), unit=unit("inactive", "masked")))
    found.says = {("data2", "drained"): "1-11-7", ("data3", "drained"): "1-11-6"}
    found.says["data2", "open"] = "open, but no replica follows yet"
    found.fails["data3", "follow"] = "its disk is full"
    moved = db.failover("test", None)
    assert found.steps()[-1] == ("data2", "open")
    assert len(moved.notes) == 2
    assert "its disk is full" in moved.notes[0]
    assert "no replica follows yet" in moved.notes[1]


@pytest.mark.parametrize(
    "seen",
    [
        (gone("data1"), replica("data2", "", promised="failover 10.0.0.11"), replica("data3")),
        (gone("data1"), replica("data2", "", promised="failover 10.0.0.11"), replica("data3", "10.0.0.12")),
        (gone("data1"), replica("data2", "", promised="switchover 10.0.0.11"), replica("data3", "10.0.0.12")),
    ],
    ids=["the others not yet", "the others too", "a switchover, then the primary died"],
)
def test_a_failover_that_broke_off_goes_on(seen: tuple[Member, ...], moving: Callable[[Found], Found]) -> None:
    found = moving(members(*seen, unit=unit("failed", "masked")))
    found.says = {(name, "drained"): "1-11-7" for name in ("data2", "data3")}
    moved = db.failover("test", None)
    assert (moved.old, moved.new) == ("data1", "data2")
    assert found.steps()[-3:] == [("data2", "lead"), ("data3", "follow"), ("data2", "open")]


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        (
            (replace(replica("data1", ""), closed=True), replica("data2"), replica("data3")),
            ["close", "reached", "lead", "follow", "follow", "open"],
        ),
        (
            (replace(replica("data1", ""), closed=True), replica("data2", "", promised="switchover 10.0.0.11"),
             replica("data3")),
            ["close", "reached", "lead", "follow", "follow", "open"],
        ),
        (
            (replica("data1", "10.0.0.12"), replica("data2", "", promised="switchover 10.0.0.11"), replica("data3")),
            ["lead", "follow", "follow", "open"],
        ),
    ],
    ids=["closed", "the other leads", "the old one follows"],
)  # fmt: skip
def test_a_switchover_that_broke_off_goes_on(
    seen: tuple[Member, ...], steps: list[str], moving: Callable[[Found], Found]
) -> None:
    found = moving(members(*seen))
    found.run.snapshots |= {"data2": None, "data3": None}  # type: ignore[dict-item]
    moved = db.switchover("test", None)
    assert (moved.old, moved.new) == ("data1", "data2")
    assert [words for _, words in found.steps()] == steps
    assert ("data1", "close", "60", "again") in found.asked or "close" not in steps


def test_what_was_closed_is_opened_again_whoever_else_died(moving: Callable[[Found], Found]) -> None:
    """Only this run could have promoted another; and the first error is not hidden by a second."""
    found = moving(members(replica("data1", "", writable=True), replica("data2"), replica("data3")))
    found.run.snapshots |= {"data2": None, "data3": None}  # type: ignore[dict-item]
    found.fails["data2", "reached"] = "after 5 s it is not there"
    with pytest.raises(FleetError, match="after 5 s"):
        db.switchover("test", None)
    assert found.asked[-1] == ("data1", "reopen", "force")
    found.fails["data1", "reopen"] = "no connection"
    with pytest.raises(FleetErrors) as error:
        db.switchover("test", None)
    assert [one.found for one in error.value.errors] == ["after 5 s it is not there", "no connection"]


def test_the_one_that_has_most_leads() -> None:
    positions = {"data2": "1-11-95", "data3": "1-11-100"}
    assert proofs.most(positions, None) == "data3"
    assert proofs.most({"data2": "1-11-100", "data3": "1-11-100"}, "data3") == "data3"
    with pytest.raises(FleetError, match="data2: mysql failover"):
        proofs.most(positions, "data2")
