"""Runs a command of `fleet` and kills it (-9) as soon as its journal has the step that is waited for.

A process of its own that waits for no other: the suite's has more to do, and a step may be over in a tenth of a second.

    python -m tests.chaos.killer JOURNAL (new | NUMBER) COMMAND...

new: the first step that was not taken before; NUMBER: so many steps, of all in the journal. Exit code: KILLED, or the
command's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

KILLED = 137
"""As a shell says it."""


def taken(journal: Path) -> list[str]:
    """The words of each step that a journal says is taken; of none, if there is no journal."""
    text = journal.read_text() if journal.exists() else ""
    return re.findall(r'"event": "take".*"words": "([^"]*)"', text)


def main(path: str, what: str, *command: str) -> int:
    journal = Path(path)
    seen = set(taken(journal))
    process = subprocess.Popen(command)
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    while (code := process.poll()) is None:
        steps = taken(journal)
        if not seen.issuperset(steps) if what == "new" else len(steps) >= int(what):
            process.kill()
            process.wait()
            return KILLED
        time.sleep(0.005)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
