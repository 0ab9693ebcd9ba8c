"""The teeth of each gate: a fault that comes in the middle of a roll.

Each gate that sees it stops the roll by itself, whatever the others would say; with all of them left out, the roll goes
on, and does the harm that they are there for.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy.converge import desired
from deploy.model.catalog import SERVICES
from deploy.model.ways import Way
from deploy.procedures.roll import taking
from deploy.procedures.roll.journal import path_of
from deploy.procedures.roll.order import Action, Debt, Deed
from deploy.procedures.roll.run import Options, Rolled
from tests.chaos import faults, results
from tests.chaos.failover import (
    PORTS,
    database,
    eventually,
    fresh_table,
    load,
    primaries,
    primary,
    redis,
    redis_cli,
    sql,
    the_fleet,
)
from tests.chaos.load import TABLE
from tests.chaos.promises import lost
from tests.chaos.rolling import DATA, lines, owing, rolled, started
from tests.chaos.support import ROOT, on
from tests.chaos.watching import Watch, watching

pytestmark = pytest.mark.thorough

CACHE = PORTS["cache"]
SENTINEL = SERVICES["sentinel"].port("sentinel").number
CHANGE = """
base = base | {"service_nofile": 12288}
roll = {"canary_seconds": 1, "read_interval": 0.3, "reads": 2, "before_seconds": 4, "after_seconds": 60}
"""


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Path]:
    with owing(tmp_path, CHANGE) as copy:
        yield copy


def last_of(leader: str) -> str:
    """The follower that a roll restarts last."""
    return [name for name in DATA if name != leader][-1]


@contextmanager
def sentinel_stopped() -> Iterator[None]:
    on("data3", "systemctl stop redis-sentinel")
    try:
        yield
    finally:
        on("data3", "systemctl start redis-sentinel")


@contextmanager
def redis_replica_cut_off() -> Iterator[None]:
    leader = primary(CACHE)
    # Brokers would part as well, and more would be seen than Redis' gates.
    with faults.cut_off((last_of(leader),), [leader], tuple(PORTS.values())):
        # More than a replica may be behind.
        write = f"{redis_cli(leader, 'cache')} -e -X DATA SET chaos:big DATA EX 60"
        on(leader, f"head -c 3000000 /dev/zero | tr '\\0' x | {write}")
        eventually("its link is down", lambda: "connected" not in redis(last_of(leader), CACHE, "ROLE"), 30)
        yield


@contextmanager
def database_replica_stopped() -> Iterator[None]:
    leader = database()
    victim = last_of(leader)
    sql(victim, "STOP SLAVE")
    try:
        for number in range(3):
            sql(leader, f"INSERT INTO {TABLE} (id) VALUES ('behind-{number}')")
        yield
    finally:
        sql(victim, "START SLAVE")


@contextmanager
def broker_stopped_inside() -> Iterator[None]:
    on("data3", "rabbitmqctl -q stop_app </dev/null")
    try:
        yield
    finally:
        # Where the roll has restarted it, it is on its way already.
        start = "rabbitmqctl -q start_app </dev/null && rabbitmqctl -q await_startup --timeout 60 </dev/null && echo up"
        eventually("the broker runs", lambda: "up" in on("data3", start, check=False).split(), 120)


@dataclass(frozen=True)
class Fault:
    """`gates`: those that see it. `harm`: what comes of it without them: of what was watched, what was refused, and
    which hosts' members were restarted meanwhile.
    """

    service: str
    begin: Callable[[], Any]
    gates: tuple[str, ...]
    harm: Callable[[Watch, dict[str, float], set[str]], bool]


FAULTS = {
    "a sentinel has stopped": Fault(
        "sentinel", sentinel_stopped, ("running", "views", "quorum", "health"),
        # Of three, one was out and another was restarted: too quick for whoever looks from outside.
        lambda watch, _, restarted: "data3" in watch.out["sentinel"] and bool(restarted - {"data3"}),
    ),
    "a replica of Redis is cut off": Fault(
        "redis", redis_replica_cut_off, ("replication", "in step", "writes survive"),
        lambda _, pauses, __: pauses["cache"] > 1,
    ),
    "a replica of the database does not follow": Fault(
        "mysql", database_replica_stopped, ("replication", "in step"), lambda _, pauses, __: pauses["rows"] > 1,
    ),
    "a broker has stopped inside": Fault(
        "rabbitmq", broker_stopped_inside, ("cluster", "health"), lambda watch, *_: watch.most("rabbitmq") > 1,
    ),
}  # fmt: skip
CASES = [(name, gate) for name, fault in FAULTS.items() for gate in fault.gates]


@contextmanager
def in_the_middle(monkeypatch: pytest.MonkeyPatch, at: Action, fault: Callable[[], Any]) -> Iterator[None]:
    """The fault begins right before the first step of this kind, and ends with the block."""
    real = taking.Hands.take
    with ExitStack() as lasting, monkeypatch.context() as patch:
        begun: list[bool] = []

        def take(self: taking.Hands, deed: Deed, debt: Debt | None, way: Way | None, *, back: bool = False) -> None:
            if deed.action is at and not begun:
                begun.append(True)
                lasting.enter_context(fault())
            real(self, deed, debt, way, back=back)

        patch.setattr(taking.Hands, "take", take)
        yield


@pytest.mark.parametrize(("kind", "gate"), CASES, ids=[f"{kind}: {gate}" for kind, gate in CASES])
def test_each_gate_alone_stops_the_roll(kind: str, gate: str, changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[kind]
    fresh_table()
    before = started()
    others = frozenset(one for one in fault.gates if one != gate)
    with in_the_middle(monkeypatch, Action.BEFORE, fault.begin):
        found = rolled(Options(service=fault.service, skip=others), str(changed))
    assert found.how == "stopped"
    assert f"gate {gate}" in found.errors[0].message()
    assert {who for who, what in started().items() if what != before[who]} <= {("data3", "redis-sentinel")}


@pytest.mark.parametrize("kind", FAULTS)
def test_without_those_gates_the_fault_does_harm(kind: str, changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[kind]
    fresh_table()
    before = started()
    if fault.service == "rabbitmq":
        # The broker's own question in its drain is one more gate.
        undrained(monkeypatch)
    with (
        load("web1", "gates", "cache", "rows") as running,
        watching(the_fleet()) as watch,
        in_the_middle(monkeypatch, Action.BEFORE, fault.begin),
    ):
        begun = time.time()
        found: Rolled | None = None
        try:
            skip = frozenset({*fault.gates, "declared", "latency", "errors"})
            found = rolled(Options(service=fault.service, skip=skip), str(changed))
        finally:
            until = time.time()
            pauses = {name: ledger.gap(begun, until) for name, ledger in running.end().items()}
    results.note(f"roll without gates: {kind}", **{f"seconds_without_{name}": pause for name, pause in pauses.items()})
    restarted = {host for (host, unit), what in started().items() if before[host, unit] != what}
    assert fault.harm(watch, pauses, restarted), (found, watch.out, pauses, restarted)


def undrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is drained."""
    real = desired.ways
    monkeypatch.setattr(desired, "ways", lambda ctx: tuple(replace(way, drain=()) for way in real(ctx)))


