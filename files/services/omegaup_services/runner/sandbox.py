"""`omegaup-sandbox`: compiles one program and runs it on each input, inside what systemd has fenced off for it.

Started by systemd for each connection to the sandbox's socket, which is standard input here. The fence is the unit's:
no network, a read-only root, a file system in memory to write to, limits of memory and tasks, system calls. In it,
this process is one user and the program another, made for this connection alone, so that the program can neither
signal nor read who watches it, nor the program of another box. What it leaves running dies with it.

One JSON line comes in, JSON lines go out (see Box.judge). Expected outputs never come here.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST_USER, USERS = 50000, 10000
"""Numbers of the programs' users: nobody's else, and each used again only long after."""
MIB = 1024 * 1024
REQUEST_BYTES = 256 * MIB
PROCESSES, FEW_PROCESSES = 32, 4
"""Of one program. A runtime has threads of its own, too. Few, where only each process's own memory can be limited."""
MEMORY, TASKS = "memory.max", "pids.max"
"""Limits of the control group, by the kernel's names."""
STACK_BYTES = 64 * MIB
OVERHEAD_BYTES = 96 * MIB
"""Address space that a runtime maps and does not use."""
COMPILE_SECONDS, COMPILE_BYTES = 20, 512 * MIB
ERROR_BYTES = 4096
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
OUT_OF_MEMORY = ("MemoryError", "std::bad_alloc", "virtual memory exhausted", "Cannot allocate memory")


@dataclass(frozen=True)
class Language:
    """`file`: what the source is called; `compile`: makes `program` of it, or only checks it; `run`: the command."""

    file: str
    compile: tuple[str, ...]
    run: tuple[str, ...]


GCC = ("-O2", "-pipe", "-o", "program")
LANGUAGES: Mapping[str, Language] = {
    "c11-gcc": Language("program.c", ("gcc", "-std=gnu11", *GCC, "program.c", "-lm"), ("./program",)),
    "cpp17-gcc": Language("program.cpp", ("g++", "-std=gnu++17", *GCC, "program.cpp"), ("./program",)),
    "py3": Language(
        "program.py",
        ("python3", "-I", "-c", "compile(open('program.py', 'rb').read(), 'program.py', 'exec')"),
        ("python3", "-I", "-B", "program.py"),
    ),
}


@dataclass(frozen=True)
class Limits:
    """Of one run. `seconds`: of the processors; twice as many, and one more, may pass on the clock."""

    seconds: float
    memory_bytes: int
    output_bytes: int
    processes: int

    @property
    def wall_seconds(self) -> float:
        return 2 * self.seconds + 1


@dataclass(frozen=True)
class Ended:
    """How a command ended. `status`: ok, exit, signal, time, memory or output."""

    status: str
    code: int
    seconds: float
    memory_bytes: int
    output: bytes
    error: str


class Box:
    """A folder for one program, and the user that it runs as."""

    def __init__(self, user: int, folder: Path, processes: int = PROCESSES) -> None:
        self._user, self._folder, self._processes = user, folder, processes
        # Its own: another box of this host could otherwise look in.
        self._work = folder / "work"
        self._work.mkdir(mode=0o777)
        self._work.chmod(0o777)

    def judge(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """{"compiled": bool, "detail": str}, then for each case {"name", "status", "code", "time_ms",
        "memory_bytes", "output" (base64), "detail"}.
        """
        language = LANGUAGES[request["language"]]
        source = self._work / language.file
        source.write_text(request["source"], encoding="utf-8")
        source.chmod(0o644)
        compiled = self._run(language.compile, b"", Limits(COMPILE_SECONDS, COMPILE_BYTES, 64 * MIB, PROCESSES))
        yield {"compiled": compiled.status == "ok", "detail": compiled.error}
        if compiled.status != "ok":
            return
        limits = Limits(
            request["time_ms"] / 1000, request["memory_bytes"], request["output_bytes"], self._processes
        )  # fmt: skip
        kept = {path.name for path in self._work.iterdir()}
        for case in request["cases"]:
            self._clean(kept)
            ended = self._run(language.run, case["input"].encode(), limits)
            yield {
                "name": case["name"], "status": ended.status, "code": ended.code,
                "time_ms": round(1000 * ended.seconds), "memory_bytes": ended.memory_bytes,
                "output": base64.b64encode(ended.output).decode(), "detail": ended.error,
            }  # fmt: skip

    def _clean(self, kept: set[str]) -> None:
        """What one run has left is none of the next one's business."""
        for path in self._work.iterdir():
            if path.name in kept:
                continue
            # A folder of the program's may be closed to us; its user then removes it.
            self._as_program_run("/bin/rm", "-rf", "--", str(path))

    def _as_program(self, prepare: Callable[[], None]) -> dict[str, Any]:
        """How a process becomes the program's user. prepare: what it does then; it ends with _drop_ambient."""
        return {"user": self._user, "group": self._user, "extra_groups": [], "preexec_fn": prepare}

    def _run(self, command: Sequence[str], given: bytes, limits: Limits) -> Ended:
        (self._folder / "in").write_bytes(given)
        out, err = self._folder / "out", self._folder / "err"

        def limit() -> None:
            os.setsid()
            for kind, most in (
                (resource.RLIMIT_CPU, int(limits.seconds) + 1),
                (resource.RLIMIT_AS, limits.memory_bytes + OVERHEAD_BYTES),
                (resource.RLIMIT_FSIZE, limits.output_bytes),
                (resource.RLIMIT_NPROC, limits.processes),
                (resource.RLIMIT_NOFILE, 64),
                (resource.RLIMIT_CORE, 0),
                (resource.RLIMIT_STACK, min(limits.memory_bytes, STACK_BYTES)),
            ):
                resource.setrlimit(kind, (most, most))
            _drop_ambient()

        begun = time.monotonic()
        with (self._folder / "in").open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            child = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=self._work, close_fds=True,
                env={"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8", "TMPDIR": str(self._work)},
                **self._as_program(limit),
            )  # fmt: skip
            late = not _wait_until(child.pid, begun + limits.wall_seconds)
            # All of them, whoever their parent is: only the kernel's count of its user's processes knows them.
            self._kill()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        self._kill()
        seconds = usage.ru_utime + usage.ru_stime
        memory = usage.ru_maxrss * 1024
        error = err.read_bytes()[-ERROR_BYTES:].decode(errors="replace")
        written = out.stat().st_size
        with out.open("rb") as file:
            output = file.read(limits.output_bytes)
        status_word = _status(child.returncode, late, seconds, memory, written, error, limits)
        return Ended(status_word, child.returncode, seconds, memory, output, error)

    def _kill(self) -> None:
        """End every process of the program's user. As that user itself, which may signal nobody else."""
        self._as_program_run("/bin/sh", "-c", "kill -KILL -1")

    def _as_program_run(self, *command: str) -> None:
        null = subprocess.DEVNULL
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, **self._as_program(_drop_ambient)).wait()


