"""The README is true: its commands exist, its table of ports is the catalog's."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from deploy.model.catalog import ANYONE, CATALOG, Tls

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"\./fleet ((?:lab |secrets |db |queue |pki )?[a-z-]+)", README)))
TARGETS = sorted(set(re.findall(r"(?:^    |`)make ([a-z]+)", README, flags=re.M)))


@cache
def helped(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "fleet"), *words, "--help"], cwd=ROOT, text=True, capture_output=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str) -> None:
    done = helped(*command.split())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_the_table_of_ports_is_the_catalogs() -> None:
    rows = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[1].isdigit():
            rows[int(cells[1])] = cells
    wanted = {
        port.number: (service, port)
        for service in CATALOG
        for port in service.ports
        if not (service.name == "rabbitmq" and port.peers)
    }
    assert set(rows) == set(wanted)
    for number, (service, port) in wanted.items():
        name, _, tls, clients, _ = rows[number]
        assert name.startswith(service.name)
        assert (tls == "mutual") == (port.tls is Tls.MUTUAL)
        for client in port.clients:
            assert ("anyone" if client == ANYONE else client) in clients
        assert port.loopback == (clients == "the host itself")


def test_files_that_are_named_exist() -> None:
    for path in re.findall(r"`((?:docs|deploy|inventories|tests|files|lab)/[\w./-]+)`", README):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path