# -- the gate at the restart itself --------------------------------------------------------------------------


@contextmanager
def made_to_lead(name: str) -> Iterator[None]:
    """Sentinel makes this replica the primary, by itself as far as the roll can tell."""
    (other,) = [one for one in DATA if one not in {name, primary(CACHE)}]
    redis(other, CACHE, "CONFIG", "SET", "replica-priority", "0")
    try:
        # Sentinel knows priorities from its last INFO.
        eventually("Sentinel knows that the other may not", partial(_may_not, other), 30)
        redis(name, SENTINEL, "SENTINEL", "FAILOVER", "cache")
        eventually(f"{name} leads", lambda: redis(name, CACHE, "ROLE")[:1] == ["master"], 30)
        yield
    finally:
        priority = the_fleet().host(other).settings.redis.replica_priority
        redis(other, CACHE, "CONFIG", "SET", "replica-priority", str(priority))


def _may_not(name: str) -> bool:
    said = redis("data1", SENTINEL, "SENTINEL", "REPLICAS", "cache")
    address = the_fleet().host(name).address
    found: dict[str, str] = {}
    for word, value in zip(said[::2], said[1::2], strict=False):
        found |= {word: value}
        if word == "replica-announced" and found.get("ip") == address:
            return found.get("slave-priority") == "0"
    return False


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Path]:
    """Gates that wait for as long as a failover takes, and a canary that is watched for longer."""
    with owing(tmp_path, CHANGE + 'roll = roll | {"canary_seconds": 20, "before_seconds": 25}\n') as copy:
        yield copy


