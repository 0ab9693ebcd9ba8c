"""Take a lab down and leave nothing behind, whatever state it is in.

What to remove is read from the system: cgroups, processes by the container's
name, the bridge, the nft table, and the notes of `machine`, written before
anything was changed. So it also cleans up after an `up` that was killed.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from lab import cgroups, disk, host, image, inside, machine, network
from lab.errors import LabError
from lab.locks import on_lab
from lab.paths import LabPaths, state_root
from lab.progress import Progress, Reporter, each
from lab.spec import LabSpec


def down(spec: LabSpec, progress: Progress | None = None, *, keep: bool = False) -> None:
    """Take the lab down and leave nothing running or changed, whatever state it is in.

    The hosts' disks go too, unless `keep`: then hosts are powered off in order and the next `up` goes
    on with them. Keys, snapshots, logs and the package cache always stay.
    """
    report = Reporter(progress)
    with on_lab(spec):
        mine = str(LabPaths.of(spec).base)
        notes = machine.notes()
        for note in notes:  # its lab.toml may have been changed since it came up
            if note["base"] == mine and note["bridge"] != spec.bridge:
                _down(_of_note(note), report, keep=keep)
        if machine.foreign(spec):
            return  # what is up on this bridge is not this lab's
        _down(spec, report, keep=keep)


def _down(spec: LabSpec, report: Reporter, *, keep: bool) -> None:
    here = inside.layout()
    disks = {path.name for path in LabPaths.of(spec).hosts.glob("*")}
    names = sorted({*spec.hosts, *disks, *cgroups.children(here, spec.bridge)})
    everyone = replace(spec, hosts={name: spec.hosts.get(name, spec.gateway) for name in names})

    def end(name: str) -> None:
        ran = host.active(everyone, name)
        if keep:
            with contextlib.suppress(LabError):  # what does not end in order is cut below
                host.stop(everyone, name)
        host.power_cut(everyone, name)
        if ran:
            report("down", name, True)

    each(names, end)
    if new := disk.harvest(spec):
        report(f"kept {new} downloaded packages for later hosts")
    if not keep:
        for name in names:
            disk.wipe(spec, name)
    image.sweep_if_idle()
    network.remove(spec)
    cgroups.remove(here, spec.bridge)
    cgroups.remove_tree(here)
    machine.leave(spec.bridge)


def all_up() -> list[LabSpec]:
    """The labs of this state root that are up (without their hosts' addresses)."""
    return [_of_note(note) for note in machine.notes() if Path(note["base"]).parent == state_root()]


def _of_note(note: dict[str, str]) -> LabSpec:
    return LabSpec(Path(note["base"]).name, note["bridge"], IPv4Network(note["network"]), "", {})
