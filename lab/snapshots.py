"""A disk's state under a name: a layer that any host of the lab can stand on.

Nothing is copied: the upper layer of the host becomes the snapshot's, and the
host goes on above it. What makes a host itself (keys, name, machine-id) is
written anew above the layer for the host that gets it; what else is unique to a
machine (an Erlang cookie, a database's server id) is its software's own affair.
"""

from __future__ import annotations

import shutil

from lab import disk, image
from lab.errors import LabError
from lab.paths import LabPaths
from lab.spec import LabSpec
from lab.system import read_json


def take(spec: LabSpec, host: str, name: str) -> None:
    """Keep the host's present state under a name; the host goes on above it. It must not run.

    Raises LabError for a name that is taken, or a host without a disk.
    """
    lab = LabPaths.of(spec)
    record = disk.load(lab.host(host))
    if (lab.snapshots / name).exists():
        raise LabError(name, "the lab has a snapshot of this name already", "", f"drop_snapshot(spec, {name!r})")
    record.pending = name
    record.save(lab.host(host))
    disk.finish_snapshot(spec, host, record)


def restore(spec: LabSpec, host: str, name: str, mtu: int) -> None:
    """Give the host the disk of a snapshot (any host's), with its own keys, name and machine-id."""
    data = read_json(LabPaths.of(spec).snapshots / name / "snapshot.json")
    if not data:
        raise LabError(
            name,
            "the lab has no snapshot of this name",
            "one of " + (", ".join(names(spec)) or "(none taken)"),
        )
    if data["suite"] != spec.suite:
        raise LabError(name, f"the snapshot is of {data['suite']}", spec.suite)
    if not image.path_of(data["image"]).is_dir():
        raise LabError(name, f"the base image {data['image']} that it stands on is gone", "", "take it anew")
    disk.wipe(spec, host)
    disk.ensure(spec, host, data["image"], mtu, list(data["layers"]))


def names(spec: LabSpec) -> list[str]:
    """Names of the lab's snapshots."""
    return sorted(p.parent.name for p in LabPaths.of(spec).snapshots.glob("*/snapshot.json"))


def drop(spec: LabSpec, name: str) -> None:
    """Remove a snapshot; nothing if not there. Raises LabError while a disk or a snapshot stands on it."""
    lab = LabPaths.of(spec)
    for meta in [*lab.hosts.glob("*/host.json"), *lab.snapshots.glob("*/snapshot.json")]:
        if name in read_json(meta).get("layers", []) and meta.parent != lab.snapshots / name:
            raise LabError(name, f"{meta.parent.name} stands on this snapshot", "", f"reset {meta.parent.name} first")
    shutil.rmtree(lab.snapshots / name, ignore_errors=True)
