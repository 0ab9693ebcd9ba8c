"""TLS of Redis and Sentinel is turned off and on under load: nothing that was promised is lost, nobody is restarted but
the sentinels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import results
from tests.chaos.failover import PORTS, load, primary, redis, settled
from tests.chaos.promises import missing
from tests.chaos.rolling import roll, started
from tests.chaos.support import REPEATS, altered, apply, fleet
from tests.chaos.test_redis_failover import BAR, MEMBERS

OFF = 'redis = redis | {"tls": False}\nroll = {"canary_seconds": 1, "read_interval": 0.3}'
ON = 'roll = {"canary_seconds": 1, "read_interval": 0.3}'

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def whole(begun_well: None, tmp_path: Path) -> Iterator[None]:
    yield
    apply()
    code, report = roll(altered(tmp_path / "after", ON))
    assert code == 0, report
    settled()


def full_copies() -> int:
    """How often any member has been copied from the beginning."""
    return sum(
        int(line.partition(":")[2])
        for name in MEMBERS
        for port in PORTS.values()
        for line in redis(name, port, "INFO", "stats")
        if line.startswith("sync_full:")
    )


def redis_units() -> dict[tuple[str, str], str]:
    return {key: what for key, what in started().items() if key[1] in {"redis-cache", "redis-sessions"}}


@pytest.mark.parametrize("turn", range(REPEATS))
def test_off_and_on_again_under_load(turn: int, tmp_path: Path) -> None:
    plain, secure = altered(tmp_path / "off", OFF), altered(tmp_path / "on", ON)
    leads = {port: primary(port) for port in PORTS.values()}
    copies, units = full_copies(), redis_units()
    for inventory, what in ((plain, "off"), (secure, "on")):
        with load("web1", f"tls-{what}-{turn}", "sessions", "cache") as running:
            begun = time.time()
            done = fleet("apply", inventory=inventory)
            assert done.returncode == 0, done.stdout + done.stderr
            code, report = roll(inventory)
            assert code == 0, report
            time.sleep(4)
            until = time.time()
        for kind, ledger in running.end().items():
            pause = ledger.gap(begun, until)
            kept, plainly = missing(set(ledger.kept), kind), missing(ledger.ids() - set(ledger.kept), kind)
            results.note(
                f"Redis {kind}: TLS turned {what}", seconds_without_writes=pause, promised_and_lost=len(kept),
                acknowledged_by_the_primary_alone_and_lost=len(plainly),
            )  # fmt: skip
            assert (kept, plainly) == (set(), set())
            assert pause < BAR, ledger.refusals[-3:]
        settled(inventory=inventory)
        others = [step for step in report["steps"] if "redis-cache" in step or "redis-sessions" in step]
        assert others == [], "sentinels alone are restarted"
        assert {port: primary(port) for port in PORTS.values()} == leads
    assert full_copies() == copies
    assert redis_units() == units


def test_a_plan_without_tls_warns(tmp_path: Path) -> None:
    plain = altered(tmp_path / "off", OFF)
    done = fleet("plan", "--no-diff", inventory=plain)
    assert done.returncode == 2
    assert "redis.tls is off" in done.stdout
    assert [one["service"] for one in json.loads(fleet("plan", "--json", inventory=plain).stdout)["warnings"]] == [
        "redis"
    ]
    assert "redis.tls" not in fleet("plan").stdout


def test_a_part_of_the_hosts_is_not_changed_alone(tmp_path: Path) -> None:
    plain = altered(tmp_path / "off", OFF)
    done = fleet("apply", "--limit", "data1", inventory=plain)
    assert done.returncode == 1
    assert "apply without --limit" in done.stdout + done.stderr
    assert apply()["done"] == [], "nothing was changed"
