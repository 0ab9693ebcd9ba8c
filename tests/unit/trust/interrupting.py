"""Where a controller may be killed: before and after each file that it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from deploy.trust import files


@contextmanager
def each_write(event: Callable[[], None]) -> Iterator[None]:
    """event: called there; what it raises ends the run."""
    write = files.write_atomic

    def counted(path: Path, data: bytes, mode: int = files.PRIVATE) -> None:
        event()
        write(path, data, mode)
        event()

    with mock.patch.object(files, "write_atomic", counted):
        yield
