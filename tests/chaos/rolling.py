"""What the suites of `fleet roll` have in common: changes that only a restart can bring, and what runs where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from deploy.converge import desired
from deploy.converge.inventory import folder
from deploy.procedures.apply import Outcome
from deploy.procedures.apply import apply as apply_fleet
from deploy.procedures.roll import run as rolls
from deploy.procedures.roll.journal import path_of
from deploy.procedures.roll.notes import FOLDER
from deploy.procedures.roll.order import Action
from deploy.procedures.session import session
from tests.chaos import killer
from tests.chaos.failover import settled, the_fleet
from tests.chaos.support import INVENTORY, REPEATS, ROOT, altered, apply, fleet, on

DATA = ("data1", "data2", "data3")
APART = 1 if REPEATS > 1 else 5
"""Steps of a roll from one death of its controller to the next, where each death needs a roll of its own."""
UNITS = {
    "redis": ("redis-cache", "redis-sessions"), "sentinel": ("redis-sentinel",), "rabbitmq": ("rabbitmq-server",),
    "mysql": ("mariadb", "omegaup-mysql-agent"), "grader": ("omegaup-grader",), "gitserver": ("omegaup-gitserver",),
    "broadcaster": ("omegaup-broadcaster",), "runner": ("omegaup-runner",),
}  # fmt: skip


def started() -> dict[tuple[str, str], str]:
    """(host, unit) -> its main process and when it was started."""
    found = {}
    for host in the_fleet().hosts:
        units = [unit for service, names in UNITS.items() if host.has(service) for unit in names]
        if not units:
            continue
        show = "systemctl show --value -p MainPID,ExecMainStartTimestamp"
        script = f"for u in {' '.join(units)}; do echo $u $({show} $u); done"
        for line in on(host.name, script).splitlines():
            unit, _, what = line.partition(" ")
            found[host.name, unit] = what
    return found


def roll(copy: str | Path = INVENTORY, *words: str, timeout: float = 1800) -> tuple[int, dict[str, Any]]:
    """`fleet roll --json`: exit code and what it says."""
    done = fleet("roll", "--json", *words, inventory=copy, timeout=timeout)
    assert done.stdout.startswith("{"), done.stdout[-2000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def none_left(copy: str | Path) -> None:
    """What a failed test has left of a roll is brought back, so that the next one is judged by itself."""
    if path_of(folder(str(copy))).exists() and lines(copy)[-1]["event"] != "end":
        roll(copy, "--abort")


def paid(folder_: Path) -> None:
    """The inventory's own values again, and what that owes, with nobody watched for long."""
    apply()
    code, report = roll(altered(folder_ / "paid", 'roll = {"canary_seconds": 1, "read_interval": 0.3}'))
    assert code == 0, report


@contextmanager
def owing(folder_: Path, change: str, **groups: str) -> Iterator[Path]:
    """A copy of the inventory with a change that owes restarts, applied; in the end nothing of it is left.

    groups: the group data of others than all.
    """
    settled()
    copy = altered(folder_, change)
    for group, text in groups.items():
        (copy / f"group_data/{group}.py").write_text(text)
    done = fleet("apply", inventory=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    yield copy
    none_left(copy)
    paid(folder_)
    settled()


def steps(copy: str | Path) -> list[dict[str, str]]:
    """What an apply would do, and what is owed."""
    found: list[dict[str, str]] = json.loads(fleet("plan", "--json", inventory=copy).stdout)["steps"]
    return found


def left_on(host: str) -> str:
    """The lock and the notes of a roll on this host, by name; empty if there is nothing."""
    return on(host, f"ls {FOLDER} 2>/dev/null || true")


def leftovers() -> None:
    """No lock, no note, nobody drained."""
    for host in (*DATA, "web1", "app1", "run1"):
        assert left_on(host) == ""
        assert "fleet-undrain" not in on(host, "systemctl list-timers --all --no-legend")


def lines(copy: str | Path = INVENTORY) -> list[dict[str, Any]]:
    """The journal of the last roll."""
    return [json.loads(line) for line in path_of(folder(str(copy))).read_text().splitlines()]


@contextmanager
def spoiled(monkeypatch: pytest.MonkeyPatch, template: str, change: Callable[[str], str]) -> Iterator[None]:
    """As long as the block lasts, this template renders to something else: a change that somebody made."""
    real = desired.render

    def render(name: str, **values: object) -> str:
        text = real(name, **values)
        return change(text) if name == template else text

    with monkeypatch.context() as patch:
        patch.setattr(desired, "render", render)
        yield


def applied(name: str = INVENTORY) -> Outcome:
    """Apply in this process, with whatever is spoiled in it."""
    with session(name, lock_for="test") as opened:
        return apply_fleet(opened)


def rolled(options: rolls.Options, name: str = INVENTORY) -> rolls.Rolled:
    """Roll in this process."""
    with session(name, lock_for="test") as opened:
        return rolls.roll(opened, options)


def killed_at(copy: str | Path, step: int, *words: str) -> bool:
    """Start a roll and kill it (-9) as soon as it has written down that it takes this step; False if it was over
    before.
    """
    path_of(folder(str(copy))).unlink(missing_ok=True)
    return _killed(copy, str(step), "roll", str(copy), *words)


def killed_at_a_new_step(copy: str | Path, *command: str) -> bool:
    """Run a command of `fleet` that begins a roll or goes on with one, and kill it (-9) as soon as it has written down
    a step that none before it had: so each step is one at which a controller died. False if it was over before.
    """
    return _killed(copy, "new", *command)


def killed_at_a_step_of(action: Action, copy: str | Path, *command: str) -> bool:
    """The same, at the first step of this kind that the command takes."""
    return _killed(copy, action.name, *command)


def steps_taken(copy: str | Path) -> set[str]:
    """The words of all steps of the last roll's journal."""
    return set(killer.taken(path_of(folder(str(copy)))))


def _killed(copy: str | Path, what: str, *command: str) -> bool:
    killing = [sys.executable, "-m", "tests.chaos.killer", str(path_of(folder(str(copy)))), what]
    with TemporaryFile("w+") as said:
        code = subprocess.run(
            [*killing, str(ROOT / "fleet"), *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True, check=False,
        ).returncode  # fmt: skip
        said.seek(0)
        assert code in {0, killer.KILLED}, f"it was refused or has failed: {said.read()}"
        return code == killer.KILLED
