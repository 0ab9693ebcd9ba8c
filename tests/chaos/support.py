"""The `fleet` command as an operator runs it, and a way into the lab's hosts that needs neither SSH nor firewall."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.converge.inventory import folder
from lab import LabSpec, exec_

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = os.environ.get("FLEET_INVENTORY", "lab")
SPEC = LabSpec.load(INVENTORY)

REPEATS = int(os.environ.get("FLEET_CHAOS_REPEATS", "1"))
"""How often each fault is repeated: once where time is short (CI), three times or more for figures (`make chaos`)."""


UNBOUNDED = 'frontend = frontend | {"rate_limit": 100000}\n'
"""Group data for suites with visitors: they come more often than the site allows a person."""
COUNTED = """
waivers.append({"what": "unit:omegaup-worker@analytics.service", "why": "stopped while the ledger is counted"})
"""
"""Group data for suites that apply while the load's messages wait: no apply starts the worker that would take them."""


OF_RUNS = shutil.ignore_patterns(".*")
"""Locks, journals and trails of runs beside an inventory."""


def sampled(items: Sequence[Any], every: int) -> list[Any]:
    """Parameters of which `make test` takes a part only, by their `name`; `make chaos` takes all."""
    return [
        pytest.param(item, id=item.name, marks=[pytest.mark.thorough] if number % every else [])
        for number, item in enumerate(items)
    ]


def fleet(*arguments: str, inventory: str | Path = INVENTORY, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run `fleet COMMAND INVENTORY ...` with no terminal and nothing to read."""
    command, *rest = arguments
    return subprocess.run(
        [str(ROOT / "fleet"), command, str(inventory), *rest],
        cwd=ROOT, text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def altered(folder_: Path, text: str) -> Path:
    """A copy of the inventory below this folder, with the same keys and more in its group data."""
    copy = folder_ / folder(INVENTORY).name
    if not copy.exists():
        shutil.copytree(folder(INVENTORY), copy, ignore=OF_RUNS)
    with (copy / "group_data/all.py").open("a") as handle:
        handle.write(f"\n{text}\n")
    return copy


def shared(copy: Path, *names: str) -> None:
    """What lies beside the inventory by these names is this copy's as well: what changes, changes for both."""
    for name in names:
        own, other = folder(INVENTORY) / name, copy / name
        if own.is_dir():
            shutil.rmtree(other)
        else:
            other.unlink()
        other.symlink_to(own)


def reordered(folder_: Path, service: str, *names: str) -> Path:
    """A copy of the inventory below this folder that lists the hosts of a service in this order, before all others."""
    copy = folder_ / folder(INVENTORY).name
    shutil.copytree(folder(INVENTORY), copy, ignore=OF_RUNS)
    text = (copy / "inventory.py").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"{service} = ["))
    hosts = ", ".join(f"({name!r}, {{'ssh_hostname': ADDRESSES.pop({name!r})}})" for name in names)
    # The order of all hosts is what decides who leads on the very first boot.
    first = text.replace("    [(name,", f"    [{hosts}] + [(name,", 1).replace(line, f"{service} = {list(names)!r}")
    assert first.count(names[0]) > text.count(names[0])
    (copy / "inventory.py").write_text(first)
    return copy


def on(host: str, script: str, check: bool = True) -> str:
    """Run a script as root on a lab host; its standard output."""
    done = exec_(SPEC, host, ["sh", "-euc", script], timeout=300)
    if check and done.returncode != 0:
        raise AssertionError(f"{host}: {script!r} failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    return str(done.stdout)


def drift(limit: str | None = None) -> set[tuple[str, str]]:
    """(host, key) of all that differs; the exit code must say the same."""
    done = fleet("drift", "--json", *(["--limit", limit] if limit else []))
    assert done.returncode in {0, 2}, done.stdout[-3000:] + done.stderr[-2000:]
    found = {(step["host"], step["key"]) for step in json.loads(done.stdout)["steps"]}
    assert bool(found) == (done.returncode == 2)
    return found


def apply(limit: str | None = None) -> dict[str, Any]:
    """Apply, and what it says it did."""
    done = fleet("apply", "--json", *(["--limit", limit] if limit else []))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def footprint(host: str) -> dict[str, str]:
    """Modification times of everything the deployment may write, and start times of all services."""
    script = (
        "find /etc /opt/omegaup /usr/local/lib/fleet /var/lib/fleet -xdev ! -type d -printf '%p\\t%T@ %C@\\n' || true; "
        "systemctl show --type=service --state=running -p Id,ExecMainStartTimestampMonotonic '*' | awk -v RS= "
        """'{ id = $1; at = $2; if (id !~ /^Id=/) { id = $2; at = $1 } print substr(id, 4) "\\t" at }' """
        # What comes and goes by itself: logins, timers' work, what D-Bus starts.
        "| grep -Ev '^(user|session|run-|apt-|dpkg-|logrotate|phpsession|fleet-(guard|rabbitmq-watch|notes)|"
        "systemd-(hostnamed|timedated|localed|tmpfiles))' || true"
    )
    return dict(line.split("\t", 1) for line in on(host, script).splitlines() if "\t" in line)


def footprints(hosts: Iterable[str] = tuple(SPEC.hosts)) -> dict[str, dict[str, str]]:
    """Those of several hosts, side by side."""
    names = tuple(hosts)
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(footprint, names), strict=True))


def touched(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> set[tuple[str, str]]:
    """(host, path or unit) of all that is there now and was not, or the other way, or is not what it was."""
    return {
        (host, name)
        for host in before
        for name in before[host].keys() | after[host].keys()
        if before[host].get(name) != after[host].get(name)
    }
