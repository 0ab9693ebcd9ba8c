"""Where a lab keeps what it has to keep."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lab.spec import LabSpec

# Notes about changes of the machine itself: one place whatever the state root,
# since two labs with different roots share the machine's sysctls.
RUNTIME = Path("/run/fleet-lab")


def state_root() -> Path:
    """FLEET_LAB_STATE, or /var/lib/fleet-lab."""
    return Path(os.environ.get("FLEET_LAB_STATE") or "/var/lib/fleet-lab").absolute()


def cache_root() -> Path:
    """FLEET_LAB_CACHE, or /var/cache/fleet-lab."""
    return Path(os.environ.get("FLEET_LAB_CACHE") or "/var/cache/fleet-lab").absolute()


@dataclass(frozen=True)
class HostPaths:
    """A host's own files."""

    lab: Path
    host: str

    @property
    def base(self) -> Path:
        return self.lab / "hosts" / self.host

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def root(self) -> Path:
        """Mount point of the host's root, in the host's own mount namespace only."""
        return self.base / "root"

    @property
    def meta(self) -> Path:
        return self.base / "host.json"

    @property
    def log(self) -> Path:
        return self.lab / "log" / f"{self.host}.log"

    @property
    def status(self) -> Path:
        """Written by the launcher: how the last run ended."""
        return self.lab / "run" / f"{self.host}.status"

    @property
    def lock(self) -> Path:
        return self.lab / "run" / f"{self.host}.lock"

    @property
    def host_key(self) -> Path:
        return self.lab / "ssh" / "host_keys" / self.host


@dataclass(frozen=True)
class LabPaths:
    """A lab's files: STATE/NAME/."""

    base: Path

    @classmethod
    def of(cls, spec: LabSpec) -> LabPaths:
        return cls(state_root() / spec.name)

    def host(self, host: str) -> HostPaths:
        return HostPaths(self.base, host)

    @property
    def hosts(self) -> Path:
        return self.base / "hosts"

    @property
    def snapshots(self) -> Path:
        return self.base / "snapshots"

    @property
    def lock(self) -> Path:
        return self.base / "run" / "lab.lock"

    @property
    def client_key(self) -> Path:
        return self.base / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.base / "ssh" / "known_hosts"
