"""Logins: sudo reads the rule, which takes what the program runs and no more, and root can be done without."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import remote
from deploy.converge.desired import host_state, render
from deploy.errors import FleetErrors
from deploy.model import checks
from deploy.model.fleet import Context, Fleet, HostInput, Live, build
from deploy.model.resources import File, Package, Parameter, Resource
from deploy.roles.base import SSHD_FILE
from deploy.roles.logins import ALLOWED, SUDOERS
from tests.unit.test_confinement import GROUPS

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2olzlNreNHLBoGPlVjm/t9IzQ0W9xwZqmidj24Thxz first.operator"


def fleet(**base: object) -> Fleet:
    return build(
        "test",
        {
            name: HostInput(
                frozenset(groups.split()),
                {"ssh_hostname": f"10.0.0.{n}", "environment": "development", "base": base},
            )
            for n, (name, groups) in enumerate(GROUPS.items(), 1)
        },
    )


def wanted(**base: object) -> list[Resource]:
    built = fleet(**base)
    ctx = Context(built, built.host("data1"), Live.first_boot(built), "", lambda _: "secret", render, lambda _: {})
    return list(host_state(ctx).resources)


def text(found: list[Resource], path: str) -> str:
    return next(item.content for item in found if isinstance(item, File) and item.path == path)


def test_root_needs_no_rule() -> None:
    assert not any(isinstance(item, File) and item.path == SUDOERS for item in wanted())


def test_another_account_is_made_and_may_become_root() -> None:
    found = wanted(login="deploy", operators=[KEY])
    assert any(isinstance(item, Package) and item.name == "sudo" for item in found)
    (made,) = [item for item in found if isinstance(item, Parameter) and item.key == "login:deploy"]
    assert "useradd" in made.act
    order = [item.key for item in found]
    assert order.index("login:deploy") < order.index(f"file:{SUDOERS}")


@pytest.mark.skipif(shutil.which("visudo") is None, reason="sudo is not here")
def test_sudo_reads_it(tmp_path: Path) -> None:
    (tmp_path / "rule").write_text(text(wanted(login="deploy", operators=[KEY]), SUDOERS))
    done = subprocess.run(["visudo", "-cqf", str(tmp_path / "rule")], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def allowed(command: str) -> bool:
    """As sudo matches: the program by its path, its arguments as one text."""
    return any(fnmatch.fnmatchcase(command, rule) for rule in ALLOWED)


def test_what_the_program_runs_is_allowed_and_other_commands_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run_shell_command(command: object, **_: object) -> tuple[bool, Any]:
        ran.append(str(command))
        return True, SimpleNamespace(stdout_lines=[], stderr_lines=[])

    host: Any = SimpleNamespace(name="x", data={"_sudo": True}, run_shell_command=run_shell_command)
    remote.run(host, "true\n", seconds=600)
    (command,) = ran
    run = [
        re.split(r" 2>&1|\Z", words)[0].strip() for words in re.findall(r"sudo -n -H (?:-- )?(.*?)(?: 2>&1|$)", command)
    ]
    assert len(run) == 2
    for words in run:
        assert allowed(f"/usr/bin/{words}"), words
    for words in (
        "/usr/bin/bash",
        "/usr/bin/vi /etc/shadow",
        "/usr/bin/timeout -k 10 9 cat /etc/shadow",
        "/usr/bin/su",
    ):
        assert not allowed(words), words


@pytest.mark.parametrize("base", [{}, {"login": "deploy"}, {"operators": [KEY]}])
def test_nobody_is_locked_out_by_a_setting(base: dict[str, object]) -> None:
    with pytest.raises(FleetErrors, match=r"base.root_login: found 'no'"):
        checks.check(fleet(root_login="no", **base))
    checks.check(fleet(root_login="no", login="deploy", operators=[KEY]))


@pytest.mark.parametrize(("setting", "line"), [("keys", "prohibit-password"), ("no", "no")])
def test_roots_login_is_a_setting(setting: str, line: str) -> None:
    found = text(wanted(root_login=setting, login="deploy", operators=[KEY]), SSHD_FILE)
    assert f"\nPermitRootLogin {line}\n" in found


@pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not here")
@pytest.mark.parametrize(
    ("option", "query"),
    [("KexAlgorithms", "kex"), ("Ciphers", "cipher"), ("MACs", "mac"), ("HostKeyAlgorithms", "key")],
)
def test_openssh_knows_every_algorithm_and_none_is_weak(option: str, query: str) -> None:
    (names,) = re.findall(rf"^{option} (.*)$", text(wanted(), SSHD_FILE), flags=re.M)
    known = subprocess.run(["ssh", "-Q", query], text=True, capture_output=True, check=True).stdout.split()
    for name in names.split(","):
        assert name in known or name.startswith("rsa-sha2-")
        assert not re.search(r"sha1|nistp|cbc|group14|md5|ssh-rsa|^hmac-sha2-\d+$", name)
