"""Which cgroups a host gets, and what runs in them.

Every host needs a cgroup of its own before its container starts: otherwise all
hosts share the caller's, and each host's systemd counts the others' processes.
The tree is fleet-lab/BRIDGE/HOST/ with the leaves `launcher` and `unit`: cgroup
v2 allows processes in leaves only once controllers are on.

Three layouts are known (Documentation/admin-guide/cgroup-v2.rst, systemd's
CGROUP_DELEGATION.md):
- unified: cgroup v2 alone, as with systemd as PID 1 today. We make our tree at
  its top, as Docker's cgroupfs driver does: systemd leaves trees that it did not
  make alone, and no unit of systemd owns ours.
- hybrid: v1 controllers, the named v1 hierarchy `systemd`, and v2 under
  `unified`, without controllers. A host gets a cgroup in both.
- legacy: v1 only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.system import PROC, wait_until

MOUNT = Path("/sys/fs/cgroup")
TREE = "fleet-lab"
LAUNCHER, UNIT, EXEC = "launcher", "unit", "fleet-lab-exec"


@dataclass(frozen=True)
class Layout:
    """The hierarchies in which a host gets a cgroup; the first is the one we read."""

    kind: str
    roots: tuple[Path, ...]
    v2: bool  # hosts see cgroup v2, as a real Debian 12 does

    def path(self, *parts: str) -> Path:
        """A cgroup below our tree, in the hierarchy that we read."""
        return self.roots[0].joinpath(TREE, *parts)

    def paths(self, *parts: str) -> list[Path]:
        """The same cgroup in every hierarchy."""
        return [root.joinpath(TREE, *parts) for root in self.roots]


def detect(mount: Path = MOUNT) -> Layout:
    """Decide by what is mounted. Raises LabError when no layout fits."""
    if (mount / "cgroup.controllers").exists():
        return Layout("unified", (mount,), True)
    named, unified = mount / "systemd", mount / "unified"
    if (named / "cgroup.procs").exists():
        if (unified / "cgroup.controllers").exists():
            return Layout("hybrid", (unified, named), True)
        return Layout("legacy", (named,), False)
    raise LabError(
        "this machine",
        f"no cgroup hierarchy for containers under {mount}",
        "cgroup v2, or v1 with the named hierarchy 'systemd'",
        f"mkdir -p {named} && mount -t cgroup -o none,name=systemd cgroup {named}",
    )


def create(layout: Layout, bridge: str, host: str) -> None:
    """Make the host's cgroups. Raises LabError if the machine refuses."""
    try:
        for leaf in (LAUNCHER, UNIT):
            for path in layout.paths(bridge, host, leaf):
                path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            "this machine",
            f"cannot make a cgroup ({error.filename}: {error.strerror})",
            "a writable cgroup tree",
            "run on a machine or a VM; in a container it takes --privileged and --cgroupns=host",
        ) from None
    if layout.kind == "unified":
        _delegate(layout.roots[0], layout.path(), layout.path(bridge), layout.path(bridge, host))


def _delegate(root: Path, *branches: Path) -> None:
    """Turn controllers on down to the leaves, so that MemoryMax= and the like work in hosts."""
    names = (root / "cgroup.subtree_control").read_text().split()
    wanted = " ".join(f"+{name}" for name in names)
    for branch in branches:
        # Refused in a container's cgroup namespace: hosts then only lack limits.
        with contextlib.suppress(OSError):
            (branch / "cgroup.subtree_control").write_text(wanted)


def pids(layout: Layout, *parts: str) -> list[int]:
    """All processes in a cgroup of ours and below."""
    found: list[int] = []
    for directory, _, files in os.walk(layout.path(*parts)):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                found += [int(p) for p in Path(directory, "cgroup.procs").read_text().split()]
    return found


def init_pid(layout: Layout, bridge: str, host: str) -> int | None:
    """PID 1 of the host as this machine sees it, or None when it does not run."""
    depth = len(_nspid(os.getpid()))
    for pid in pids(layout, bridge, host, UNIT, "payload"):
        nspid = _nspid(pid)
        if len(nspid) == depth + 1 and nspid[-1] == 1:
            return pid
    return None


def _nspid(pid: int) -> list[int]:
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(n) for n in line.split()[1:]]
    except OSError:
        pass
    return []


def children(layout: Layout, *parts: str) -> list[str]:
    """Names of the cgroups directly below one of ours (labs, or a lab's hosts), in any hierarchy."""
    names: set[str] = set()
    for path in layout.paths(*parts):
        with contextlib.suppress(OSError):
            names |= {p.name for p in path.iterdir() if p.is_dir()}
    return sorted(names)


def remove_tree(layout: Layout) -> None:
    """Remove the top of our tree, unless a lab is in it (or is just coming up: so not what is below)."""
    for path in layout.paths():
        with contextlib.suppress(OSError):
            path.rmdir()


def kill(layout: Layout, *parts: str, seconds: float = 20) -> None:
    """SIGKILL all in a cgroup, and wait until none is left. Raises LabError if some stay."""

    def gone() -> bool:
        left = pids(layout, *parts)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    with contextlib.suppress(OSError):  # at once and without races, where the kernel can (5.14)
        (layout.path(*parts) / "cgroup.kill").write_text("1")
    if not wait_until(gone, seconds):
        raise LabError(
            "/".join(parts),
            f"processes {pids(layout, *parts)} stay after SIGKILL",
            "none",
            "see what they wait for: cat /proc/PID/stack",
        )


def remove(layout: Layout, *parts: str, seconds: float = 5) -> None:
    """Remove a cgroup of ours with all below; nothing if not there. Processes must be gone."""

    def gone() -> bool:
        busy = False
        for top in layout.paths(*parts):
            for directory, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    continue
                except OSError:  # a killed process leaves its cgroup a moment after its end
                    busy = True
        return not busy

    if not wait_until(gone, seconds):
        raise LabError("/".join(parts), "the cgroup cannot be removed: something is still in it")
