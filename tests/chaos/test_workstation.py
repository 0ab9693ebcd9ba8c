"""The lab on an ordinary machine, with systemd as PID 1 and cgroup v2 alone: a container of this machine's files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.paths import cache_root
from lab.system import processes_with
from tests.chaos.failover import eventually
from tests.chaos.support import ROOT

LAB = """\
bridge = "lab9"
network = "10.99.0.0/24"
suite = "bookworm"
[hosts]
one = "10.99.0.11"
two = "10.99.0.12"
"""
FOLDER = "/root/workstation"


class Workstation:
    """A shell in it, by its namespaces."""

    def __init__(self, init: int) -> None:
        self._enter = [
            "nsenter", "--target", str(init), *("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"), "--root",
            "--wd", "--", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root", "LANG=C.UTF-8",
        ]  # fmt: skip

    def popen(self, script: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._enter, "sh", "-euc", script], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip

    def run(self, script: str) -> str:
        process = self.popen(script)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"{script}: {said[-1500:]}"
        return said

    def fleet(self, *words: str) -> str:
        return self.run(f"cd {ROOT}; ./fleet {' '.join(words)}")

    def left(self) -> list[str]:
        """What a lab would leave behind: interfaces, tables, cgroups, mounts, processes, notes."""
        return self.run(
            "ip -br link | grep lab9 || true; nft list tables | grep fleet || true; ls -d /sys/fs/cgroup/fleet-lab "
            "2>/dev/null || true; grep -o '/var/lib/fleet-lab/[^ ]*/root' /proc/mounts || true; ls /run/fleet-lab "
            "2>/dev/null || true; pgrep -a systemd-nspawn || true"
        ).splitlines()


@pytest.fixture(scope="module")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workstation]:
    folder = tmp_path_factory.mktemp("workstation")
    script = Path(__file__).with_name("workstation.sh")
    launcher = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", str(script), str(folder), str(cache_root())],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        eventually("it boots", lambda: launcher.poll() is not None or bool(_init()), 30)
        assert launcher.poll() is None, launcher.stdout.read() if launcher.stdout else ""
        there = Workstation(_init()[0])
        eventually("systemd is up", lambda: _state(there) in {"running", "degraded"}, 60)
        there.run(f"mkdir -p {FOLDER}; cat >{FOLDER}/lab.toml <<'LAB'\n{LAB}LAB")
        yield there
    finally:
        for pid in _init():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(20)
        launcher.kill()
        launcher.wait()
        for root in ("unified", "systemd", "."):
            _remove(Path("/sys/fs/cgroup") / root / "fleet-workstation")


def _init() -> list[int]:
    """The workstation's PID 1, as this machine sees it."""
    supervisors = processes_with("--machine=fleet-workstation")
    found = []
    for pid in supervisors:
        with contextlib.suppress(OSError):
            found += [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"]


def _state(there: Workstation) -> str:
    return there.run("systemctl is-system-running || true").strip()


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def test_it_is_an_ordinary_machine(workstation: Workstation) -> None:
    assert workstation.run("cat /proc/1/comm; stat -fc %T /sys/fs/cgroup").split() == ["systemd", "cgroup2fs"]


def test_up_twice_hosts_that_run_and_reach_one_another(workstation: Workstation) -> None:
    assert "2 started" in workstation.fleet("lab", "up", FOLDER)
    assert "0 started, 2 already running" in workstation.fleet("lab", "up", FOLDER)
    reach = "systemctl is-system-running; ping -c 1 -W 2 10.99.0.12 >/dev/null && echo reached"
    said = workstation.fleet("lab", "exec", "-i", FOLDER, "one", "--", "sh", "-c", f"'{reach}'")
    assert said.split() == ["running", "reached"]


def test_hosts_stop_die_and_start_again(workstation: Workstation) -> None:
    workstation.fleet("lab", "kill", "-i", FOLDER, "one")
    workstation.fleet("lab", "stop", "-i", FOLDER, "two")
    states = [line.split()[2] for line in workstation.fleet("lab", "list", FOLDER).splitlines()]
    assert states == ["stopped", "stopped"]
    for host in ("one", "two"):
        workstation.fleet("lab", "start", "-i", FOLDER, host)
    states = [line.split()[2] for line in workstation.fleet("lab", "list", FOLDER).splitlines()]
    assert states == ["running", "running"]


def test_down_leaves_nothing_also_after_a_crash(workstation: Workstation) -> None:
    workstation.fleet("lab", "down", FOLDER)
    assert workstation.left() == []
    for seconds in (0.3, 0.5, 0.8):
        process = workstation.popen(f"cd {ROOT}; exec ./fleet lab up {FOLDER}")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        workstation.fleet("lab", "down", FOLDER)
        assert workstation.left() == []
    assert _state(workstation) == "running"
