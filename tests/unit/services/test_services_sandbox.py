"""The sandbox: verdicts and figures, and hostile programs contained and named, as far as it goes without its unit.

The unit's part of the fence (no network, a read-only root, the filter of system calls, limits of the control group) is
the hosts' to prove: tests/fleet and tests/chaos. Here is what the process itself does with users and limits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omegaup_services.config import Sandbox
from omegaup_services.runner.app import Runner
from omegaup_services.runner.judge import Case, Result, SandboxDown, SandboxJudge, verdict
from omegaup_services.runner.sandbox import FIRST_USER

from tests.unit.services.support import Authority, environment
from tests.unit.services.test_services_grader import SUBMISSION, judge

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
LIMITS = {"time_ms": 500, "memory_bytes": 64 * 2**20, "output_bytes": 2**20}
SUM = "print(sum(map(int, input().split())))"
CASES = [
    {"name": "1", "input": "1 2\n", "output": "3\n", "weight": 1},
    {"name": "2", "input": "20 22\n", "output": "42", "weight": 3},
]
TIGHT = "sandbox.uncontained = lambda _: []; "


class Systemd:
    """What the sandbox's socket unit does: a process for each connection, which is its standard input."""

    numbers: ClassVar[Iterator[int]] = itertools.count(os.getpid())
    """Of connections: a user of its own for each, since the dead of the one before may still be counted as its."""

    def __init__(self, folder: Path, patch: str = TIGHT) -> None:
        self.path, self._folder, self._patch, self._number = folder / "s", folder, patch, 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self.boxes: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._number = next(self.numbers)
            code = f"from omegaup_services.runner import sandbox; {self._patch}sandbox.main()"
            with peer:
                self.boxes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", code, "--instance", f"{self._number}-1-0", "--folder",
                         str(self._folder)], stdin=peer.fileno(), stdout=subprocess.DEVNULL, env=environment(),
                    )
                )  # fmt: skip

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for box in self.boxes:
            box.kill()
            box.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the program's user has to get there.
    with tempfile.TemporaryDirectory(prefix="box") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.fixture
def systemd(folder: Path) -> Iterator[Systemd]:
    made = Systemd(folder)
    yield made
    made.close()


def judged(systemd: Systemd, source: str, language: str = "py3", **settings: Any) -> tuple[Result, str]:
    submission = {"language": language, "source": source}
    return asyncio.run(
        SandboxJudge(Sandbox(socket=systemd.path)).judge(submission, {"limits": LIMITS, "cases": CASES, **settings})
    )


def need_gcc() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")


@pytest.mark.parametrize(
    ("source", "expected", "score"),
    [
        (SUM, "AC", 1.0),
        ("print('  3  ' if input() == '1 2' else '42')", "AC", 1.0),
        ("print(3)", "PA", 0.25),
        ("print(7)", "WA", 0.0),
        ("print(", "CE", 0.0),
        ("raise SystemExit(1)", "RTE", 0.0),
        ("while True: pass", "TLE", 0.0),
        ("import time; time.sleep(60)", "TLE", 0.0),
        ("x = bytearray(10**9)", "MLE", 0.0),
        ("x = []\nwhile True: x.append(bytearray(2**20))", "MLE", 0.0),
        ("while True: print('x' * 1000)", "OLE", 0.0),
        ("import os; os.kill(os.getpid(), 11)", "RTE", 0.0),
    ],
)
def test_verdicts(systemd: Systemd, source: str, expected: str, score: float) -> None:
    result, detail = judged(systemd, source)
    assert (result.verdict, result.score) == (expected, score), detail
    if expected == "AC":
        assert 0 < result.time_ms < 500
        assert 2**20 < result.memory_bytes < 64 * 2**20


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }', "AC"),
        ("int main() {", "CE"),
        ("#include <stdlib.h>\n#include <string.h>\n"
         "int main() { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }", "MLE"),
        ("#include <unistd.h>\nint main() { for (;;) fork(); }", "TLE"),
        ("int main() { int *p = 0; return *p; }", "RTE"),
        ('#include "/etc/shadow"\nint main() {}', "CE"),
    ],
)  # fmt: skip
def test_verdicts_of_c(systemd: Systemd, source: str, expected: str) -> None:
    need_gcc()
    result, detail = judged(systemd, source, "c11-gcc")
    assert result.verdict == expected, detail
    assert "root:" not in detail


def test_a_problem_without_cases_asks_for_a_program_that_compiles(systemd: Systemd) -> None:
    assert judged(systemd, SUM, cases=[])[0].verdict == "AC"
    assert judged(systemd, "print(", cases=[])[0].verdict == "CE"


def test_a_language_that_is_not_here(systemd: Systemd) -> None:
    assert judged(systemd, SUM, "cobol")[0].verdict == "CE"


def processes(user: int) -> list[str]:
    """Those that live: who has taken a dead one over may not have taken note of it yet."""
    done = subprocess.run(["ps", "-o", "stat=", "-u", str(user)], capture_output=True, text=True, check=False)
    return [state for state in done.stdout.split() if not state.startswith("Z")]


