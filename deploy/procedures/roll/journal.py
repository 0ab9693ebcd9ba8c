"""What a roll is about to do, written down before it is done: beside the inventory, and on the hosts for others to see.

The journal says who did what and where it ended; how to go on is read from the hosts.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets as random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = ".roll.jsonl"
"""Beside the inventory's lock."""


def _who() -> str:
    """This run of this controller, and no other."""
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def path_of(inventory: Path) -> Path:
    return inventory / FILE


@dataclass
class Journal:
    """One roll's lines. Each is on the disk before `write` returns."""

    path: Path
    roll: str
    who: str
    number: int = 0
    _handle: int = field(default=-1, repr=False)

    @classmethod
    def begin(cls, inventory: Path, doing: str, **options: str) -> Journal:
        """A new roll with these options; the lines of the one before, which has ended, are replaced."""
        who = _who()
        path = path_of(inventory)
        path.write_text("")
        made = cls(path, f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{random.token_hex(3)}", who)
        made.write("begin", doing=doing, who=who, pid=os.getpid(), options=options)
        return made

    @classmethod
    def resume(cls, inventory: Path, roll: str, doing: str) -> Journal:
        """Go on with a roll that did not end; another controller's, if this one has no journal of it."""
        who = _who()
        lines = list(read(inventory))
        path = path_of(inventory)
        if path.is_file() and path.read_bytes()[-1:] not in {b"", b"\n"}:
            # What was cut off in the middle of its writing must not spoil the line after it.
            with path.open("ab") as cut:
                cut.write(b"\n")
        made = cls(path, roll, who, len(lines))
        made.write("resume", doing=doing, who=who, pid=os.getpid())
        return made

    def write(self, event: str, **what: Any) -> None:
        self.number += 1
        line = {
            "roll": self.roll, "n": self.number, "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event, **what,
        }  # fmt: skip
        if self._handle < 0:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.write(self._handle, (json.dumps(line) + "\n").encode())
        os.fsync(self._handle)

    def end(self, how: str) -> None:
        self.write("end", how=how)
        os.close(self._handle)
        self._handle = -1


def read(inventory: Path) -> Iterator[dict[str, Any]]:
    """The lines of the last roll; one that was cut off in the middle of its writing counts as not written."""
    path = path_of(inventory)
    lines: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            lines.append(found)
    # One that was gone on with here after it had begun elsewhere is written behind an earlier one that ended.
    return (line for line in lines if line.get("roll") == lines[-1].get("roll"))


def unfinished(inventory: Path) -> dict[str, Any] | None:
    """The first line of the last roll and where it stands, if it has not ended."""
    lines = list(read(inventory))
    if not lines or lines[-1].get("event") == "end":
        return None
    takes = [line for line in lines if line.get("event") == "take"]
    return {**lines[0], "last": takes[-1] if takes else None}
