"""The upstream profile on a lab of its own: deployed up to the real programs, which have stand-ins; releases go on and
back. (MySQL 8 has no stand-in: its host is left out.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.roles.upstream_release import HOME
from lab import LabSpec, exec_
from tests.chaos.support import fleet
from tests.upstream_lab import LIMIT, write

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

WITHOUT_DATABASE = {("MySQL", "db1"), ("Proxy", "app1"), ("Proxy", "web1"), ("Proxy", "web2")}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("inventories") / "stand-ins"
    folder.mkdir()
    write(folder)
    done("lab", "up", folder)
    try:
        done("secrets", "init", folder)
        yield folder
    finally:
        done("lab", "down", folder)


def done(command: str, word: str, folder: Path) -> None:
    said = fleet(command, str(folder), inventory=word)
    assert said.returncode == 0, said.stdout + said.stderr


def limited(command: str, folder: Path, *more: str, code: int = 0) -> str:
    said = fleet(command, "--limit", LIMIT, *more, inventory=folder, timeout=1200)
    assert said.returncode == code, said.stdout[-3000:] + said.stderr[-1000:]
    return said.stdout


def unwell(folder: Path) -> set[tuple[str, str]]:
    checks = json.loads(fleet("status", "--json", inventory=folder).stdout)["checks"]
    return {(one["label"], one["host"]) for one in checks if not one["well"]}


def in_use(folder: Path) -> str:
    program = f"{HOME}/gitserver/current/usr/bin/omegaup-gitserver"
    said = exec_(LabSpec.load(str(folder)), "app1", ["sh", "-c", f"grep -o 'stand-in for [a-z0-9 -]*' {program}"])
    return str(said.stdout).split()[-1]


def test_it_is_deployed_up_to_the_programs(inventory: Path) -> None:
    limited("apply", inventory)
    limited("plan", inventory)
    assert unwell(inventory) <= WITHOUT_DATABASE


def test_a_release_goes_on_and_back(inventory: Path) -> None:
    assert in_use(inventory) == "1"
    for version in ("2", "1"):
        write(inventory, version)
        limited("apply", inventory)
        assert in_use(inventory) == version
        assert "restart pending" in fleet("plan", "--limit", LIMIT, inventory=inventory).stdout
        limited("roll", inventory)
        limited("plan", inventory)
