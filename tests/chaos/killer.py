"""Runs a command of `fleet` and kills it (-9) as soon as its journal has the step that is waited for.

A process of its own that waits for no other: the suite's has more to do, and a step may be over in a tenth of a second.

    python -m tests.chaos.killer JOURNAL (new | NUMBER | ACTION) COMMAND...

new: the first step that was not taken before; NUMBER: so many steps, of all in the journal; ACTION: the first step of
this kind that this command takes. Exit code: KILLED, or the command's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

KILLED = 137
"""As a shell says it."""


def taken(journal: Path, field: str = "words") -> list[str]:
    """The words of each step that a journal says is taken, or its `action`; of none, if there is no journal."""
    text = journal.read_text() if journal.exists() else ""
    return re.findall(rf'"event": "take".*"{field}": "([^"]*)"', text)


def condition(journal: Path, what: str) -> Callable[[], bool]:
    """Whether the journal has, since now, the step that is waited for."""
    before = taken(journal)
    if what == "new":
        seen = set(before)
        return lambda: not seen.issuperset(taken(journal))
    if what.isdecimal():
        return lambda: len(taken(journal)) >= int(what)
    return lambda: what in taken(journal, "action")[len(before) :]


def main(path: str, what: str, *command: str) -> int:
    there = condition(Path(path), what)
    process = subprocess.Popen(command)
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    while (code := process.poll()) is None:
        if there():
            process.kill()
            process.wait()
            return KILLED
        time.sleep(0.005)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
