"""Run things in a host by its namespaces: no network, no sshd and no firewall is in the way."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from functools import cache

from lab import cgroups
from lab.cgroups import EXEC, Layout
from lab.errors import LabError
from lab.spec import LabSpec
from lab.system import PROC

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@cache
def layout() -> Layout:
    """The machine's cgroup layout."""
    return cgroups.detect()


def pid(spec: LabSpec, host: str) -> int | None:
    """PID 1 of the host as this machine sees it; None when it does not run."""
    spec.check_host(host)
    return cgroups.init_pid(layout(), spec.bridge, host)


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
            out, err = process.communicate(data, timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise LabError(host, f"not done after {timeout:g} s: {shlex.join(argv)}") from None
            raise
    return subprocess.CompletedProcess(
        list(argv), process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
    )


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
