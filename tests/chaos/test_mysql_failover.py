"""The database under load: moved in order, and replaced when it is gone; no acknowledged row is ever missing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.procedures import db
from tests.chaos import faults, results
from tests.chaos.failover import database, eventually, load, settled, sql, the_fleet
from tests.chaos.load import TABLE, Ledger
from tests.chaos.support import INVENTORY, REPEATS, ROOT, altered, apply, drift, fleet, on

MEMBERS = tuple(host.name for host in the_fleet().members("mysql"))


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """A table in which a row can be there twice, so that it would be seen."""
    settled()
    sql(database(), f"CREATE TABLE IF NOT EXISTS {TABLE} (n INT AUTO_INCREMENT PRIMARY KEY, id VARCHAR(80))")
    yield
    apply()
    settled()
    sql(database(), f"DROP TABLE IF EXISTS {TABLE}")


def judge(fault: str, ledger: Ledger, bar: float, begun: float, until: float) -> None:
    """No acknowledged row is missing or there twice, on any member; writes paused no longer than `bar` seconds."""
    pause = ledger.gap(begun, until)
    rows = sql(database(), f"SELECT id FROM {TABLE}")
    lost, twice = ledger.ids() - set(rows), len(rows) - len(set(rows))
    results.note(
        f"MySQL: {fault}", seconds_without_writes=pause, acknowledged_and_lost=len(lost), there_twice=twice,
    )  # fmt: skip
    assert lost == set()
    assert twice == 0
    assert pause < bar, f"{pause:.1f} s without writes; refused: {ledger.refusals[-3:]}"


def same_everywhere() -> None:
    """Table by table, the same checksums on all members."""

    def sums(host: str) -> list[str]:
        tables = sql(host, "SHOW TABLES")
        return sql(host, f"CHECKSUM TABLE {', '.join(tables)}")

    eventually("equal checksums", lambda: len({tuple(sums(host)) for host in MEMBERS}) == 1, 30)


def db_command(*words: str) -> tuple[int, str]:
    """`fleet db WORD INVENTORY ...`: exit code and all that it said."""
    command = [str(ROOT / "fleet"), "db", words[0], INVENTORY, *words[1:]]
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, timeout=300, stdin=subprocess.DEVNULL, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("turn", range(REPEATS))
def test_switchover(turn: int) -> None:
    old = database()
    with load("web1", f"switchover-{turn}", "rows") as running:
        begun = time.time()
        code, said = db_command("switchover")
        assert code == 0, said
        time.sleep(5)
        until = time.time()
    new = database()
    assert new != old
    judge("switchover", running.end()["rows"], 3.0, begun, until)
    same_everywhere()
    # What everybody was told stays so, whatever the inventory lists first.
    assert apply()["done"] == []
    assert database() == new


@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_killed(turn: int) -> None:
    """Nobody takes its place by itself, nor unless it is fenced; then one command is enough."""
    old = database()
    with load("web1", f"killed-{turn}", "rows") as running:
        with faults.killed_for_good(old, "mariadb"):
            code, said = db_command("failover")
            assert code == 1, said
            assert "stopped and masked" in said
            begun = time.time()
            code, said = db_command("failover", "--fence")
            assert code == 0, said
            seconds = time.time() - begun
            time.sleep(6)
            until = time.time()
        ledger = running.end()["rows"]
    new = database()
    assert new != old
    results.note("MySQL: primary killed, fenced failover", command_seconds=seconds)
    judge("primary killed, fenced failover", ledger, 30.0, begun, until)
    apply()
    assert drift() == set()
    assert database() == new
    assert sql(old, "SELECT @@read_only") == ["1"]
    same_everywhere()


@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_without_power(turn: int) -> None:
    """Its host cannot be asked, so a person answers for it; when it is back it takes no write by itself."""
    old = database()
    with load("web1", f"power-{turn}", "rows") as running:
        with faults.power_cut(old):
            code, said = db_command("failover")
            assert code == 1, said
            assert "does not answer" in said
            begun = time.time()
            code, said = db_command("failover", "--fenced", "the test cut its power")
            assert code == 0, said
            time.sleep(6)
            until = time.time()
        seen = set()
        for _ in range(50):
            seen.add(on(old, "mariadb -NB -e 'SELECT @@read_only' 2>/dev/null || true", check=False).strip())
            time.sleep(0.1)
        assert seen <= {"1", ""}
        ledger = running.end()["rows"]
    judge("primary's host without power, failover", ledger, 30.0, begun, until)
    apply()
    assert drift() == set()
    assert database() != old
    same_everywhere()


@pytest.mark.parametrize("turn", range(REPEATS))
def test_replica_killed_and_started_again_by_systemd(turn: int) -> None:
    victim = next(name for name in MEMBERS if name != database())
    with load("web1", f"replica-{turn}", "rows") as running:
        begun = time.time()
        faults.kill_9(victim, "mariadb")
        eventually("it replicates again", lambda: drift() == set(), 60)
        until = time.time()
    judge("replica killed, started again by systemd", running.end()["rows"], 10.0, begun, until)
    same_everywhere()


def cut_then_killed(prefix: str) -> set[str]:
    """Acknowledged rows that are missing after the primary was cut off from its replicas, then killed."""
    old = database()
    others = [name for name in MEMBERS if name != old]
    with load("web1", prefix, "rows") as running:
        with faults.cut_off((old,), others):
            time.sleep(4)
            with faults.killed_for_good(old, "mariadb"):
                code, said = db_command("failover", "--fence")
                assert code == 0, said
        time.sleep(3)
        ledger = running.end()["rows"]
    return ledger.ids() - set(sql(database(), f"SELECT id FROM {TABLE}"))


def test_what_no_replica_has_is_not_acknowledged() -> None:
    assert cut_then_killed("semi-sync") == set()


def test_without_semi_sync_acknowledged_rows_are_lost(tmp_path: Path) -> None:
    """The twin: the same fault, replication asynchronous."""
    copy = altered(tmp_path, "mysql = mysql | {'semi_sync': False}")
    assert fleet("apply", inventory=copy).returncode == 0
    lost = cut_then_killed("async")
    results.note("MySQL: the same without semi-sync", acknowledged_and_lost=len(lost))
    assert lost


def test_without_the_fence_two_take_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the fence: replaced while it serves, the old primary goes on."""
    old = database()
    monkeypatch.setattr(db, "_fence", lambda *_: None)
    db.failover(INVENTORY, None)
    writable = [name for name in MEMBERS if sql(name, "SELECT @@read_only") == ["0"]]
    assert len(writable) == 2
    done = fleet("apply")
    assert done.returncode == 1
    assert "2 writable primaries" in done.stdout + done.stderr
    # As the message says: the old one is the one that is given up.
    on(old, "mariadb -e 'SET GLOBAL read_only = 1'")
