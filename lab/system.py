"""Small things asked of the machine: run a tool, read /proc, lock a file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.errors import LabError

PROC = Path("/proc")


def run(argv: Sequence[str], *, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool of this machine. Raises LabError with what the tool said."""
    try:
        done = subprocess.run(
            list(argv),
            input=input,
            text=True,
            capture_output=True,
            errors="replace",
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise LabError("this machine", f"no program {argv[0]!r}", "", "fleet lab up --install") from None
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise LabError("this machine", f"{' '.join(argv)}: {said}")
    return done


def ip_json(*args: str) -> list[dict[str, Any]]:
    """Output of `ip -j ARGS` (empty if the thing asked for is not there)."""
    done = run(["ip", "-j", *args], check=False)
    if done.returncode != 0 or not done.stdout.strip():
        return []
    return [row for row in json.loads(done.stdout) if row]


def wait_until(condition: Callable[[], bool], seconds: float, *, every: float = 0.05) -> bool:
    """Poll until the condition holds; False after `seconds`. Polls ever less often, up to 0.25 s."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
        every = min(every * 1.2, 0.25)
    return True


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, seconds: float = 600, what: str = "") -> Iterator[None]:
    """Hold a lock file; it ends with this process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:

        def taken() -> bool:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError:
                return False
            return True

        if not wait_until(taken, seconds):
            raise LabError(
                what or str(path),
                f"another process has held the lock {path} for {seconds:.0f} s",
                "",
                f"see who: fuser {path}",
            )
        yield


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step, so that a crash leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.write_text(text, encoding="utf-8")
    temp.chmod(mode)
    temp.rename(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; empty if the file is not there or was cut short."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def sysctl(name: str) -> str:
    """Value of a kernel parameter ('' if the kernel has it not)."""
    try:
        return (PROC / "sys" / name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""


def set_sysctl(name: str, value: str) -> None:
    """Set a kernel parameter. Raises LabError if the kernel refuses."""
    try:
        (PROC / "sys" / name.replace(".", "/")).write_text(value)
    except OSError as error:
        raise LabError(
            "this machine",
            f"cannot set {name} to {value}: {error.strerror}",
            "a kernel whose parameters can be set",
            "run on a machine or a VM, not in a container",
        ) from None


def boot_id() -> str:
    """Identity of this boot: what was noted in another boot is void."""
    return sysctl("kernel.random.boot_id")


def processes_with(argument: str) -> list[int]:
    """Processes (not this one) that have exactly this argument."""
    found = []
    wanted = argument.encode()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def processes_in(directory: Path) -> list[int]:
    """Processes that have their root below the directory, or a path below it in their arguments."""
    found = []
    wanted = str(directory)
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            root = os.readlink(entry / "root")
            if root.startswith(wanted) or wanted.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def memory_available_mib() -> int:
    """MemAvailable of /proc/meminfo, in MiB."""
    for line in (PROC / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0
