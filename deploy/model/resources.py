"""What a host should be, as data.

A role turns settings into a list of these; `converge` asks the host about them and acts on the difference. Nothing
here opens a file or speaks to a host. Shell fragments are POSIX sh, run as root with `set -eu`; they arrive on the
shell's standard input, so a secret in them never appears in a process list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum


class StepClass(Enum):
    """How a step touches what is running; decided by the resource's definition, never by the operator."""

    CREATE = "create"
    WRITE = "write"
    HOT = "hot"
    RELOAD = "reload"
    RESTART = "restart"


class Phase(IntEnum):
    """Order within a role; every host finishes a phase of a role before any host begins the next."""

    PACKAGES = 0
    ACCOUNTS = 1
    FILES = 2
    UNITS = 3
    STATE = 4
    MEMBERS = 5
    LAST = 6
    """What shuts somebody out, once every member is what it should be."""


PREVIOUS = "/var/lib/fleet/previous"
"""Where the last content of a file with `keep` lies, under its own path."""

STAMP_TOOL = "/usr/local/lib/fleet/stamp"
"""Notes what a unit has loaded (see Unit)."""

STAMPS = "/run/fleet/stamps"
"""Where it notes that: a file for each unit, of lines of `hash<TAB>path`."""

ROLLING = "/var/lib/fleet/rolling"
"""While a rolling unit is owed a restart, ROLLING/UNIT/files has what it had loaded, under the files' own paths, and
ROLLING/UNIT/since says when the first of them was overwritten (seconds since 1970). ROLLING/UNIT/packages has the
packages that it ran from, where a roll changes those."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Base of everything desired of a host. `role` is filled in by the engine from the module that produced it."""

    role: str = ""

    @property
    def key(self) -> str:
        """Unique on a host, and what `plan` and `drift` call it."""
        raise NotImplementedError

    @property
    def order(self) -> Phase:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Package(Resource):
    """A Debian package: installed and not on hold. `version` pins it exactly (None: what the suite has).

    `source`: the source package that it is built from, where that has another name: its packages change together.
    `units`: the rolling units that run from it (filled in by the engine): while one of them runs, another version is
    `roll`'s to install.
    """

    name: str
    version: str | None = None
    source: str = ""
    units: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"package:{self.name}"

    @property
    def origin(self) -> str:
        return self.source or self.name

    @property
    def order(self) -> Phase:
        return Phase.PACKAGES


@dataclass(frozen=True, kw_only=True)
class File(Resource):
    """A regular file with exactly this content, owner and mode; or its absence.

    `check` is a shell test of the candidate ($CANDIDATE, beside the target) that must succeed before the candidate
    is renamed over the target. `secret` hides the content from plans. `once` is for files that a server owns and
    rewrites after their birth: created when missing, never compared. `keep` puts a copy of what was there before
    into PREVIOUS, for a guarded step to go back to. `kept_for` are the rolling units that load it at their start
    (filled in by the engine): for each, what it has loaded is put into ROLLING, for `roll` to go back to.
    """

    path: str
    content: str = field(default="", repr=False)
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    check: str = ""
    secret: bool = False
    absent: bool = False
    once: bool = False
    keep: bool = False
    kept_for: tuple[str, ...] = ()
    phase: Phase = Phase.FILES

    @property
    def key(self) -> str:
        return f"file:{self.path}"

    @property
    def order(self) -> Phase:
        return self.phase

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Revocations(File):
    """The CA's revocation list. `due`: why the controller signs another one before it writes this."""

    due: str = ""


