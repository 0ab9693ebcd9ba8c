"""The controller is killed (-9) at each journalled step of a roll: resume ends as an undisturbed roll, abort as before.

With one repeat a few steps are taken; with more (`make chaos`), all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.procedures.roll.journal import path_of
from tests.chaos.failover import settled
from tests.chaos.rolling import killed_at, lines, none_left, paid, roll, started
from tests.chaos.support import REPEATS, altered, fleet, on

CHANGE = """
base = {"service_nofile": 12288}
roll = {"canary_seconds": 2, "read_interval": 0.3}
"""
SERVICES = ("sentinel", "redis", "rabbitmq", "mysql")
pytestmark = pytest.mark.thorough
STEPS = range(2, 100) if REPEATS > 1 else (6, 12)
"""Lines of the journal after which the controller dies; more than a roll of one service has."""


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Path]:
    settled()
    copy = altered(tmp_path, CHANGE)
    assert fleet("apply", inventory=copy).returncode == 0
    yield copy
    none_left(copy)
    paid(tmp_path)
    settled()


def limits() -> dict[str, str]:
    """The limit of open files of each process that was rolled, as the kernel has it."""
    units = "redis-cache redis-sessions redis-sentinel rabbitmq-server mariadb"
    script = f"for u in {units}; do grep 'open files' /proc/$(systemctl show -P MainPID $u)/limits; done"
    return {host: on(host, script) for host in ("data1", "data2", "data3")}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("number", STEPS)
def test_resume(changed: Path, service: str, number: int) -> None:
    if not killed_at(changed, number, "--service", service):
        pytest.skip("the roll has fewer steps")
    code, report = roll(changed)
    assert code == 1, "an unfinished roll is not walked over"
    assert "has not ended" in report["errors"][0]["message"]
    code, report = roll(changed, "--resume")
    assert code == 0, report
    assert lines(changed)[-1]["event"] == "end"
    pending = [step for step in steps(changed) if step["role"] == service]
    assert pending == []
    assert fleet("status", "--wait", "30").returncode == 0
    leftovers()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("number", STEPS)
def test_abort(changed: Path, service: str, number: int) -> None:
    before = limits()
    if not killed_at(changed, number, "--service", service):
        pytest.skip("the roll has fewer steps")
    code, report = roll(changed, "--abort")
    assert code == 0, report
    assert limits() == before
    assert fleet("status", "--wait", "30").returncode == 0
    leftovers()


def steps(copy: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(fleet("plan", "--json", inventory=copy).stdout)["steps"]
    return found


def leftovers() -> None:
    """No lock, no note, nobody drained."""
    for host in ("data1", "data2", "data3", "web1", "app1"):
        assert on(host, "ls /var/lib/fleet/roll 2>/dev/null || true") == ""
        assert "fleet-undrain" not in on(host, "systemctl list-timers --all --no-legend")


def test_the_controllers_lock_is_seen_from_elsewhere(changed: Path, tmp_path: Path) -> None:
    """Another controller has neither the lock file nor the journal: what is on the hosts tells it."""
    started()
    assert killed_at(changed, 8, "--service", "sentinel")
    path_of(changed).unlink()
    code, report = roll(changed)
    assert code == 1
    assert "a roll of" in report["errors"][0]["message"]
    code, report = roll(changed, "--resume", "--service", "sentinel")
    assert code == 0, report
    leftovers()
