"""What a roll notices while it runs, what it refuses, and what happens where its gates are left out."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import FleetError, FleetErrors
from deploy.model.catalog import SERVICES
from deploy.procedures.roll.journal import path_of
from deploy.procedures.roll.run import Options
from tests.chaos import faults, results
from tests.chaos.failover import eventually, load, primary, redis, roles
from tests.chaos.rolling import lines, owing, rolled, started
from tests.chaos.support import ROOT
from tests.chaos.test_redis_failover import missing

CACHE = SERVICES["redis"].port("cache").number
SENTINEL = SERVICES["sentinel"].port("sentinel").number
REDIS_PORTS = tuple(SERVICES["redis"].port(name).number for name in ("cache", "sessions"))
"""Of nobody else: brokers that part of them would part as well, and a roll begins with nothing owed to apply."""
DATA = ("data1", "data2", "data3")
CHANGE = """
redis = redis | {"databases": 18}
roll = {"canary_seconds": 3, "read_interval": 0.3, "before_seconds": 10}
"""


def leaders() -> list[str]:
    return [name for name, role in roles(CACHE).items() if role == "master"]


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Path]:
    with owing(tmp_path, CHANGE) as copy:
        yield copy


@pytest.mark.thorough
def test_a_failover_by_itself_is_noticed(changed: Path) -> None:
    """The lead moves to a member that is still owed its restart: it comes last then, and hands over before it."""
    path = path_of(changed)
    with load("web1", "moved", "sessions", "cache") as running:
        process = subprocess.Popen(
            [str(ROOT / "fleet"), "roll", str(changed), "--service", "redis"], cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            eventually("the canary is watched", lambda: path.exists() and '"WATCH"' in path.read_text(), 120)
            old = primary(CACHE)
            redis("data1", SENTINEL, "SENTINEL", "FAILOVER", "cache")
            # The old one has not heard of it for a moment, and says so as well.
            eventually("the lead has moved", lambda: (now := leaders()) != [old] and len(now) == 1, 20)
            moved = primary(CACHE)
            _, errors = process.communicate(timeout=900)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, errors
        ledgers = running.end()
    written = lines(changed)
    canary = next(line["host"] for line in written if line.get("action") == "WATCH")
    # Where the lead went to the canary, which has paid, those that are left stand in the order that they had.
    assert moved == canary or any("the order is worked out again" in line.get("words", "") for line in written)
    for kind in ("sessions", "cache"):
        assert missing(set(ledgers[kind].kept), kind) == set()


@pytest.mark.thorough
def test_a_member_that_is_not_well_refuses_the_roll_and_nobody_is_touched(changed: Path) -> None:
    before = started()
    victim = next(name for name in DATA if name != primary(CACHE))
    with faults.cut_off((victim,), [name for name in DATA if name != victim]):
        time.sleep(12)
        try:
            refused = rolled(Options(service="redis"), str(changed)).how == "stopped"
        except (FleetError, FleetErrors):
            refused = True
    assert refused
    assert started() == before


@pytest.mark.thorough
def test_without_its_gates_a_roll_takes_the_last_replica_away(changed: Path) -> None:
    """The twin: with one replica cut off, the other is restarted, and the primary takes no writes meanwhile."""
    leader = primary(CACHE)
    victim = [name for name in DATA if name != leader][-1]
    skip = frozenset({"replication", "in step", "writes survive", "answers", "health", "declared"})
    with load("web1", "teeth", "cache") as running:
        begun = time.time()
        with faults.cut_off((victim,), [leader], REDIS_PORTS):
            time.sleep(12)
            rolled(Options(service="redis", skip=skip), str(changed))
        until = time.time()
        ledger = running.end()["cache"]
    refused = [why for why, _ in ledger.refusals if "NOREPLICAS" in why or "Connection" in why]
    results.note("roll without gates, a replica away", seconds_without_writes=ledger.gap(begun, until))
    assert refused
