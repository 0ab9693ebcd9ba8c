"""What a lab changes on the machine itself, noted before it is changed.

/run/fleet-lab/labs/BRIDGE.json says that a lab is up (or was being brought up),
/run/fleet-lab/sysctl.json what kernel parameters were before the first lab. Both
are void after a reboot, as what they speak of. The last lab to go down puts the
parameters back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from lab import paths
from lab.errors import LabError
from lab.paths import LabPaths
from lab.spec import LabSpec
from lab.system import boot_id, locked, read_json, set_sysctl, sysctl, write_atomic

INOTIFY = "fs.inotify.max_user_instances"
FORWARD = "net.ipv4.ip_forward"
# Each host's systemd takes 8 inotify instances; at the usual 128, about 16 hosts are the end.
WANTED = {INOTIFY: 8192, FORWARD: 1}


def _labs() -> Path:
    return paths.RUNTIME / "labs"


def _noted() -> Path:
    return paths.RUNTIME / "sysctl.json"


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with locked(paths.RUNTIME.with_suffix(".lock"), seconds=60, what="this machine"):
        yield


def notes() -> list[dict[str, str]]:
    """Notes of this boot: the labs that are up."""
    found = [read_json(path) for path in sorted(_labs().glob("*.json"))]
    return [note for note in found if note.get("boot") == boot_id()]


def foreign(spec: LabSpec) -> bool:
    """Whether the lab's bridge is up for another lab: then no host on it is this lab's."""
    note = read_json(_labs() / f"{spec.bridge}.json")
    return note.get("boot") == boot_id() and note.get("base") != str(LabPaths.of(spec).base)


def enter(spec: LabSpec) -> None:
    """Note the lab and raise the kernel parameters. Raises LabError if its bridge or name is taken."""
    base = str(LabPaths.of(spec).base)
    with _locked():
        for note in notes():
            if note["bridge"] == spec.bridge and foreign(spec):
                raise LabError(
                    f"bridge {spec.bridge}",
                    f"another lab uses it: {note['base']}",
                    "one bridge and one network for each lab",
                    "take that lab down, or choose another bridge",
                )
            if note["base"] == base and (note["bridge"], note["network"]) != (spec.bridge, str(spec.network)):
                raise LabError(
                    f"lab {spec.name}",
                    f"it is up as {note['bridge']}, {note['network']}",
                    f"{spec.bridge}, {spec.network}, as {spec.source} says now",
                    "fleet lab down, then up",
                )
        text = {"boot": boot_id(), "base": base, "bridge": spec.bridge, "network": str(spec.network)}
        write_atomic(_labs() / f"{spec.bridge}.json", json.dumps(text))
        if read_json(_noted()).get("boot") != boot_id():
            before = {name: sysctl(name) for name in WANTED}
            write_atomic(_noted(), json.dumps({"boot": boot_id(), **before}))
        for name, value in WANTED.items():
            if int(sysctl(name) or 0) < value:
                set_sysctl(name, str(value))


def leave(bridge: str) -> None:
    """Forget the lab on this bridge; with the last one, put the kernel parameters back."""
    with _locked():
        (_labs() / f"{bridge}.json").unlink(missing_ok=True)
        if notes():
            return
        old = read_json(_noted())
        if old.get("boot") == boot_id():
            for name in WANTED:
                if old.get(name) and sysctl(name) != old[name]:
                    set_sysctl(name, old[name])
        _noted().unlink(missing_ok=True)
        for stale in _labs().glob("*"):
            stale.unlink()
        for directory in (_labs(), paths.RUNTIME):
            with contextlib.suppress(OSError):
                directory.rmdir()
