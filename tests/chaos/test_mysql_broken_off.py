"""A move of the writes whose controller is killed at any of its steps goes on when it is run again: one primary."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from deploy.procedures import db
from tests.chaos import faults
from tests.chaos.failover import database, load, sql
from tests.chaos.mysql import MEMBERS, db_command, nothing_lost, same_everywhere, table
from tests.chaos.support import INVENTORY, ROOT, apply, drift, fleet, on

__all__ = ["table"]

DYING = """
import os, signal, sys
from deploy.procedures import db, db_members
step, inventory, move, seconds = sys.argv[1:]
db.REOPEN_SECONDS = int(seconds)
ask = db_members.Members.ask
def dying(self, name, *words, first=(), **more):
    if first and first[0] == step:
        words, first = first, ()
    said = ask(self, name, *words, first=first, **more)
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


def steps(first: str, *others: str) -> list[Any]:
    """The steps of a move: the most delicate one always, the others in `make chaos`."""
    return [first, *(pytest.param(name, marks=pytest.mark.thorough) for name in others)]


@pytest.mark.parametrize("step", steps("lead", "close", "reached", "follow", "open"))
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


@pytest.mark.thorough
@pytest.mark.parametrize("step", steps("follow", "fence", "drained", "lead", "open"))
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_without_the_guard_it_stays_closed() -> None:
    """The twin: the timer that opens it again is stopped."""
    old = database()
    dies_after("close", "switchover", 8)
    on(old, "systemctl stop fleet-mysql-reopen.timer")
    assert writable_within(25) == set()
    code, said = db_command("switchover")
    assert code == 0, said
