"""What kills controllers at their steps: it is not late, and leaves alone who took a step that was taken before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.killer import KILLED, taken

ROOT = Path(__file__).resolve().parents[2]


def line(words: str) -> str:
    return f'{{"event": "take", "action": "{words.upper()}", "words": "{words}"}}\n'


def run(journal: Path, what: str, script: str) -> int:
    command = [sys.executable, "-m", "tests.chaos.killer", str(journal), what, "bash", "-euc", script]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=30).returncode


def takes(journal: Path, *steps: str) -> str:
    """A controller's steps, each of which is over in a tenth of a second; then it waits."""
    return "".join(f"echo '{line(one).strip()}' >>{journal}; sleep 0.1; " for one in steps) + "exec sleep 20"


@pytest.mark.parametrize(
    ("what", "last"), [("new", "two"), ("1", "one"), ("2", "two"), ("3", "three")], ids=["new", "1", "2", "3"]
)
def test_killed_at_the_step_that_is_waited_for(tmp_path: Path, what: str, last: str) -> None:
    journal = tmp_path / "journal"
    if what == "new":
        journal.write_text(line("one"))
    steps = ("one", "two", "three", "four")
    assert run(journal, what, takes(journal, *steps)) == KILLED
    assert taken(journal)[-1] == last


def test_a_step_of_this_kind_counts_where_this_command_takes_it(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text(line("one") + line("two"))
    assert run(journal, "TWO", takes(journal, "one", "two", "three")) == KILLED
    assert taken(journal) == ["one", "two", "one", "two"]


def test_who_takes_no_new_step_ends_by_himself(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text(line("one") + line("two"))
    script = takes(journal, "one", "two").replace("exec sleep 20", "exit 0")
    assert run(journal, "new", script) == 0


def test_a_refusal_is_passed_on(tmp_path: Path) -> None:
    assert run(tmp_path / "journal", "new", "exit 3") == 3
