"""Can this machine run the lab? Says what is missing and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import host, inside, network
from lab.errors import LabError
from lab.paths import cache_root, state_root
from lab.spec import LabSpec
from lab.system import PROC, memory_available_mib, run

# program -> Debian package
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
# With it mmdebstrap checks what it fetches; Ubuntu has it not by itself.
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_MIB = 256  # memory to have for each host to be started
DISK_MIB = 1024  # disk for the base image and its making ...
HOST_DISK_MIB = 512  # ... and for each host's own packages and data


def missing_packages(which: Callable[[str], str | None] = shutil.which, keyring: Path = DEBIAN_KEYRING) -> list[str]:
    """Debian packages of the tools that are not here."""
    missing = {package for tool, package in TOOLS.items() if which(tool) is None}
    if not keyring.exists():
        missing.add("debian-archive-keyring")
    return sorted(missing)


def check(spec: LabSpec, starting: int, *, install: bool, progress: Callable[[str], None]) -> None:
    """Raise LabError for the first reason why `starting` hosts cannot be started."""
    check_root()
    if missing := missing_packages():
        if not install and os.environ.get("FLEET_LAB_INSTALL", "").lower() not in ("1", "true", "yes"):
            raise LabError(
                "this machine",
                "missing: " + ", ".join(missing),
                "the lab's tools",
                f"apt-get install {' '.join(missing)}   (or: fleet lab up --install)",
            )
        install_packages(missing, progress)
    for path in (state_root(), cache_root()):
        if set(str(path)) & set(":,\\"):
            raise LabError(str(path), "a path with ':', ',' or '\\' cannot hold overlay layers", "", "another path")
    check_overlay()
    host.check_tools_work()
    inside.layout()
    check_memory(starting, memory_available_mib())
    check_disk(starting)
    network.check_free(spec)


def check_root() -> None:
    if os.geteuid() != 0:
        raise LabError(
            "this machine",
            "not root",
            "root: the lab makes namespaces, mounts and interfaces",
            "the same command with sudo",
        )


def install_packages(packages: list[str], progress: Callable[[str], None]) -> None:
    """Install Debian packages with apt-get."""
    progress("apt-get install " + " ".join(packages))
    for argv in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                text=True,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise LabError(
                "this machine",
                "no apt-get",
                "Debian or Ubuntu",
                f"install by your system's means: {', '.join(packages)}",
            ) from None
        if done.returncode != 0:
            raise LabError("this machine", f"{' '.join(argv)}: {done.stderr.strip()[-600:]}")


def check_overlay(filesystems: Path = PROC / "filesystems") -> None:
    """Raise LabError if the kernel has no overlayfs (a module is loaded if there is one)."""
    if "overlay" in filesystems.read_text().split():
        return
    run(["modprobe", "overlay"], check=False) if shutil.which("modprobe") else None
    if "overlay" not in filesystems.read_text().split():
        raise LabError("this machine", "the kernel has no overlayfs", "CONFIG_OVERLAY_FS", "modprobe overlay")


def check_memory(starting: int, available_mib: int) -> None:
    need = starting * HOST_MIB
    if available_mib < need:
        raise LabError(
            "this machine",
            f"{available_mib} MiB of memory available",
            f"{need} MiB for {starting} hosts",
            "name fewer hosts: fleet lab up --host NAME, or free memory",
        )


def check_disk(starting: int) -> None:
    for path, need in ((state_root(), starting * HOST_DISK_MIB), (cache_root(), DISK_MIB)):
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free // 2**20
        if free < need:
            raise LabError(
                str(path),
                f"{free} MiB free",
                f"{need} MiB",
                "free some, or set FLEET_LAB_STATE and FLEET_LAB_CACHE to a larger disk",
            )