def test_what_a_fork_bomb_leaves_dies_with_it(systemd: Systemd) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    result, _ = judged(systemd, bomb)
    assert result.verdict in ("TLE", "RTE")
    user = FIRST_USER + systemd._number % 10000
    assert processes(user) == []


def test_a_daemon_does_not_outlive_its_run(systemd: Systemd) -> None:
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(300)\n" + SUM
    assert judged(systemd, daemon)[0].verdict == "AC"
    assert processes(FIRST_USER + systemd._number % 10000) == []


HOSTILE = {
    "signals to who watches it": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "signals to everybody": "import os, signal\nos.kill(-1, signal.SIGTERM)\nprint(open('/nothing').read())",
    "reading the memory of who watches it": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "reading what root may read": "print(open('/etc/shadow').read())",
    "writing outside": "open('/usr/local/evil', 'w')",
    "becoming somebody else": "import os\nos.setuid(0)",
    "reading the input of another": "import os\nopen(os.getcwd() + '/../in').read()",
    "reading the answer": "import os\nprint(os.read(0, 10**6).decode())\nos.lseek(1, 0, 0)\nraise SystemExit(3)",
    "a root of its own": "import os\nos.chroot('/tmp')",
    "the descriptors of who watches it": "import os\n[os.write(n, b'{}') for n in range(3, 64)]",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_programs_are_contained_and_named(systemd: Systemd, what: str) -> None:
    result, detail = judged(systemd, HOSTILE[what])
    assert (result.verdict, result.score) == ("RTE", 0.0), detail
    assert not Path("/usr/local/evil").exists()
    # The same watcher lives to see the next case, and the next submission.
    assert judged(systemd, SUM)[0].verdict == "AC"


def test_what_one_run_leaves_is_not_there_for_the_next(systemd: Systemd) -> None:
    source = "import os\nprint(3 if not os.path.exists('left') else 0)\nopen('left', 'w').write('x')"
    cases = [{"input": "", "output": "3"}] * 3
    assert judged(systemd, source, cases=cases)[0].verdict == "AC"


def test_a_box_that_is_not_tight_judges_nothing(folder: Path) -> None:
    loose = Systemd(folder, patch="")
    try:
        with pytest.raises(SandboxDown, match="not tight: it has a network"):
            judged(loose, SUM)
        with pytest.raises(SandboxDown):
            asyncio.run(SandboxJudge(Sandbox(socket=loose.path)).check())
    finally:
        loose.close()


def test_no_sandbox(folder: Path) -> None:
    with pytest.raises(SandboxDown, match="No such file"):
        asyncio.run(SandboxJudge(Sandbox(socket=folder / "none")).check())


def test_a_box_that_ends_over_a_program(folder: Path) -> None:
    """As when the kernel ends all of it for its memory."""
    ending = Systemd(folder, patch=TIGHT + "sandbox.Box._clean = lambda *_: __import__('os')._exit(1); ")
    try:
        result, detail = judged(ending, SUM)
        assert result.verdict == "RFE"
        assert detail == "case 1: RFE: the box ended before it"
    finally:
        ending.close()


def test_the_filters_signal_is_named() -> None:
    run = {"status": "signal", "code": -31, "time_ms": 1, "memory_bytes": 1, "output": "", "detail": ""}
    assert verdict([{"compiled": True, "detail": ""}, run], [Case("1", "", "", 1)])[0].verdict == "RFE"


def test_from_the_frontend_to_the_verdict(systemd: Systemd, ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            settings = tmp_path / "problems" / "sumas" / "settings.json"
            settings.write_text(json.dumps({"limits": LIMITS, "cases": CASES}))
            runner = it.add_runner(judge="sandbox", sandbox=Sandbox(socket=systemd.path), name="r")
            await runner.start()
            try:
                ids = {}
                for verdict_, source in (("AC", SUM), ("PA", "print(3)"), ("TLE", "while True: pass")):
                    status, answer = await it.frontend.post("/submission/new", {**SUBMISSION, "source": source})
                    assert status == 200
                    ids[verdict_] = answer["id"]
                for verdict_, identifier in ids.items():
                    async with asyncio.timeout(20):
                        while (state := await it.state(identifier))["state"] != "ready":
                            await asyncio.sleep(0.05)
                    assert state["verdict"] == verdict_
                assert (await runner.health.report()).status == "ok"
            finally:
                await runner.stop()

    asyncio.run(go())


def test_a_runner_without_a_sandbox_takes_no_work(folder: Path, ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            runner: Runner = it.add_runner(judge="sandbox", sandbox=Sandbox(socket=folder / "none"), name="r")
            await runner.start()
            try:
                status, answer = await it.frontend.post("/submission/new", SUBMISSION)
                assert status == 200
                await asyncio.sleep(0.5)
                assert (await it.state(answer["id"]))["state"] == "new"
                report = await runner.health.report()
                assert report.status == "error"
                assert "No such file" in report.checks["sandbox"]
            finally:
                await runner.stop()

    asyncio.run(go())
