"""The controller is killed (-9) at each journalled step of a roll: resume ends as an undisturbed roll, abort as before.

With one repeat an abort is tried at a few steps of each service; with more (`make chaos`), at all of them. A resume is
tried at all of them in any case, one after the other in one roll of each service.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import pytest

from deploy.converge.inventory import folder
from deploy.procedures.roll.journal import path_of
from tests.chaos import results
from tests.chaos.failover import hosts_of
from tests.chaos.promises import unnoticed
from tests.chaos.rolling import (
    APART,
    UNITS,
    killed_at,
    killed_at_a_new_step,
    leftovers,
    lines,
    owing,
    roll,
    started,
    steps,
    steps_taken,
)
from tests.chaos.support import INVENTORY, UNBOUNDED, fleet, on

QUICK = UNBOUNDED + 'roll = {"canary_seconds": 2, "read_interval": 0.3, "reads": 1}\n'
UNWATCHED = UNBOUNDED + 'roll = {"canary_seconds": 0, "read_interval": 0.1, "reads": 1}\n'
LIMIT = {"service_nofile": 12288}
CHANGE = f"{QUICK}base = base | {LIMIT}\n"
SERVICES = ("sentinel", "redis", "rabbitmq", "mysql")
BACKENDS = ("grader", "gitserver", "broadcaster", "runner")
QUIETER = "".join(f"{name} = {{**globals().get({name!r}, {{}}), 'log_level': 'error'}}\n" for name in BACKENDS)
pytestmark = pytest.mark.thorough


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Path]:
    with owing(tmp_path, CHANGE) as copy:
        yield copy


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One change for all services, that each roll of one takes its part of."""
    with owing(tmp_path_factory.mktemp("everything"), CHANGE + QUIETER) as copy:
        yield copy


@pytest.fixture(scope="module")
def owed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One change for all aborts: each brings the earlier files of its service back, an apply makes it owed again.
    Of few hosts each, the limit of the data hosts alone: it is applied more than a hundred times.
    """
    base = f"base = {run_path(str(folder(INVENTORY) / 'group_data/all.py'))['base'] | LIMIT}\n"
    with owing(tmp_path_factory.mktemp("aborts"), UNWATCHED + QUIETER, sentinel=base) as copy:
        yield copy


def running(service: str) -> dict[str, str]:
    """What the processes of a service run with of what is changed, by host: the limit of open files as the kernel has
    it; of a backend, whether it has said since its start that it is ready, which it does not when it is quieter.
    """
    if service in BACKENDS:
        said = "journalctl -q -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID $u)"
        script = f"{said} | grep -c '\"ready\"' || true"
    else:
        script = "grep 'open files' /proc/$(systemctl show -P MainPID $u)/limits"
    return {host: on(host, f"for u in {' '.join(UNITS[service])}; do {script}; done") for host in hosts_of(service)}


@pytest.mark.parametrize("service", [*SERVICES, *BACKENDS])
def test_a_controller_dies_at_each_step_and_an_abort_leaves_nothing_of_it(owed: Path, service: str) -> None:
    """In the end, a roll that does not die takes all of its steps."""
    before = running(service)
    others = {one: running(one) for one in (*SERVICES, *BACKENDS) if one != service}
    hosts = ",".join(before)
    title = f"rolls of {service} that died and were aborted"
    deaths = 0
    with unnoticed(title):
        for step in itertools.count(1, APART):
            assert fleet("apply", "--limit", hosts, inventory=owed).returncode == 0, step
            if not killed_at(owed, step, "--service", service):
                break
            deaths += 1
            code, report = roll(owed, "--abort")
            if code:
                # The earlier files go last of all.
                assert "--resume ends it" in report["errors"][0]["message"], (step, report)
                assert roll(owed, "--resume")[0] == 0
                break
            assert running(service) == before, step
            assert fleet("status", "--wait", "30").returncode == 0, step
            leftovers()
    results.note(title, deaths=deaths)
    assert lines(owed)[-1]["event"] == "end"
    assert deaths > 1
    after = running(service)
    assert {host for host in before if after[host] == before[host]} == set()
    assert {one: running(one) for one in others} == others


@pytest.mark.parametrize("service", SERVICES)
def test_resume(changed: Path, service: str) -> None:
    assert killed_at(changed, 4, "--service", service)
    code, report = roll(changed)
    assert code == 1, "an unfinished roll is not walked over"
    assert "has not ended" in report["errors"][0]["message"]
    code, report = roll(changed, "--resume")
    assert code == 0, report
    assert lines(changed)[-1]["event"] == "end"
    assert [step for step in steps(changed) if step["role"] == service] == []
    assert fleet("status", "--wait", "30").returncode == 0
    leftovers()


@pytest.mark.parametrize("service", [*SERVICES, *BACKENDS])
def test_a_controller_dies_at_each_step_and_nobody_notices(everything: Path, service: str) -> None:
    """A roll, each step of which was written down by a controller that died on it at once: one service after the other,
    until nothing is owed.
    """
    before = {who: what for who, what in started().items() if who[1] in UNITS[service]}
    words: tuple[str, ...] = ("--service", service)
    title = f"a roll of {service} whose controllers all die"
    deaths = 0
    path_of(everything).unlink(missing_ok=True)
    with unnoticed(title):
        while killed_at_a_new_step(everything, "roll", str(everything), *words):
            words = ("--resume",)
            deaths += 1
    results.note(title, deaths=deaths)
    assert deaths == len(steps_taken(everything)) > 0
    after = started()
    assert {who for who, what in before.items() if what == after[who]} == set(), "not restarted"
    assert [step for step in steps(everything) if step["role"] == service] == []
    assert fleet("status", "--wait", "30").returncode == 0
    leftovers()


def test_the_controllers_lock_is_seen_from_elsewhere(changed: Path, tmp_path: Path) -> None:
    """Another controller has neither the lock file nor the journal: what is on the hosts tells it, also that the roll
    was of one service.
    """
    started()
    assert killed_at(changed, 4, "--service", "sentinel")
    path_of(changed).unlink()
    code, report = roll(changed)
    assert code == 1
    assert "a roll of" in report["errors"][0]["message"]
    code, report = roll(changed, "--resume")
    assert code == 0, report
    assert {one["role"] for one in steps(changed)} >= {"redis"}
    assert [one for one in steps(changed) if one["role"] == "sentinel"] == []
    leftovers()
