"""Who may act on a lab: one process on all of it, or several on different hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab import preflight
from lab.paths import LabPaths
from lab.spec import LabSpec
from lab.system import locked


@contextlib.contextmanager
def on_lab(spec: LabSpec) -> Iterator[None]:
    preflight.check_root()
    with locked(LabPaths.of(spec).lock, what=f"lab {spec.name}"):
        yield


@contextlib.contextmanager
def on_host(spec: LabSpec, name: str) -> Iterator[None]:
    preflight.check_root()
    spec.check_host(name)
    paths = LabPaths.of(spec)
    with locked(paths.lock, shared=True, what=f"lab {spec.name}"), locked(paths.host(name).lock, what=name):
        yield
