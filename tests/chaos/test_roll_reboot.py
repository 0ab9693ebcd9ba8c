"""Hosts are booted anew one at a time, under load, and nobody notices; also where the controller dies meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.converge.boot import BOOT_ID
from deploy.procedures.roll.journal import path_of
from tests.chaos import results
from tests.chaos.failover import database, eventually
from tests.chaos.load import PAUSE
from tests.chaos.promises import unnoticed
from tests.chaos.rolling import (
    APART,
    DATA,
    killed_at,
    killed_at_a_new_step,
    leftovers,
    lines,
    owing,
    roll,
    steps_taken,
)
from tests.chaos.support import UNBOUNDED, fleet, on

pytestmark = pytest.mark.thorough

QUICK = UNBOUNDED + 'roll = {"canary_seconds": 5, "read_interval": 0.5}\n'


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with owing(tmp_path_factory.mktemp("boots"), QUICK) as made:
        yield made


def boots() -> dict[str, str]:
    return {host: on(host, f"cat {BOOT_ID}") for host in DATA}


def booted(before: dict[str, str]) -> set[str]:
    """The hosts that run another boot than before."""
    after = boots()
    return {host for host in DATA if after[host] != before[host]}


def up(host: str) -> None:
    """Wait until the host has come up, and no boot is ordered any more."""
    ordered = "systemctl list-units --no-legend 'run-*.timer' | grep -q . || systemctl list-jobs | grep -q reboot"
    script = f"systemctl is-active -q ssh && ! {{ {ordered}; }} && echo up"
    eventually(f"{host} is up", lambda: on(host, script, check=False) == "up\n", 120)


def test_nothing_asks_for_it(copy: Path) -> None:
    assert roll(copy, "--reboot")[1]["how"] == "nothing"


def test_a_host_that_asks_for_it_is_booted_and_no_other(copy: Path) -> None:
    before = boots()
    on("data3", "touch /run/reboot-required; echo linux-image >/run/reboot-required.pkgs")
    code, report = roll(copy, "--reboot")
    assert code == 0, report
    assert booted(before) == {"data3"}


def test_all_data_hosts_and_nothing_is_lost(copy: Path) -> None:
    before = boots()
    _, planned = roll(copy, "--reboot", "--hosts", ",".join(DATA), "--dry")
    with unnoticed("boots of all data hosts", PAUSE):
        code, report = roll(copy, "--reboot", "--hosts", ",".join(DATA))
        assert code == 0, report
    assert report["steps"] == planned["steps"]
    assert booted(before) == set(DATA)
    assert fleet("plan", inventory=copy).returncode == 0
    assert fleet("status", "--wait", "60").returncode == 0


def test_a_controller_dies_at_each_step_and_nobody_notices(copy: Path) -> None:
    """A boot of the host that leads the database, each step of which was written down by a controller that died on it
    at once.
    """
    before, host = boots(), database()
    command: tuple[str, ...] = ("roll", str(copy), "--reboot", "--hosts", host)
    title = "a boot whose controllers all die"
    deaths = 0
    path_of(copy).unlink(missing_ok=True)
    with unnoticed(title):
        while killed_at_a_new_step(copy, *command):
            command = ("roll", str(copy), "--resume")
            deaths += 1
            up(host)
    results.note(title, deaths=deaths)
    assert deaths == len(steps_taken(copy)) > 0
    assert booted(before) == {host}
    assert fleet("status", "--wait", "60").returncode == 0
    leftovers()


def test_a_controller_dies_at_each_step_and_an_abort_brings_the_host_back(copy: Path) -> None:
    """Nobody is booted by an abort. In the end, a roll that does not die takes all of its steps."""
    title = "boots that died and were aborted"
    deaths = 0
    with unnoticed(title):
        for step in itertools.count(1, APART):
            begun, host = boots(), database()
            died = killed_at(copy, step, "--reboot", "--hosts", host)
            up(host)
            assert booted(begun) <= {host}, step
            if not died:
                break
            deaths += 1
            before = boots()
            code, report = roll(copy, "--abort")
            if code:
                # What it had in hand is done, and that is all that there was.
                assert "--resume ends it" in report["errors"][0]["message"], (step, report)
                assert roll(copy, "--resume")[0] == 0
                break
            assert boots() == before, step
            assert fleet("status", "--wait", "60").returncode == 0, step
            leftovers()
    results.note(title, deaths=deaths)
    assert lines(copy)[-1]["event"] == "end"
    assert deaths > 1
    assert booted(begun) == {host}
