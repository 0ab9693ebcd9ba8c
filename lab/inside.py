"""Run things in a host by its namespaces: no network, no sshd and no firewall is in the way."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cache

from lab import cgroups, machine
from lab.cgroups import EXEC, Layout
from lab.errors import LabError
from lab.spec import LabSpec
from lab.system import PROC, wait_until

LOOK = 1.0
"""Seconds from one look at a command that runs in a host to the next."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@cache
def layout() -> Layout:
    """The machine's cgroup layout."""
    return cgroups.detect()


def pid(spec: LabSpec, host: str) -> int | None:
    """PID 1 of the host as this machine sees it; None when it does not run."""
    spec.check_host(host)
    return None if machine.foreign(spec) else cgroups.init_pid(layout(), spec.bridge, host)


def enter_argv(spec: LabSpec, host: str, argv: Sequence[str], environ: dict[str, str] | None = None) -> list[str]:
    """The command that runs another in the host, by its namespaces: it needs no network and no sshd.

    Raises LabError when the host does not run.
    """
    init = pid(spec, host)
    if init is None:
        raise LabError(host, "does not run", "a running host", f"fleet lab start {host}")
    # The command goes to a cgroup in the host's tree, else it would count as this machine's.
    groups = [path / EXEC for path in layout().paths(spec.bridge, host, cgroups.UNIT, "payload")]
    script = 'while [ "$1" != -- ]; do mkdir -p "$1"; echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"'
    variables = {"PATH": PATH, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", **(environ or {})}
    namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
    return [
        *("sh", "-c", script, "sh", *map(str, groups), "--"),
        *("nsenter", "--target", str(init), *namespaces, "--"),
        *("/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items())),
        *argv,
    ]


def execute(
    spec: LabSpec,
    host: str,
    argv: Sequence[str],
    input: str | bytes | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command as root in the host; its exit code is not judged.

    Raises LabError when the host does not run or the command exceeds `timeout` seconds (it is then killed).
    """
    command = enter_argv(spec, host, argv)
    data = input.encode() if isinstance(input, str) else input
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            out, err = _communicate(process, data, timeout)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise LabError(host, f"not done after {timeout:g} s: {shlex.join(argv)}") from None
            raise
    return subprocess.CompletedProcess(
        list(argv), process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
    )


def attached(spec: LabSpec, host: str, argv: Sequence[str], environ: dict[str, str] | None = None) -> int:
    """Run a command as root in the host, on this process' own terminal or files; its exit code.

    Raises LabError when the host does not run.
    """
    with subprocess.Popen(enter_argv(spec, host, argv, environ)) as process:
        try:
            _communicate(process)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _communicate(
    process: subprocess.Popen[bytes], data: bytes | None = None, timeout: float | None = None
) -> tuple[bytes, bytes]:
    """Until it ends; what it says is empty where there is no pipe."""
    until = time.monotonic() + (float("inf") if timeout is None else timeout)
    while True:
        try:
            return process.communicate(data, min(LOOK, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= until:
                raise
            data = None  # it has it
            _go_on(process.pid)


def _go_on(nsenter: int) -> None:
    """Wake nsenter, where it sleeps: it stops itself as soon as what it has started in the host is stopped.

    Which systemd does with everybody before it ends a host. Nobody would reap that then, and the host could not power
    off, nor boot anew.
    """
    with contextlib.suppress(OSError):
        if _stat(nsenter)[0] == "T":
            os.kill(nsenter, signal.SIGCONT)


def _stat(pid: int) -> list[str]:
    """State, parent, process group and more of a process. Raises OSError when there is none."""
    # pid (name) state ppid pgrp: the name may hold anything, even brackets
    return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL what nsenter started, in its process group; nsenter then reaps it and ends.

    Were nsenter killed too, its child would be left to this machine's init, out of reach of the
    host's: a host with a zombie that nobody reaps cannot power off.
    """

    def ended() -> bool:
        for pid in _group(process.pid) or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return process.poll() is not None

    wait_until(ended, 10)


def _group(leader: int) -> list[int]:
    """Processes of a process group but its leader."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != leader:
            with contextlib.suppress(OSError):
                fields = _stat(int(entry.name))
                if int(fields[2]) == leader and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def systemd_state(spec: LabSpec, host: str) -> str:
    """What `systemctl is-system-running` says: running, degraded, starting, ..."""
    try:
        return execute(spec, host, ["systemctl", "is-system-running"], timeout=10).stdout.strip() or "unknown"
    except LabError:
        return "unknown"


def memory_mib(spec: LabSpec, host: str) -> float:
    """Memory of the host's processes (proportional set size), in MiB."""
    total = 0
    for process in cgroups.pids(layout(), spec.bridge, host, cgroups.UNIT):
        with contextlib.suppress(OSError, IndexError):
            for line in (PROC / str(process) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024
