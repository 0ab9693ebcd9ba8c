"""Hosts are booted anew one at a time, under load, and nobody notices; also where the controller dies meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.converge.boot import BOOT_ID
from deploy.procedures.roll.journal import path_of
from deploy.procedures.roll.order import Action
from lab import LabError
from tests.chaos import results
from tests.chaos.failover import database, eventually
from tests.chaos.load import PAUSE
from tests.chaos.promises import unnoticed
from tests.chaos.rolling import DATA, killed_at_a_step_of, leftovers, owing, roll
from tests.chaos.support import UNBOUNDED, altered, fleet, on

pytestmark = pytest.mark.thorough

QUICK = UNBOUNDED + 'roll = {"canary_seconds": 5, "read_interval": 0.5}\n'
QUICKER = UNBOUNDED + 'roll = {"canary_seconds": 1, "read_interval": 0.1, "reads": 1}\n'
KINDS = (
    Action.LOCK, Action.BEFORE, Action.NOTE, Action.HAND_OVER, Action.DRAIN, Action.REBOOT, Action.RETURN, Action.AFTER,
    Action.UNDRAIN, Action.WATCH, Action.SETTLE, Action.FORGET, Action.UNLOCK,
)  # fmt: skip
"""The steps of a boot, in their order. Those of a kind differ in what they ask of which service."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with owing(tmp_path_factory.mktemp("boots"), QUICK) as made:
        yield made


@pytest.fixture(scope="module")
def quick(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on the hosts; nobody is watched for long."""
    return altered(tmp_path_factory.mktemp("quick"), QUICKER)


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

    def is_up() -> bool:
        try:
            return on(host, script, check=False) == "up\n"
        except LabError:  # it is down
            return False

    eventually(f"{host} is up", is_up, 120)


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
    with unnoticed("boots of all data hosts", PAUSE, ("sessions", "cache", "messages", "rows")):
        code, report = roll(copy, "--reboot", "--hosts", ",".join(DATA))
        assert code == 0, report
    assert report["steps"] == planned["steps"]
    assert booted(before) == set(DATA)
    assert fleet("plan", inventory=copy).returncode == 0
    assert fleet("status", "--wait", "60").returncode == 0


def dies(copy: Path, action: Action, *words: str) -> None:
    """A controller is killed as soon as it has written down that it takes a step of this kind."""
    assert killed_at_a_step_of(action, copy, "roll", str(copy), *words), action


def test_a_controller_dies_at_each_kind_of_step_and_nobody_notices(quick: Path) -> None:
    """A boot of the host that leads the database, by one controller after the other."""
    before, host = boots(), database()
    words: tuple[str, ...] = ("--reboot", "--hosts", host)
    path_of(quick).unlink(missing_ok=True)
    title = "a boot whose controllers all die"
    with unnoticed(title):
        for action in KINDS:
            dies(quick, action, *words)
            words = ("--resume",)
            up(host)
        code, report = roll(quick, *words)
        assert code == 0, report
    results.note(title, deaths=len(KINDS))
    assert booted(before) == {host}
    assert fleet("status", "--wait", "60").returncode == 0
    leftovers()


def test_a_controller_dies_at_each_kind_of_step_and_an_abort_brings_the_host_back(quick: Path) -> None:
    """Nobody is booted by an abort; a boot that is through is only there to be ended."""
    title = "boots that died and were aborted"
    with unnoticed(title):
        for action in KINDS:
            begun, host = boots(), database()
            path_of(quick).unlink(missing_ok=True)
            dies(quick, action, "--reboot", "--hosts", host)
            up(host)
            before = boots()
            assert booted(begun) <= {host}, action
            code, report = roll(quick, "--abort")
            if code:
                assert action in {Action.FORGET, Action.UNLOCK}, report
                assert "--resume ends it" in report["errors"][0]["message"], report
                assert roll(quick, "--resume")[0] == 0
            assert boots() == before, action
            assert fleet("status", "--wait", "60").returncode == 0, action
            leftovers()
    results.note(title, deaths=len(KINDS))