def restarted_as_it_came_to_lead(
    copy: Path, monkeypatch: pytest.MonkeyPatch, skip: frozenset[str] = frozenset()
) -> tuple[str, list[str], Rolled]:
    """(who comes to lead right before its restart, who was restarted while it led, what came of the roll)."""
    first = next(name for name in DATA if name != primary(CACHE))
    restarted_leading: list[str] = []
    real = taking.Hands._restart

    def restart(self: taking.Hands, way: Way, host: str, units: tuple[str, ...]) -> None:
        if way.name == "redis-cache" and redis(host, CACHE, "ROLE")[:1] == ["master"]:
            restarted_leading.append(host)
        real(self, way, host, units)

    monkeypatch.setattr(taking.Hands, "_restart", restart)
    with in_the_middle(monkeypatch, Action.RESTART, partial(made_to_lead, first)):
        found = rolled(Options(service="redis", skip=skip), str(copy))
    return first, restarted_leading, found


def test_who_has_come_to_lead_is_not_restarted(patient: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hands over first, once the failover has ended: for some seconds the old primary says that it leads, too."""
    _, leading, found = restarted_as_it_came_to_lead(patient, monkeypatch)
    assert leading == []
    assert found.how == "done"


def test_while_it_cannot_be_told_who_leads_nobody_is_restarted(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failover lasts for longer than the roll may wait: it stops, and nothing was changed."""
    before = started()
    _, leading, found = restarted_as_it_came_to_lead(changed, monkeypatch)
    assert leading == []
    assert found.how == "stopped"
    assert started() == before


def test_without_that_gate_who_leads_is_restarted(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the primary is restarted under its clients."""
    first, leading, _ = restarted_as_it_came_to_lead(changed, monkeypatch, frozenset({taking.LEADS}))
    assert set(leading) == {first}


# -- a failover that happens by itself while the canary is watched ---------------------------------------------


def test_a_failover_by_itself_is_noticed(patient: Path) -> None:
    """The lead moves to a member that is still owed its restart: it comes last then, and hands over before it."""
    path = path_of(patient)
    with load("web1", "moved", "sessions", "cache") as running:
        process = subprocess.Popen(
            [str(ROOT / "fleet"), "roll", str(patient), "--service", "redis"], cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            eventually("the canary is watched", lambda: path.exists() and '"WATCH"' in path.read_text(), 120)
            old = primary(CACHE)
            redis("data1", SENTINEL, "SENTINEL", "FAILOVER", "cache")
            # The old one has not heard of it for a moment, and says so as well.
            eventually("the lead has moved", lambda: (now := primaries(CACHE)) != [old] and len(now) == 1, 20)
            moved = primary(CACHE)
            _, errors = process.communicate(timeout=900)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, errors
        ledgers = running.end()
    written = lines(patient)
    canary = next(line["host"] for line in written if line.get("action") == "WATCH")
    # Where the lead went to the canary, which has paid, those that are left stand in the order that they had.
    assert moved == canary or any("the order is worked out again" in line.get("words", "") for line in written)
    # Nobody paused the writers of the other: what the old primary took until it had heard of it, nobody has.
    gone = lost(ledgers, "cache", "sessions")
    results.note("a failover by itself while a canary is watched", of_the_cache_lost=len(gone["cache"]))
    assert gone["sessions"] == set()
