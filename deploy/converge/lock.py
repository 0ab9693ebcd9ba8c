"""One run at a time for an inventory.

The lock is the kernel's, on an open file: it is gone the moment its owner is, however that ended. The text in the
file only says who holds it.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from deploy.errors import FleetError


@contextmanager
def hold(inventory: Path, doing: str) -> Iterator[None]:
    """Hold the inventory's lock.

    Raises:
        FleetError: somebody else holds it; says who, since when and for what.
    """
    path = inventory / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FleetError(
            subject=str(path),
            found=error.strerror or type(error).__name__,
            expected="a lock beside the inventory that this user may write",
            hint="run as the user to whom the inventory belongs, or on a writable copy",
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(path) from None
        holder = {
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "doing": doing,
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _held(path: Path) -> FleetError:
    try:
        holder = json.loads(path.read_text())
        text = f"{holder['doing']} by {holder['who']} (process {holder['pid']}), since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        text = "another run that has not said who it is"
    return FleetError(
        subject=f"lock of {path.parent.name}",
        found=text,
        expected="no other run on this inventory",
        hint="wait for it to end, or end that process: the lock goes with it",
    )
