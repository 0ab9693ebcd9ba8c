"""Hosts are booted anew one at a time, under load, and nobody notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.converge.boot import BOOT_ID
from tests.chaos import results
from tests.chaos.failover import load, settled, the_fleet
from tests.chaos.rolling import killed_at, left_on, roll
from tests.chaos.support import altered, fleet, on
from tests.chaos.test_redis_failover import missing
from tests.chaos.watching import watching

pytestmark = pytest.mark.thorough

DATA = ("data1", "data2", "data3")
QUICK = 'roll = {"canary_seconds": 5, "read_interval": 0.5}\n'


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    settled()
    made = altered(tmp_path, QUICK)
    yield made
    settled()


def boots() -> dict[str, str]:
    return {host: on(host, f"cat {BOOT_ID}") for host in DATA}


def test_nothing_asks_for_it(copy: Path) -> None:
    assert roll(copy, "--reboot")[1]["how"] == "nothing"


def test_a_host_that_asks_for_it_is_booted_and_no_other(copy: Path) -> None:
    before = boots()
    on("data3", "touch /run/reboot-required; echo linux-image >/run/reboot-required.pkgs")
    code, report = roll(copy, "--reboot")
    assert code == 0, report
    after = boots()
    assert {host for host in DATA if after[host] != before[host]} == {"data3"}


def test_all_data_hosts_and_nothing_is_lost(copy: Path) -> None:
    before = boots()
    _, planned = roll(copy, "--reboot", "--hosts", ",".join(DATA), "--dry")
    with load("web1", "boots") as running, watching(the_fleet()) as watch:
        begun = time.time()
        code, report = roll(copy, "--reboot", "--hosts", ",".join(DATA))
        assert code == 0, report
        until = time.time()
    ledgers = running.end()
    assert report["steps"] == planned["steps"]
    after = boots()
    assert all(after[host] != before[host] for host in DATA)
    for service in ("redis", "sentinel", "rabbitmq", "mysql"):
        assert watch.most(service) <= 1, watch.out
    for kind, ledger in ledgers.items():
        results.note(f"boots of all data hosts: {kind}", seconds_without_writes=ledger.gap(begun, until))
        assert ledger.gap(begun, until) < 5.0, (kind, ledger.refusals[-3:])
    for kind in ("sessions", "cache"):
        assert missing(set(ledgers[kind].kept), kind) == set()
    assert fleet("plan", inventory=copy).returncode == 0
    assert fleet("status", "--wait", "60").returncode == 0


@pytest.mark.parametrize("step", [2, 6, 15, 20])
def test_a_controller_that_dies_is_gone_on_with(copy: Path, step: int) -> None:
    before = boots()
    if not killed_at(copy, step, "--reboot", "--hosts", "data3"):
        pytest.skip("the roll has fewer steps")
    time.sleep(30)
    code, report = roll(copy, "--resume")
    assert code == 0, report
    after = boots()
    assert {host for host in DATA if after[host] != before[host]} == {"data3"}
    assert left_on("data3") == ""
