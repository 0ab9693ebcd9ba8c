"""What a host was seen to be: the answer to one look, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FileState:
    """A path that exists. `kind` is what stat calls it; `sha256` is empty for what is not a regular file."""

    kind: str
    owner: str
    group: str
    mode: int
    sha256: str = ""
    target: str = ""


@dataclass(frozen=True)
class PackageState:
    version: str
    installed: bool
    held: bool


@dataclass(frozen=True)
class AccountState:
    home: str
    shell: str
    groups: frozenset[str]


@dataclass(frozen=True)
class UnitState:
    """As `systemctl show` says. `stamps` maps path -> hash of what it loaded at its last start or reload."""

    load: str
    active: str
    sub: str
    file_state: str
    needs_daemon_reload: bool
    main_pid: int
    since: int
    stamps: Mapping[str, str]

    @property
    def running(self) -> bool:
        return self.active in {"active", "reloading"}

    @property
    def starting(self) -> bool:
        """On its way to run, or waiting for systemd's next try."""
        return self.active == "activating"


@dataclass(frozen=True)
class CertificateState:
    """The installed certificate (PEM, empty if none) and the hash of the installed key's public half."""

    pem: str
    key_sha256: str


@dataclass(frozen=True)
class Answer:
    """What a Query printed: name -> value; or why it could not be asked."""

    values: Mapping[str, str]
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(frozen=True)
class HostFactsSeen:
    """Bytes; `clock` in seconds since 1970, as the host has it; `kept`: units of which earlier files are kept.

    `unsigned`: where apt is told to take packages that nobody signed, as `FILE: OPTION` or an option of its own.
    """

    os: str
    version: str
    memory: int
    disk_free: int
    clock: float = 0.0
    kept: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """One look at one host."""

    host: str
    facts: HostFactsSeen
    files: Mapping[str, FileState] = field(default_factory=dict)
    packages: Mapping[str, PackageState] = field(default_factory=dict)
    accounts: Mapping[str, AccountState] = field(default_factory=dict)
    units: Mapping[str, UnitState] = field(default_factory=dict)
    certificates: Mapping[str, CertificateState] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)

    def since(self, part: Snapshot) -> Snapshot:
        """This, with what a later look at a part of the same host has seen."""
        return Snapshot(
            self.host, part.facts, {**self.files, **part.files}, {**self.packages, **part.packages},
            {**self.accounts, **part.accounts}, {**self.units, **part.units},
            {**self.certificates, **part.certificates}, {**self.answers, **part.answers},
        )  # fmt: skip
