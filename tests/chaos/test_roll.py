"""Everything that needs a restart is rolled under load, and nobody notices."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import faults, results
from tests.chaos.failover import database, drained, load, settled, sql, the_fleet, visiting
from tests.chaos.load import TABLE
from tests.chaos.promises import BAR, lost
from tests.chaos.rolling import lines, paid, roll, started
from tests.chaos.support import COUNTED, REPEATS, UNBOUNDED, altered, drift, fleet, on
from tests.chaos.watching import watching

CHANGES = (
    UNBOUNDED
    + COUNTED
    + """
roll = {"canary_seconds": 3, "read_interval": 0.5}
base = base | {"service_nofile": 16384}
redis = redis | {"databases": 17}
rabbitmq = {"heartbeat": 61}
mysql = mysql | {"max_lag": 29}
grader = {"run_lease": 61}
gitserver = broadcaster = runner = {"log_level": "warning"}
"""
)


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path) -> Iterator[None]:
    settled()
    on("app1", "systemctl stop omegaup-worker@analytics")
    drained("web1")
    sql(database(), f"CREATE TABLE IF NOT EXISTS {TABLE} (n INT AUTO_INCREMENT PRIMARY KEY, id VARCHAR(80))")
    yield
    on("app1", "systemctl start omegaup-worker@analytics")
    paid(tmp_path)
    sql(database(), f"DROP TABLE IF EXISTS {TABLE}")
    settled()


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_all_services_are_rolled_and_nothing_is_lost(tmp_path: Path, turn: int) -> None:
    """Never more than one member out; no write waits for longer than the bar; what --dry said is what was done."""
    copy = altered(tmp_path, CHANGES)
    before = started()
    assert fleet("apply", inventory=copy).returncode == 0
    assert started() == before, "apply restarts nobody"
    _, planned = roll(copy, "--dry")
    with load("web1", f"roll-{turn}") as running, visiting("web1") as visits, watching(the_fleet()) as watch:
        begun = time.time()
        code, report = roll(copy)
        assert code == 0, report
        time.sleep(4)
        until = time.time()
    assert report["steps"] == planned["steps"]
    after = started()
    assert {who for who in after if after[who] == before[who]} == set(), "not restarted"
    assert fleet("plan", inventory=copy).returncode == 0
    ledgers = running.end()
    rows = sql(database(), f"SELECT id FROM {TABLE}")
    gone = lost(ledgers, "sessions", "messages", "rows")
    for kind, ledger in ledgers.items():
        results.note(f"roll of everything: {kind}", seconds_without_writes=ledger.gap(begun, until),
                     promised_and_lost=len(gone.get(kind, ())), refused=len(ledger.refusals))  # fmt: skip
    for service in ("redis", "sentinel", "rabbitmq", "mysql"):
        results.note(f"roll of everything: {service}", members_out_at_a_time=watch.most(service))
        assert watch.most(service) <= 1, watch.out
    results.note("roll of everything", seconds=until - 4 - begun, seconds_between_looks=watch.longest_pause)
    for kind, one in visits.items():
        results.note(f"roll of everything: visits, {kind}", failed=len(one.failed), slowest_seconds=one.slowest)
    failed = {kind: one.failed[:3] for kind, one in visits.items() if one.failed}
    assert failed == {}
    assert all(one.good > 10 for one in visits.values())
    assert gone == {"sessions": set(), "messages": set(), "rows": set()}
    assert len(rows) == len(set(rows))
    for kind, ledger in ledgers.items():
        assert ledger.gap(begun, until) < BAR, (kind, ledger.refusals[-3:])


def hot_apply(copy: Path) -> dict[str, float]:
    """Seconds from the command's start until the new values were everywhere, as its second look says that they are,
    and until its end, which is after that look. Nobody is restarted.
    """
    before = started()
    begun = time.monotonic()
    done = fleet("apply", "--json", inventory=copy)
    whole = time.monotonic() - begun
    assert done.returncode == 0, done.stdout + done.stderr
    assert started() == before
    parts = json.loads(done.stdout)["seconds"]
    return {"seconds_until_it_is_everywhere": whole - parts["look again"] - parts["note"], "seconds_of_apply": whole}


def test_what_is_hot_is_never_restarted(tmp_path: Path) -> None:
    copy = altered(
        tmp_path,
        'redis = redis | {"maxmemory": "300mb", "timeout": 3600}\nmysql = mysql | {"max_connections": 150}\n'
        'rabbitmq = {"vm_memory_high_watermark": 0.55}\nsentinel = {"down_after": 4}',
    )
    seconds = hot_apply(copy)
    assert fleet("plan", inventory=copy).returncode == 0, "the running values are the new ones"
    assert roll(copy)[1]["how"] == "nothing"
    results.note("a hot parameter of each service on all hosts", **seconds)
    assert drift() != set(), "the fixture brings the old values back"


HOT = {
    "Redis": 'redis = redis | {"timeout": 3600}', "Sentinel": 'sentinel = {"down_after": 4}',
    "RabbitMQ": 'rabbitmq = {"net_ticktime": 7}', "MariaDB": 'mysql = mysql | {"max_connections": 150}',
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
@pytest.mark.parametrize("service", HOT)
def test_a_hot_parameter_is_everywhere_within_seconds(service: str, turn: int, tmp_path: Path) -> None:
    copy = altered(tmp_path, HOT[service])
    seconds = hot_apply(copy)
    results.note(f"a hot parameter of {service} on all hosts", **seconds)
    assert seconds["seconds_until_it_is_everywhere"] < 10


@pytest.mark.thorough
def test_the_journal_has_each_step_before_it_is_taken(tmp_path: Path) -> None:
    copy = altered(tmp_path, 'gitserver = {"log_level": "error"}\nroll = {"canary_seconds": 2, "read_interval": 0.3}')
    assert fleet("apply", inventory=copy).returncode == 0
    code, report = roll(copy, "--service", "gitserver")
    assert code == 0, report
    written = lines(copy)
    steps = [line for line in written if line["event"] in {"take", "done"}]
    assert [line["words"] for line in written if line["event"] == "take"] == report["steps"]
    for earlier, later in zip(steps[::2], steps[1::2], strict=True):
        assert (earlier["event"], later["event"]) == ("take", "done")
        assert earlier["action"] == later["action"]
    assert written[-1]["event"] == "end"


@pytest.mark.thorough
def test_a_dead_host_that_has_no_part_in_it_can_be_left_out(tmp_path: Path) -> None:
    copy = altered(tmp_path, 'gitserver = {"log_level": "error"}\nroll = {"canary_seconds": 2, "read_interval": 0.3}')
    assert fleet("apply", inventory=copy).returncode == 0
    dead = the_fleet().members("runner")[0].name
    with faults.power_cut(dead):
        code, report = roll(copy)
        assert code == 1
        assert (report["errors"][0]["host"], "--limit" in report["errors"][0]["hint"]) == (dead, True)
        code, report = roll(copy, "--limit", ",".join(host.name for host in the_fleet().hosts if host.name != dead))
        assert code == 0, report
        assert any("restart omegaup-gitserver" in step for step in report["steps"])
