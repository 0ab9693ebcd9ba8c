"""What `plan` says: exit code, classes, diffs with secrets masked, totals, JSON.

The command itself runs, in a process of its own; only the session to hosts is a stand-in with steps made by the
engine's own comparison.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from deploy.converge import compare
from deploy.converge.step import Step
from deploy.model import resources as want
from deploy.model.observed import Answer, FileState, HostFactsSeen, PackageState, Snapshot, UnitState
from deploy.model.resources import HostState
from deploy.trust.masking import Masker
from deploy.trust.rotation import Phase

ROOT = Path(__file__).resolve().parents[2]
SECRET, OLD_SECRET = "correct-horse-battery", "an-older-passphrase"
CONF = want.File(path="/etc/x.conf", content=f"same\nsize 2\npassword {SECRET}\n")
HIDDEN = want.File(path="/etc/hidden", content=SECRET, secret=True)
ON_HOST = {CONF.path: "same\nsize 1\n"}


def steps() -> list[Step]:
    """One of each class, and one that is left to roll."""
    service = want.Unit(name="x.service", restart_files=(CONF.path,), rolling=True)
    plain = want.Unit(name="y.service", restart_files=(CONF.path,))
    other = want.Unit(name="z.service", reload_files=(CONF.path,))
    query = want.Query("q", "true")
    state = HostState(
        "data1",
        (
            want.Package(name="new"), want.Package(name="held"), CONF, HIDDEN, service, plain, other,
            want.Parameter(query=query, name="size", want="2", act="true"),
            want.Parameter(query=query, name="pass", want=SECRET, act=f"set {SECRET}", secret=True),
        ),
    )  # fmt: skip
    unit = UnitState("loaded", "active", "running", "enabled", False, 1, 1, {CONF.path: "0" * 64})
    different = FileState("file", "root", "root", 0o644, "0" * 64)
    seen = Snapshot(
        "data1", HostFactsSeen("debian", "12", 2**33, 2**33),
        files={CONF.path: different, HIDDEN.path: different},
        packages={"held": PackageState("1", True, True)},
        units={"x.service": unit, "y.service": unit, "z.service": unit},
        answers={"q": Answer({"size": "1", "pass": OLD_SECRET})},
    )  # fmt: skip
    return compare.steps(state, seen, "")


def pretend() -> None:
    """`fleet` with two hosts, of which one differs (the argument "same": none)."""
    from deploy import cli

    found: dict[str, list[Step]] = {"data1": [] if "same" in sys.argv else steps(), "web1": []}
    waiver = SimpleNamespace(what="sysctl:x", why="a container cannot take it")
    host = SimpleNamespace(name="data1", settings=SimpleNamespace(waivers=(waiver,)))
    changing = {"redis/app": Phase.USE, "mysql/app": Phase.USE} if "changing" in sys.argv else {}
    keys = SimpleNamespace(vault=SimpleNamespace(changing=lambda: changing))
    run = SimpleNamespace(
        keys=keys, plan=lambda: found, masker=Masker([SECRET, OLD_SECRET]), hosts={"data1": None, "web1": None},
        fleet=SimpleNamespace(hosts=(host,), members=lambda _: ()),
    )  # fmt: skip

    @contextmanager
    def session(*_: object, **__: object) -> Iterator[Any]:
        yield SimpleNamespace(run=run)

    def fetched(*_: object, **__: object) -> Any:
        lines = [f"{path} {base64.b64encode(text.encode()).decode()}" for path, text in ON_HOST.items()]
        return SimpleNamespace(stdout=lines)

    with patch("deploy.cli.session", session), patch("deploy.converge.remote.run", fetched):
        cli.main()


def fleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "from deploy import cli; from tests.unit.test_plan_output import pretend; pretend()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, text=True, capture_output=True, check=False
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    for value in (SECRET, OLD_SECRET):
        assert value not in done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def shown() -> subprocess.CompletedProcess[str]:
    return fleet("plan", "lab")


def test_changes_are_exit_code_2(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 2


def test_one_line_for_each_step_with_the_sign_of_its_class(shown: subprocess.CompletedProcess[str]) -> None:
    lines = shown.stdout.splitlines()
    assert lines[lines.index("data1") + 1] == "  + package:new  install"
    assert "  ~ package:held  on hold -> not on hold" in lines
    assert "  ~ file:/etc/x.conf  content" in lines
    assert "  * q:size  1 -> 2" in lines
    assert "  ! unit:x.service  to load /etc/x.conf  (restart pending: left to roll)" in lines
    assert "  ! unit:y.service  to load /etc/x.conf" in lines
    assert "  @ unit:z.service  to load /etc/x.conf" in lines
    assert "web1" not in lines


def test_files_are_unified_diffs_with_secrets_masked(shown: subprocess.CompletedProcess[str]) -> None:
    lines = shown.stdout.splitlines()
    begin = lines.index("  ~ file:/etc/x.conf  content") + 1
    assert [line.strip() for line in lines[begin : begin + 7]] == [
        "--- data1:/etc/x.conf",
        "+++ wanted",
        "@@ -1,2 +1,3 @@",
        "same",
        "-size 1",
        "+size 2",
        "+password ********",
    ]
    assert lines[lines.index("  ~ file:/etc/hidden  content") + 1].strip() == "(holds secrets: content not shown)"
    assert "  * q:pass  ******** -> ********" in lines


def test_totals_and_exceptions(shown: subprocess.CompletedProcess[str]) -> None:
    lines = shown.stdout.splitlines()
    assert lines[0] == "exception sysctl:x on all hosts: a container cannot take it"
    assert lines[-1] == (
        "Plan: 1 to create, 3 to write, 2 to hot, 1 to reload, 2 to restart on 1 of 2 hosts; 1 wait for roll."
    )


def test_no_diff_and_drift_name_the_same_steps_without_contents(shown: subprocess.CompletedProcess[str]) -> None:
    short, drift = fleet("plan", "lab", "--no-diff"), fleet("drift", "lab")
    assert short.stdout == drift.stdout
    assert short.returncode == drift.returncode == 2
    assert "--- data1:" not in short.stdout
    assert [line for line in shown.stdout.splitlines() if not line.startswith("      ")] == short.stdout.splitlines()


def test_json() -> None:
    done = fleet("plan", "lab", "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)["steps"]
    assert [step["key"] for step in found] == [step.key for step in steps()]
    by_key = {step["key"]: step for step in found}
    assert set(found[0]) == {"host", "role", "key", "class", "summary", "pending", "before", "after"}
    assert (by_key["q:size"]["class"], by_key["q:size"]["before"], by_key["q:size"]["after"]) == ("hot", "1", "2")
    assert (by_key["q:pass"]["before"], by_key["q:pass"]["after"]) == ("********", "********")
    assert [step["key"] for step in found if step["pending"]] == ["unit:x.service"]


def test_a_plan_says_which_secrets_change() -> None:
    done = fleet("plan", "changing", "--no-diff")
    assert "secrets in the phase use: redis/app, mysql/app; fleet secrets rotate goes on" in done.stdout
    assert json.loads(fleet("plan", "changing", "--json").stdout)["secrets"] == {"redis/app": "use", "mysql/app": "use"}


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_nothing_to_change_is_exit_code_0(option: tuple[str, ...]) -> None:
    done = fleet("plan", "same", *option)
    assert done.returncode == 0
    if option:
        said = json.loads(done.stdout)
        assert said["steps"] == []
        assert said["exceptions"] == [{"host": "data1", "what": "sysctl:x", "why": "a container cannot take it"}]
    else:
        assert done.stdout.splitlines()[-1] == "No changes: 2 hosts are what the inventory says."
