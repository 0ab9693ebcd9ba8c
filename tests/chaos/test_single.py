"""The other inventory: everything on one host, from nothing, by the same command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

import lab
from lab import LabSpec
from tests.chaos.support import ROOT, fleet


@pytest.fixture(scope="module")
def single() -> Iterator[str]:
    spec = LabSpec.load("single")
    lab.down(spec)
    yield "single"
    lab.down(spec)


def test_up(single: str) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts/up"), single], cwd=ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL,
        timeout=900, check=False, env=os.environ | {"FLEET_INVENTORY": single},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "checks are well" in done.stdout
    assert "UNWELL" not in done.stdout
    assert fleet("plan", inventory=single).returncode == 0
    done = fleet("verify", inventory=single)
    assert done.returncode == 0, done.stdout[-3000:]
