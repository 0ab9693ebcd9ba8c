"""One host: launch it, wait for it, switch it off."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lab import cgroups, disk, machine
from lab.errors import LabError
from lab.inside import PATH, layout, pid, systemd_state
from lab.paths import HostPaths, LabPaths
from lab.spec import LabSpec
from lab.system import PROC, processes_with, run, wait_until, write_atomic

START_SECONDS = 120.0
STOP_SECONDS = 100.0  # a unit's stop may take systemd's DefaultTimeoutStopSec of 90 s
_LOG_BYTES = 2**20  # a console log beyond this is set aside at the next start
_PROPAGATE = Path("/run/systemd/nspawn/propagate")
_LAUNCHER = Path(__file__).with_name("launch.sh")


def active(spec: LabSpec, host: str) -> bool:
    """Whether any process of the host is there: it may be booting or ending."""
    if machine.foreign(spec):
        return False
    return bool(cgroups.pids(layout(), spec.bridge, host)) or bool(_supervisors(spec, host))


def _supervisors(spec: LabSpec, host: str) -> list[int]:
    return processes_with(f"--machine={spec.machine(host)}")


def _paths(spec: LabSpec, host: str) -> HostPaths:
    return LabPaths.of(spec).host(host)


def launch(spec: LabSpec, host: str) -> None:
    """Start the host's container, detached; returns at once. The host must be down and have a disk."""
    paths, here = _paths(spec, host), layout()
    cgroups.remove(here, spec.bridge, host)  # what an earlier run left
    cgroups.create(here, spec.bridge, host)
    paths.log.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(paths.status, "starting\n")
    nspawn = [
        *(["env", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"] if here.v2 else []),
        "systemd-nspawn",
        "--quiet",
        "--settings=no",
        f"--directory={paths.root}",
        f"--machine={spec.machine(host)}",
        f"--hostname={host}",
        "--boot",
        "--register=no",
        "--keep-unit",
        f"--network-bridge={spec.bridge}",
        "--private-users=no",
        "--console=read-only",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
    ]
    argv = [
        "setsid",
        "--fork",
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        _LAUNCHER.read_text(),
        "fleet-lab",
        *map(str, here.paths(spec.bridge, host)),
        "--",
        disk.options(spec, host),
        str(paths.root),
        str(paths.status),
        *nspawn,
    ]
    if paths.log.exists() and paths.log.stat().st_size > _LOG_BYTES:
        paths.log.rename(paths.log.with_suffix(".log.1"))
    with paths.log.open("a") as log:
        log.write(f"\n[lab] {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} start of {host}\n")
        log.flush()
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, cwd="/", env={"PATH": PATH})


def wait_started(
    spec: LabSpec,
    host: str,
    *,
    fresh: bool,
    seconds: float = START_SECONDS,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until the host answers on its ssh port.

    A host that is not fresh may have another port or a firewall: it has started when its systemd says so.
    Raises LabError with the end of its console's log.
    """
    paths = _paths(spec, host)
    polls = itertools.count()

    def ended() -> bool:
        return _status(paths).startswith("exited")

    def ready() -> bool:
        init = pid(spec, host)
        if ended() or cancelled():
            return True
        if init is None:
            return False
        if _listens(init, 22) and _ssh_answers(spec.address(host)):
            return True
        asks = not fresh and next(polls) % 8 == 7
        return asks and systemd_state(spec, host) in ("running", "degraded")

    started = wait_until(ready, seconds, every=0.1)
    if ended():
        raise LabError(
            host,
            f"the container ended: {_status(paths)}{_console(paths)}",
            "a booted host",
            f"read {paths.log}",
        )
    if not started:
        running = "it runs" if pid(spec, host) else "it does not run"
        raise LabError(
            host,
            f"no answer on ssh after {seconds:.0f} s ({running}){_console(paths)}",
            f"sshd on {spec.address(host)}:22",
            f"fleet lab exec {host} -- systemctl --failed",
        )


def _status(paths: HostPaths) -> str:
    try:
        return paths.status.read_text().strip()
    except OSError:
        return ""


def _console(paths: HostPaths, lines: int = 12) -> str:
    try:
        tail = paths.log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "; its console says:" + "".join("\n    " + line for line in tail)


def _listens(init: int, port: int) -> bool:
    """Whether something listens on the port in the network of this process (no packet is sent)."""
    wanted = f":{port:04X}"
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / str(init) / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[1].endswith(wanted):
                    return True
    return False


def _ssh_answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            # With a greeting in turn, the host's log has no error of ours.
            connection.sendall(b"SSH-2.0-fleet_lab\r\n")
            return connection.recv(64).startswith(b"SSH-")
    except OSError:
        return False


def stop(spec: LabSpec, host: str, seconds: float = STOP_SECONDS) -> bool:
    """Power off in order; the disk stays. True if the host ran. Raises LabError if it does not end."""
    if not active(spec, host):
        return False
    here = layout()
    supervisors = cgroups.pids(here, spec.bridge, host, cgroups.UNIT, "supervisor")
    for supervisor in supervisors:  # on SIGTERM nspawn asks the host's init to power off
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)
    if not supervisors:
        power_cut(spec, host)
    elif not wait_until(lambda: not active(spec, host), seconds):
        raise LabError(
            host,
            f"still running {seconds:.0f} s after the request to power off",
            "",
            f"fleet lab kill {host}",
        )
    cgroups.remove(here, spec.bridge, host)
    _forget(spec, host)
    return True


def power_cut(spec: LabSpec, host: str, seconds: float = 20) -> bool:
    """SIGKILL the host's init, and so all in it; the disk stays. True if it ran."""
    if machine.foreign(spec):
        return False
    here = layout()
    ran = active(spec, host)
    if init := pid(spec, host):
        with contextlib.suppress(ProcessLookupError):
            os.kill(init, signal.SIGKILL)
        wait_until(lambda: not active(spec, host), 2)  # its supervisor then tidies up and ends by itself

    def gone() -> bool:
        for straggler in _supervisors(spec, host):  # one that was not yet in its cgroup
            with contextlib.suppress(ProcessLookupError):
                os.kill(straggler, signal.SIGKILL)
        cgroups.kill(here, spec.bridge, host)
        return not active(spec, host)

    if ran and not wait_until(gone, seconds):
        raise LabError(host, "processes stay after SIGKILL")
    cgroups.remove(here, spec.bridge, host)
    _forget(spec, host)
    return ran


def _forget(spec: LabSpec, host: str) -> None:
    """Remove what systemd-nspawn leaves behind when it is killed."""
    with contextlib.suppress(OSError):
        (_PROPAGATE / spec.machine(host)).rmdir()


def check_tools_work() -> None:
    """Raise LabError if this process cannot make the namespaces that a host needs."""
    done = run(["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"], check=False)
    if done.returncode != 0:
        raise LabError(
            "this machine",
            f"cannot make namespaces: {done.stderr.strip()}",
            "CAP_SYS_ADMIN",
            "run on a machine or a VM; in a container it takes --privileged",
        )