@dataclass(frozen=True, kw_only=True)
class Directory(Resource):
    """A directory with this owner and mode; its content is others' business."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755
    phase: Phase = Phase.ACCOUNTS

    @property
    def key(self) -> str:
        return f"directory:{self.path}"

    @property
    def order(self) -> Phase:
        return self.phase


@dataclass(frozen=True, kw_only=True)
class Link(Resource):
    """A symbolic link to exactly this target."""

    path: str
    target: str
    phase: Phase = Phase.FILES

    @property
    def key(self) -> str:
        return f"link:{self.path}"

    @property
    def order(self) -> Phase:
        return self.phase


@dataclass(frozen=True, kw_only=True)
class Account(Resource):
    """A system user with its own primary group, and membership in `groups`."""

    name: str
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"
    groups: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"account:{self.name}"

    @property
    def order(self) -> Phase:
        return Phase.ACCOUNTS


@dataclass(frozen=True, kw_only=True)
class Certificate(Resource):
    """A key made on the host and never leaving it, and a certificate for it signed by the inventory's CA.

    `days` is asked for; `renew_days` before the end it counts as due. `reload` are units told to load a new pair.
    """

    name: str
    directory: str
    common_name: str
    role_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    server_auth: bool
    client_auth: bool
    owner: str
    group: str
    key_type: str = "rsa2048"
    days: int = 365
    renew_days: int = 30

    @property
    def key(self) -> str:
        return f"certificate:{self.certificate_path}"

    @property
    def certificate_path(self) -> str:
        return f"{self.directory}/{self.name}.crt"

    @property
    def key_path(self) -> str:
        return f"{self.directory}/{self.name}.key"

    @property
    def order(self) -> Phase:
        return Phase.FILES


@dataclass(frozen=True, kw_only=True)
class Unit(Resource):
    """A systemd unit and what it has loaded.

    `reload_files` and `restart_files` are stamped when the unit starts or reloads: a file whose hash is not the
    stamped one is owed a reload or a restart, whoever wrote it. `rolling` units are never restarted by `apply`;
    the debt is reported and paid by `roll`. A oneshot unit counts as running when it has exited well. `start_files`
    are read at its start as well, but the server itself says what it runs with (see Parameter), so they are not
    stamped. `returns`: it ends by itself whenever its far end is away, and systemd starts it again and again, so a
    moment between two tries is no difference. `tries`: how often it is started until it runs, since members that start
    at once may refuse one another. `guard`: shell that goes back by itself if the controller cannot log in again after
    a reload (see Guard).
    """

    name: str
    running: bool = True
    enabled: bool = True
    masked: bool = False
    reload_files: tuple[str, ...] = ()
    restart_files: tuple[str, ...] = ()
    start_files: tuple[str, ...] = ()
    rolling: bool = False
    returns: bool = False
    tries: int = 1
    guard: str = ""
    phase: Phase = Phase.UNITS

    @property
    def key(self) -> str:
        return f"unit:{self.name}"

    @property
    def order(self) -> Phase:
        return self.phase


@dataclass(frozen=True)
class Query:
    """One question to a host, asked once for all the parameters that depend on it.

    `script` prints lines of `name<TAB>value` (the value up to the end of the line). A non-zero exit means that the
    host could not be asked, which is not the same as an empty answer; mind that a pipeline's exit code is that of its
    last command. `unit` is the service that answers: while it is not running, no answer is no error.
    """

    id: str
    script: str
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Parameter(Resource):
    """A named value read from a running system by a Query, and the way to set it.

    `want` None: the name must not be there. `act` is the shell that makes it so; empty with step RESTART means that
    only a restart can. `loads` are files whose change makes it due as well. `at_start`: the service takes it from
    its configuration when it starts, so nothing is to be done for one that does not run yet. `guard` as for a Unit.
    `writes` are files that `act` changes; `kept_for` as for a File. `unit`: whose restart brings it, where another than
    the query's unit is meant.
    """

    query: Query
    name: str
    want: str | None = field(repr=False)
    act: str = field(default="", repr=False)
    step: StepClass = StepClass.HOT
    rolling: bool = True
    secret: bool = False
    loads: tuple[str, ...] = ()
    at_start: bool = False
    guard: str = ""
    writes: tuple[str, ...] = ()
    kept_for: tuple[str, ...] = ()
    unit: str = ""
    phase: Phase = Phase.STATE
    label: str = ""

    @property
    def key(self) -> str:
        return self.label or f"{self.query.id}:{self.name}"

    @property
    def order(self) -> Phase:
        return self.phase


@dataclass(frozen=True)
class Parcel:
    """A file of the controller's for a host. `source`: relative to the inventory's folder, or absolute. `path`: where
    it lies on the host until the act that takes it has ended.
    """

    source: str
    sha256: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Delivery(Parameter):
    """A Parameter whose act takes files that are too large for a script: they are sent before it."""

    parcels: tuple[Parcel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Only(Resource):
    """No names in this query's answer that start with `prefix` but these; `act` removes the one called $NAME."""

    query: Query
    prefix: str
    names: frozenset[str]
    act: str = field(repr=False)
    phase: Phase = Phase.STATE

    @property
    def key(self) -> str:
        return f"{self.query.id}:{self.prefix}*"

    @property
    def order(self) -> Phase:
        return self.phase


@dataclass(frozen=True)
class Waiver:
    """A parameter that a host of this inventory cannot take: declared there, shown by plan and status."""

    what: str
    why: str


@dataclass(frozen=True)
class HostState:
    """Everything desired of one host, in the order in which it is to be made so."""

    host: str
    resources: tuple[Resource, ...]
    waivers: tuple[Waiver, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
