"""Files that are either the old content or the new one, never half of each, whoever is killed when."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from deploy.errors import FleetError

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_DIRECTORY = 0o700

LOCK_TIMEOUT_SECONDS = 30.0


def write_atomic(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace ``path`` by ``data`` with exactly ``mode``, durable when this returns.

    The temporary file lives beside the target (a rename is atomic only within a file system). A symbolic link
    is followed, so that an inventory whose secrets live elsewhere keeps its link.
    Raises FleetError when the directory is missing, read-only or full; the old content then still stands.
    """
    target = Path(os.path.realpath(path))
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        sync_directory(target.parent)
    except OSError as error:
        raise cannot("write", path, error) from error


def sync_directory(directory: Path) -> None:
    """Make renames inside ``directory`` durable: the entry, unlike the content, is the directory's data."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path, *, expected: str, hint: str) -> bytes:
    """The content of ``path``; FleetError with ``expected`` and ``hint`` when missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FleetError(subject=str(path), found="no such file", expected=expected, hint=hint) from error
    except OSError as error:
        raise cannot("read", path, error) from error


@contextmanager
def locked(lock_path: Path, *, timeout: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
    """Hold an exclusive advisory lock between processes; FleetError after ``timeout`` seconds.

    The kernel drops it when its holder dies, so a killed run never has to be cleaned up after.
    """
    lock = FileLock(lock_path, timeout=timeout, mode=PRIVATE)
    try:
        lock.acquire()
    except Timeout as error:
        raise FleetError(
            subject=str(lock_path),
            found=f"held by another process for over {timeout:g} s",
            expected="one writer at a time",
            hint=f"Wait for the other run, or find it with `fuser {lock_path}`.",
        ) from error
    except OSError as error:
        raise cannot("lock", lock_path, error) from error
    try:
        yield
    finally:
        lock.release()


def cannot(verb: str, path: Path, error: OSError) -> FleetError:
    """An operating-system refusal as a FleetError naming the file and the system's own reason."""
    return FleetError(
        subject=str(path),
        found=f"cannot {verb}: {error.strerror or error}",
        expected=f"a path this user can {verb}",
        hint="Check the path, its owner and mode, and the free space of its file system.",
    )