def _status(code: int, late: bool, seconds: float, memory: int, written: int, error: str, limits: Limits) -> str:
    if seconds > limits.seconds or code == -signal.SIGXCPU:
        return "time"
    if written >= limits.output_bytes or code == -signal.SIGXFSZ:
        return "output"
    if memory > limits.memory_bytes or (code != 0 and any(word in error for word in OUT_OF_MEMORY)):
        return "memory"
    if late:
        return "time"
    if code == 0:
        return "ok"
    return "signal" if code < 0 else "exit"


def _wait_until(pid: int, deadline: float) -> bool:
    """Whether the process ended in time; it is not reaped, so that its number stays its own."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        # No signal tells of it without being reaped; a run is rarely shorter than this.
        time.sleep(min(left, 0.005))
    return True


def _drop_ambient() -> None:
    """So that the next exec leaves no capability, even to who had some in order to become another user."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


ALLOWED = (1 << 6) | (1 << 7)
"""CAP_SETGID, CAP_SETUID: to become the program's user."""


def uncontained(without: Sequence[str]) -> list[str]:
    """What of the fence is missing: a host may be unable to give what its unit asks for, and start it all the same.

    without: limits of the control group that are known to be missing on this host.
    """
    missing = []
    interfaces = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    if [line for line in interfaces if line.partition(":")[0].strip() != "lo"]:
        missing.append("it has a network")
    folders = ("/", "/etc", "/usr", "/var")
    missing += [f"{path} can be written to" for path in folders if not os.statvfs(path).f_flag & os.ST_RDONLY]
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    if int(status["CapBnd"], 16) & ~ALLOWED:
        missing.append("it may get capabilities")
    if status.get("NoNewPrivs", "").strip() != "1":
        missing.append("programs may get privileges")
    if status.get("Seccomp", "").strip() != "2":
        missing.append("system calls are not filtered")
    group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    for name in {MEMORY, TASKS} - set(without):
        try:
            if (group / name).read_text().strip() == "max":
                missing.append(f"{name} is not limited")
        except OSError:
            missing.append(f"{name} cannot be read")
    with contextlib.suppress(OSError):
        os.listdir("/etc/omegaup")
        missing.append("/etc/omegaup can be read")
    return missing


def _send(answer: Mapping[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        # Not a socket's own calls, which the filter denies.
        data = data[os.write(0, data) :]


def _received() -> dict[str, Any]:
    data = bytearray()
    while not data.endswith(b"\n"):
        part = os.read(0, MIB)
        if not part or len(data) > REQUEST_BYTES:
            sys.exit(0)  # only a look whether it can be done
        data += part
    request: dict[str, Any] = json.loads(data)
    return request


def main() -> None:
    parser = argparse.ArgumentParser(prog="omegaup-sandbox", allow_abbrev=False)
    parser.add_argument("--instance", required=True, help="systemd's %%i: begins with the number of the connection")
    parser.add_argument("--folder", type=Path, required=True, help="where it may write")
    parser.add_argument("--without", nargs="*", choices=(MEMORY, TASKS), default=(), help="limits that it cannot have")
    options = parser.parse_args()
    missing = uncontained(options.without)
    languages = [name for name, language in LANGUAGES.items() if shutil.which(language.compile[0])]
    _send({"uncontained": missing, "languages": languages})
    if missing:
        return
    request = _received()
    # What is not the program's to read (what it has said so far, say) it cannot.
    os.umask(0o077)
    number = int(options.instance.partition("-")[0])
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    folder.chmod(0o711)
    processes = FEW_PROCESSES if MEMORY in options.without else PROCESSES
    for answer in Box(FIRST_USER + number % USERS, folder, processes).judge(request):
        _send(answer)


if __name__ == "__main__":
    main()
