"""The database under load: moved in order, and replaced when it is gone; no acknowledged row is ever missing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.procedures import db, db_proofs
from tests.chaos import faults, results
from tests.chaos.failover import database, eventually, load, settled, sql, the_fleet
from tests.chaos.load import TABLE, Ledger
from tests.chaos.support import INVENTORY, REPEATS, ROOT, SPEC, altered, apply, drift, fleet, footprint, on

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
    assert apply()["done"] == []
    assert database() == new


def listing_first(folder_: Path, *members: str) -> Path:
    """A copy of the inventory with these database members, in this order."""
    copy = altered(folder_, "")
    text = (copy / "inventory.py").read_text()
    changed = re.sub(r"(?m)^mysql = .*$", f"mysql = {list(members)!r}", text)
    assert changed != text
    (copy / "inventory.py").write_text(changed)
    return copy


def test_whom_the_inventory_lists_first_does_not_matter(tmp_path: Path) -> None:
    """Acceptance: after a move, whatever order the hosts are in, there is nothing to do and nobody is moved back."""
    leads = database()
    for n, first in enumerate(name for name in MEMBERS if name != leads):
        copy = listing_first(tmp_path / str(n), first, *(name for name in MEMBERS if name != first))
        done = fleet("apply", "--json", inventory=copy)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [step for step in json.loads(done.stdout)["done"] if step["key"].startswith("mysql:")] == []
        assert fleet("drift", inventory=copy).returncode == 0
        assert database() == leads
    apply()


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
        until_ready = time.monotonic() + 60
        while "1" not in seen and time.monotonic() < until_ready:
            seen.add(on(old, "mariadb -NB -e 'SELECT @@read_only' 2>/dev/null || true", check=False).strip())
            time.sleep(0.1)
        for _ in range(50):
            seen.add(on(old, "mariadb -NB -e 'SELECT @@read_only' 2>/dev/null || true", check=False).strip())
            time.sleep(0.1)
        # It did answer, and never that it takes writes.
        assert "1" in seen
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
    monkeypatch.setattr(db_proofs, "fence", lambda *_: None)
    db.failover(INVENTORY, None)
    writable = [name for name in MEMBERS if sql(name, "SELECT @@read_only") == ["0"]]
    assert len(writable) == 2
    done = fleet("apply")
    assert done.returncode == 1
    assert "2 writable primaries" in done.stdout + done.stderr
    # As the message says: the old one is the one that is given up.
    on(old, "mariadb -e 'SET GLOBAL read_only = 1'")


DYING = """
import os, signal, sys
from deploy.procedures import db, db_members
step, inventory, move, seconds = sys.argv[1:]
db.REOPEN_SECONDS = int(seconds)
ask = db_members.Members.ask
def dying(self, name, *words, **more):
    said = ask(self, name, *words, **more)
    if words[0] == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return said
db_members.Members.ask = dying
db.switchover(inventory, None) if move == "switchover" else db.failover(inventory, None, fence=True)
"""
"""The command, killed as soon as one member has done this step."""


def dies_after(step: str, move: str, reopen: int = db.REOPEN_SECONDS) -> None:
    command = [sys.executable, "-c", DYING, step, INVENTORY, move, str(reopen)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def nothing_lost(fault: str, ledger: Ledger) -> None:
    rows = sql(database(), f"SELECT id FROM {TABLE}")
    lost, twice = ledger.ids() - set(rows), len(rows) - len(set(rows))
    results.note(f"MySQL: {fault}", acknowledged_and_lost=len(lost), there_twice=twice)
    assert ledger.ids()
    assert lost == set()
    assert twice == 0


@pytest.mark.parametrize("step", ["close", "reached", "lead", "follow", "open"])
def test_switchover_killed_and_run_again(step: str) -> None:
    """The controller dies at each step: the same command goes on, and there is one primary."""
    old = database()
    with load("web1", f"killed-after-{step}", "rows") as running:
        dies_after(step, "switchover")
        if step == "open":
            # It was over: again would be another move.
            assert database() != old
        else:
            code, said = db_command("switchover")
            assert code == 0, said
        time.sleep(2)
        ledger = running.end()["rows"]
    assert database() != old
    nothing_lost("switchover killed at each step and run again", ledger)
    apply()
    assert drift() == set()
    same_everywhere()


@pytest.mark.parametrize("step", ["fence", "drained", "lead", "follow", "open"])
def test_failover_killed_and_run_again(step: str) -> None:
    old = database()
    with load("web1", f"failover-after-{step}", "rows") as running:
        with faults.killed_for_good(old, "mariadb"):
            dies_after(step, "failover")
            code, said = db_command("failover", "--fence")
            assert code == (1 if step == "open" else 0), said
            if step == "open":
                assert "takes writes" in said
            time.sleep(2)
        ledger = running.end()["rows"]
    assert database() != old
    nothing_lost("failover killed at each step and run again", ledger)
    apply()
    assert drift() == set()
    same_everywhere()


def test_apply_goes_on_only_where_it_is_proven_who_leads() -> None:
    """Two that follow nobody: refused, with the command that goes on. One that all follow: opened."""
    old = database()
    dies_after("lead", "switchover")
    done = fleet("apply")
    assert done.returncode == 1
    assert "`fleet db switchover` again" in done.stdout + done.stderr
    code, said = db_command("switchover")
    assert code == 0, said
    assert (new := database()) != old
    # Closed, nobody promoted: the old one.
    dies_after("reached", "switchover")
    apply()
    assert database() == new


def writable_within(seconds: float) -> set[str]:
    """Who was seen to take writes in this time, until one does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = {name for name in MEMBERS if sql(name, "SELECT @@read_only") == ["0"]}
        if found:
            return found
        time.sleep(0.5)
    return set()


