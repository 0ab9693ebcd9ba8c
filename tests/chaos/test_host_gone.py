"""A data host is gone, for a while or with its disk, while everybody writes: nothing that was promised is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

import lab
from tests.chaos import faults, results
from tests.chaos.failover import (
    PORTS,
    a_victim,
    database,
    dead_letters,
    eventually,
    fresh_table,
    load,
    primary,
    redis,
    roles,
    settled,
    sql,
    the_fleet,
)
from tests.chaos.load import TABLE, Ledger
from tests.chaos.promises import lost
from tests.chaos.support import REPEATS, SPEC, apply, on
from tests.chaos.test_redis_failover import BAR

MEMBERS = tuple(host.name for host in the_fleet().members("mysql"))


@pytest.fixture(autouse=True)
def prepared(begun_well: None) -> Iterator[None]:
    """The workers run, as `apply` would start them anyway: the load's messages are what they can only put aside."""
    dead_letters(MEMBERS[0])
    fresh_table()
    yield
    sql(database(), f"DROP TABLE IF EXISTS {TABLE}")
    settled()


def judge(fault: str, ledgers: dict[str, Ledger], begun: float, until: float, bar: float) -> None:
    """Of each kind of write: nothing lost that was promised, no longer pause than the bar (seconds)."""
    gone = lost(ledgers, *ledgers)
    pauses = {kind: ledger.gap(begun, until) for kind, ledger in ledgers.items()}
    for kind in ledgers:
        results.note(f"{fault}: {kind}", seconds_without_writes=pauses[kind], promised_and_lost=len(gone[kind]))
    assert {kind: sorted(ids)[:5] for kind, ids in gone.items() if ids} == {}
    assert {kind: pause for kind, pause in pauses.items() if pause > bar} == {}


FAULTS: dict[str, Callable[[str], AbstractContextManager[None]]] = {
    "without power": faults.power_cut,
    "frozen": faults.frozen,
    "cut off": faults.isolated,
}


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
@pytest.mark.parametrize("fault", FAULTS)
def test_gone_for_a_while(fault: str, turn: int) -> None:
    """Its Redis may be the primary, its broker lead queues, its database acknowledge: all at once."""
    victim = a_victim("mysql", turn)
    with load("web1", f"gone-{fault.replace(' ', '-')}-{turn}") as running:
        begun = time.time()
        with FAULTS[fault](victim):
            time.sleep(15)
        # Asked until it is so: for a moment after a partition there may be two.
        eventually("one primary", lambda: list(roles(PORTS["sessions"]).values()).count("master") == 1, 90)
        time.sleep(BAR)
        until = time.time()
        settled()
    judge(f"a data host {fault}", running.end(), begun, until, BAR)


def started(host: str) -> str:
    """When each service of a host was started."""
    units = "redis-cache redis-sessions redis-sentinel rabbitmq-server mariadb omegaup-mysql-agent"
    return on(host, f"systemctl show -p Id,ExecMainStartTimestampMonotonic {units}")


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_destroyed_and_rebuilt(turn: int) -> None:
    victim = a_victim("mysql", turn)
    others = [name for name in MEMBERS if name != victim]
    before = {host: started(host) for host in others}
    with load("web1", f"rebuilt-{turn}") as running:
        begun = time.time()
        lab.reset(SPEC, victim)
        report = apply()
        settled()
        until = time.time()
    assert report["done"]
    assert {host: started(host) for host in others} == before, "the others were disturbed"
    results.note("a member destroyed and rebuilt", seconds_of_apply=sum(report["seconds"].values()))
    judge("a member destroyed and rebuilt", running.end(), begun, until, BAR)
    # It has everything again: filled from the replica that was left, not from the primary.
    assert set(sql(victim, f"SELECT id FROM {TABLE}")) == set(sql(database(), f"SELECT id FROM {TABLE}"))
    donor = next(name for name in others if name != database())
    assert SPEC.address(donor) in on(victim, "cat /var/lib/mysql/fleet-origin")
    for port in PORTS.values():
        counts = {redis(name, port, "DBSIZE")[0] for name in (primary(port), victim)}
        assert len(counts) == 1, f"keys on {port}: {counts}"
