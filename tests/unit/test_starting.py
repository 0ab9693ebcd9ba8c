"""A unit that fails at its first start, in a real shell: how often it is started, and what is said in the end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.converge import shell
from deploy.model.resources import Unit

STUBS = """\
sleep() { :; }
journalctl() { echo 'its last words'; }
systemctl() {
  case $1 in
  start) echo started >>"$STARTS"; [ "$(wc -l <"$STARTS")" -gt "$REFUSED" ] ;;
  is-active) if [ "$2" = --quiet ]; then [ "$(wc -l <"$STARTS")" -gt "$REFUSED" ]; else echo failed; fi ;;
  *) : ;;
  esac
}
"""


def started(folder: Path, tries: int, refused: int) -> tuple[int, int, str]:
    """(exit code, how often it was started, what was said) of a unit that fails so many times before it runs."""
    starts = folder / "starts"
    preamble = shell.PREAMBLE[shell.PREAMBLE.index("# started UNIT") :]
    script = shell.start(Unit(name="x.service", tries=tries), fresh=True)
    done = subprocess.run(
        ["sh", "-s"], input=f"set -eu\nSTARTS={starts} REFUSED={refused}\n{STUBS}{preamble}\n{script}", text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode, len(starts.read_text().splitlines()), done.stdout


@pytest.mark.parametrize(
    ("tries", "refused", "code", "starts"), [(1, 0, 0, 1), (1, 1, 1, 1), (3, 0, 0, 1), (3, 2, 0, 3), (3, 3, 1, 3)]
)
def test_it_is_started_so_often_and_no_more(tries: int, refused: int, code: int, starts: int, tmp_path: Path) -> None:
    found = started(tmp_path, tries, refused)
    assert found[:2] == (code, starts)
    assert ("its last words" in found[2]) == bool(code)
