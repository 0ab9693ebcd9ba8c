"""Who is a member of the database, and with what: diverged, gone from the inventory, listed in another order."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.chaos.failover import database, sql
from tests.chaos.load import TABLE
from tests.chaos.mysql import MEMBERS, having, same_everywhere, table
from tests.chaos.support import SPEC, apply, drift, fleet, footprint, on, reordered

__all__ = ["table"]


@pytest.mark.thorough
def test_whom_the_inventory_lists_first_does_not_matter(tmp_path: Path) -> None:
    """Acceptance: after a move, whatever order the hosts are in, there is nothing to do and nobody is moved back."""
    leads = database()
    for n, first in enumerate(name for name in MEMBERS if name != leads):
        copy = reordered(tmp_path / str(n), "mysql", first, *(name for name in MEMBERS if name != first))
        done = fleet("apply", "--json", inventory=copy)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [step for step in json.loads(done.stdout)["done"] if step["key"].startswith("mysql:")] == []
        assert fleet("drift", inventory=copy).returncode == 0
        assert database() == leads
    apply()


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_who_left_the_inventory_has_no_part_in_a_commit(tmp_path: Path) -> None:
    """Its server goes on and still reads when its account goes: its acknowledgement must not count any more."""
    leads = database()
    left = next(name for name in MEMBERS if name != leads)
    copy = having(tmp_path, *(name for name in MEMBERS if name != left))
    reading = "SELECT HOST FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"
    assert any(row.startswith(SPEC.address(left)) for row in sql(leads, reading))
    done = fleet("apply", inventory=copy)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert not any(row.startswith(SPEC.address(left)) for row in sql(leads, reading))
    time.sleep(6)  # it would have come back by now
    assert not any(row.startswith(SPEC.address(left)) for row in sql(leads, reading))
    clients = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = '{}'"
    assert sql(leads, clients.format("Rpl_semi_sync_master_clients")) == ["1"]