def test_a_closed_primary_opens_again_by_itself() -> None:
    old = database()
    for step in ("close", "lead"):
        with load("web1", f"reopened-{step}", "rows") as running:
            dies_after(step, "switchover", 8)
            assert writable_within(25) == {old}
            time.sleep(1)
            ledger = running.end()["rows"]
        nothing_lost(f"controller killed after {step}, primary opens by itself", ledger)
        apply()
        assert database() == old
        assert drift() == set()


def test_without_the_guard_it_stays_closed() -> None:
    """The twin: the timer that opens it again is stopped."""
    old = database()
    dies_after("close", "switchover", 8)
    on(old, "systemctl stop fleet-mysql-reopen.timer")
    assert writable_within(25) == set()
    code, said = db_command("switchover")
    assert code == 0, said


@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_hangs(turn: int) -> None:
    """It does not answer and does not end: everybody else can still be asked, and one command replaces it."""
    old = database()
    with load("web1", f"hangs-{turn}", "rows") as running:
        on(old, "systemctl kill -s STOP mariadb")
        try:
            begun = time.time()
            assert fleet("plan", timeout=60).returncode in {0, 2}
            code, said = db_command("status")
            assert code == 1
            assert "not running" in said
            asked = time.time() - begun
            begun = time.time()
            code, said = db_command("failover", "--fence")
            assert code == 0, said
            seconds = time.time() - begun
            time.sleep(6)
            until = time.time()
        finally:
            on(old, "systemctl kill -s CONT mariadb 2>/dev/null || true")
        ledger = running.end()["rows"]
    assert database() != old
    results.note("MySQL: primary hangs, failover", command_seconds=seconds, plan_and_status_seconds=asked)
    judge("primary hangs, failover", ledger, 40.0, begun, until)
    apply()
    assert drift() == set()
    same_everywhere()


def test_a_replica_that_is_down_may_have_the_only_acknowledgement() -> None:
    """Its server does not run, its host answers: the failover refuses, unless what it has is given up."""
    old = database()
    down, other = (name for name in MEMBERS if name != old)
    with faults.killed_for_good(down, "mariadb"), faults.killed_for_good(old, "mariadb"):
        code, said = db_command("failover", "--fence")
        assert code == 1
        assert f"--without {down}" in said
        assert "masked" not in on(old, "systemctl is-enabled mariadb || true"), "nothing was changed"
        code, said = db_command("failover", "--fence", "--without", down)
        assert code == 0, said
    assert database() == other
    apply()
    assert drift() == set()
    same_everywhere()


def test_a_replica_in_error_does_not_block_for_good() -> None:
    """Its replication stands still: named at first, left behind when it is given up."""
    old = database()
    bad, other = (name for name in MEMBERS if name != old)
    on(bad, f"mariadb -e 'SET SESSION sql_log_bin = 0; DROP TABLE omegaup.{TABLE}'")
    sql(old, f"INSERT INTO {TABLE} (id) VALUES ('after')")
    eventually("replication fails", lambda: "No" in on(bad, "mariadb -e 'SHOW SLAVE STATUS\\G' | grep _SQL_Running:"))
    with faults.killed_for_good(old, "mariadb"):
        code, said = db_command("failover", "--fence")
        assert code == 1
        assert bad in said
        code, said = db_command("failover", "--fence", "--without", bad)
        assert code == 0, said
    assert database() == other
    on(bad, "echo reseed >/var/lib/mysql/fleet-origin")
    apply()
    assert drift() == set()
    same_everywhere()


def test_diverged_gtids_are_refused_before_anything_is_changed() -> None:
    """A write of a replica's own: named, with what to do; nothing changed on any data host; then done as it says."""
    leads = database()
    victim = next(name for name in MEMBERS if name != leads)
    sql(victim, f"INSERT INTO {TABLE} (id) VALUES ('of its own')")  # root is not held back by read_only
    gtid = sql(victim, "SELECT @@gtid_binlog_pos")[0]
    before = {name: footprint(name) for name in MEMBERS}
    for command in ("plan", "apply"):
        done = fleet(command)
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1
        assert f"{victim}: mysql: found transactions of its own up to {gtid}" in said
        assert "echo reseed >/var/lib/mysql/fleet-origin" in said
    assert {name: footprint(name) for name in MEMBERS} == before
    assert sql(victim, "SELECT @@gtid_binlog_pos") == [gtid]
    assert database() == leads
    on(victim, "echo reseed >/var/lib/mysql/fleet-origin")
    apply()
    assert drift() == set()
    same_everywhere()
    # Filled from the other replica, not by the primary.
    (other,) = (name for name in MEMBERS if name not in {leads, victim})
    assert on(victim, "cat /var/lib/mysql/fleet-origin").split() == ["seeded", SPEC.address(other)]


def test_who_left_the_inventory_has_no_part_in_a_commit(tmp_path: Path) -> None:
    """Its server goes on and still reads when its account goes: its acknowledgement must not count any more."""
    leads = database()
    left = next(name for name in MEMBERS if name != leads)
    copy = listing_first(tmp_path, *(name for name in MEMBERS if name != left))
    reading = "SELECT HOST FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"
    assert any(row.startswith(SPEC.address(left)) for row in sql(leads, reading))
    done = fleet("apply", inventory=copy)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert not any(row.startswith(SPEC.address(left)) for row in sql(leads, reading))
    time.sleep(6)  # it would have come back by now
    assert not any(row.startswith(SPEC.address(left)) for row in sql(leads, reading))
    clients = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = '{}'"
    assert sql(leads, clients.format("Rpl_semi_sync_master_clients")) == ["1"]
