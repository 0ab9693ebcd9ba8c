"""A member is destroyed, disk and all, and made anew by `apply`, while everybody goes on writing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import lab
from tests.chaos import results
from tests.chaos.failover import database, dead_letters, drained, load, settled, sql, the_fleet
from tests.chaos.load import TABLE
from tests.chaos.support import REPEATS, SPEC, apply, on
from tests.chaos.test_redis_failover import missing

MEMBERS = tuple(host.name for host in the_fleet().members("mysql"))


@pytest.fixture(autouse=True)
def prepared() -> Iterator[None]:
    """The workers run, as `apply` would start them anyway: the load's messages are what they can only put aside."""
    settled()
    dead_letters(MEMBERS[0])
    sql(database(), f"CREATE TABLE IF NOT EXISTS {TABLE} (n INT AUTO_INCREMENT PRIMARY KEY, id VARCHAR(80))")
    yield
    sql(database(), f"DROP TABLE IF EXISTS {TABLE}")
    settled()


def started(host: str) -> str:
    """When each service of a host was started."""
    units = "redis-cache redis-sessions redis-sentinel rabbitmq-server mariadb omegaup-mysql-agent"
    return on(host, f"systemctl show -p Id,ExecMainStartTimestampMonotonic {units}")


@pytest.mark.parametrize("turn", range(REPEATS))
def test_destroyed_and_rebuilt(turn: int) -> None:
    """Any but the database's primary, which only a person replaces (see test_mysql_failover)."""
    fit = [name for name in MEMBERS if name != database()]
    victim = fit[turn % len(fit)]
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
    ledgers = running.end()
    messages = {*dead_letters(MEMBERS[0]), *drained("web1")}
    rows = sql(database(), f"SELECT id FROM {TABLE}")
    lost = {
        "sessions": missing(set(ledgers["sessions"].kept), "sessions"),
        "messages": ledgers["messages"].ids() - messages,
        "rows": ledgers["rows"].ids() - set(rows),
    }
    for kind, ledger in ledgers.items():
        results.note(f"a member destroyed and rebuilt: {kind}", seconds_without_writes=ledger.gap(begun, until),
                     promised_and_lost=len(lost.get(kind, ())))  # fmt: skip
    results.note("a member destroyed and rebuilt", seconds_of_apply=sum(report["seconds"].values()))
    assert lost == {"sessions": set(), "messages": set(), "rows": set()}
    # It has everything again.
    assert set(sql(victim, f"SELECT id FROM {TABLE}")) == set(rows)
