"""A run with nothing to do beside the same resources in stock pyinfra operations: same hosts, alternating, medians."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from deploy.converge.inventory import folder
from lab.paths import state_root
from tests.bench.delay import delayed
from tests.chaos.support import INVENTORY, ROOT, SPEC

RUNS = 5


def timed(command: list[str]) -> float:
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return time.monotonic() - begun


def compare(inventory: Path, runs: int) -> tuple[list[float], list[float], str]:
    """(ours, stock, where our time goes), seconds as whole processes."""
    ours_command = [str(ROOT / "fleet"), "apply", str(inventory)]
    stock_command = [str(ROOT / ".venv/bin/pyinfra"), "-y", str(inventory / "inventory.py"), "tests/bench/stock.py"]
    ours, stock = [], []
    for _ in range(runs):
        ours.append(timed(ours_command))
        stock.append(timed(stock_command))
    said = subprocess.run(ours_command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return ours, stock, said.strip().splitlines()[-1]


def report(label: str, ours: list[float], stock: list[float], where: str, startup: float) -> float:
    ratio = statistics.median(stock) / statistics.median(ours)
    print(
        f"\n{label}: ours {statistics.median(ours):.2f} s (min {min(ours):.2f}, max {max(ours):.2f}), stock "
        f"{statistics.median(stock):.2f} s (min {min(stock):.2f}, max {max(stock):.2f}): {ratio:.1f} times, "
        f"{len(ours)} runs each\n  start-up of the command alone: {startup:.2f} s\n  {where}"
    )
    return ratio


@pytest.fixture(scope="module")
def startup() -> float:
    return statistics.median(timed([str(ROOT / "fleet"), "--help"]) for _ in range(3))


def test_on_the_lab(startup: float) -> None:
    assert report("no added delay", *compare(folder(INVENTORY), RUNS), startup) >= 5


def test_with_a_round_trip_of_50_ms(tmp_path: Path, startup: float) -> None:
    copy = tmp_path / folder(INVENTORY).name
    shutil.copytree(folder(INVENTORY), copy)
    known = tmp_path / "known_hosts"
    targets = {name: (str(address), 22) for name, address in SPEC.hosts.items()}
    with delayed(targets, 0.05) as ports:
        keys = (state_root() / SPEC.name / "ssh/known_hosts").read_text().splitlines()
        by_address = {line.split(" ", 1)[0].split(",")[0]: line.split(" ", 1)[1] for line in keys if " " in line}
        known.write_text(
            "".join(f"[127.0.0.1]:{ports[name]} {by_address[address]}\n" for name, (address, _) in targets.items())
        )
        text = (copy / "inventory.py").read_text()
        text = text.replace(
            '(name, {"ssh_hostname": address})',
            '(name, {"ssh_hostname": "127.0.0.1", "ssh_port": PORTS[name], "machine": {"address": address}})',
        ).replace('str(LAB / "ssh/known_hosts")', repr(str(known)))
        (copy / "inventory.py").write_text(f"PORTS = {ports!r}\n{text}")
        assert report("50 ms round trip", *compare(copy, 3), startup) >= 5
