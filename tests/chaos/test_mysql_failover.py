"""The database under load: moved in order, and replaced when it is gone; no acknowledged row is ever missing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import lab
from deploy.procedures import db, db_proofs
from deploy.roles.mysql import OPENED, ROLE_TOOL
from tests.chaos import faults, results
from tests.chaos.failover import database, eventually, load, sql
from tests.chaos.load import TABLE
from tests.chaos.mysql import MEMBERS, db_command, judge, same_everywhere, table
from tests.chaos.support import INVENTORY, REPEATS, SPEC, altered, apply, drift, fleet, footprints, on, touched

__all__ = ["table"]


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_destroyed(turn: int) -> None:
    """Its host is there again, with an empty disk: not made primary anew; one command, then it is filled by `apply`."""
    old = database()
    with load("web1", f"destroyed-{turn}", "rows") as running:
        lab.reset(SPEC, old)
        others = tuple(name for name in MEMBERS if name != old)
        before = footprints(others)
        done = fleet("apply")
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1, said
        assert f"{old}, which they follow, has lost its disk: `fleet db failover`" in said
        # But for what Redis and Sentinel write themselves: they may be at their own failover.
        changed = {path for _, path in touched(before, footprints(others))}
        assert {path for path in changed if not path.startswith("/etc/redis/")} == set()
        begun = time.time()
        code, said = db_command("failover")
        assert code == 0, said
        time.sleep(6)
        until = time.time()
        apply()
        ledger = running.end()["rows"]
    judge("primary's disk lost, failover", ledger, 30.0, begun, until)
    assert drift() == set()
    assert database() in others
    assert on(old, "cat /var/lib/mysql/fleet-origin").split()[0] == "seeded"
    same_everywhere()


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_killed_and_started_again_by_systemd(turn: int) -> None:
    """It takes writes again by itself, since nobody has taken its place."""
    old = database()
    with load("web1", f"started-again-{turn}", "rows") as running:
        begun = time.time()
        faults.kill_9(old, "mariadb")
        eventually("it takes writes again", lambda: sql(old, "SELECT @@read_only", check=False) == ["0"], 60)
        time.sleep(5)
        until = time.time()
    judge("primary killed, started again by systemd", running.end()["rows"], 20.0, begun, until)
    assert drift() == set()
    assert database() == old
    same_everywhere()


@pytest.mark.thorough
def test_a_primary_started_again_stays_closed_while_a_member_cannot_be_asked() -> None:
    """That one may follow another by now. Nor is it opened where somebody closed it since its start."""
    old = database()
    other = next(name for name in MEMBERS if name != old)
    with faults.killed_for_good(other, "mariadb"):
        faults.kill_9(old, "mariadb")
        eventually("it answers again", lambda: sql(old, "SELECT 1", check=False) == ["1"], 60)
        time.sleep(15)  # thrice the watch's interval
        assert sql(old, "SELECT @@read_only") == ["1"]
    eventually("it takes writes again", lambda: sql(old, "SELECT @@read_only") == ["0"], 60)
    eventually("and that is noted", lambda: opened(old) == invocation(old), 30)
    sql(old, "SET GLOBAL read_only = 1")
    time.sleep(15)
    assert sql(old, "SELECT @@read_only") == ["1"]
    apply()
    assert database() == old


@pytest.mark.thorough
def test_without_the_proof_a_primary_started_again_is_a_second_one() -> None:
    """The teeth of what the watch asks the others: it opens although another has taken its place."""
    old = database()
    with faults.killed_for_good(old, "mariadb"):
        code, said = db_command("failover", "--fence")
        assert code == 0, said
    new = database()
    on(old, "systemctl unmask mariadb; systemctl start mariadb")
    eventually("it answers again", lambda: sql(old, "SELECT 1", check=False) == ["1"], 60)
    time.sleep(15)
    assert sql(old, "SELECT @@read_only") == ["1"], "it has noticed"
    blind = "s/^  for address in .MEMBERS; do/  for address in; do/; s/^  follower 50 .*//"
    on(old, f"sed '{blind}' {ROLE_TOOL} >/run/role; echo another >{OPENED}; bash /run/role watch; rm -f /run/role")
    assert sql(old, "SELECT @@read_only") == ["0"]
    sql(old, "SET GLOBAL read_only = 1")
    apply()
    assert database() == new
    same_everywhere()


def opened(host: str) -> str:
    return on(host, f"cat {OPENED}", check=False).strip()


def invocation(host: str) -> str:
    return on(host, "systemctl show -p InvocationID --value mariadb").strip()


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_what_no_replica_has_is_not_acknowledged() -> None:
    assert cut_then_killed("semi-sync") == set()


@pytest.mark.thorough
def test_without_semi_sync_acknowledged_rows_are_lost(tmp_path: Path) -> None:
    """The twin: the same fault, replication asynchronous."""
    copy = altered(tmp_path, "mysql = mysql | {'semi_sync': False}")
    assert fleet("apply", inventory=copy).returncode == 0
    lost = cut_then_killed("async")
    results.note("MySQL: the same without semi-sync", acknowledged_and_lost=len(lost))
    assert lost


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
