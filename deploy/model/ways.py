"""How a member of a service is taken out, restarted and brought back: said by the service's role, done by `roll`.

Pure: gates are predicates over what was seen of the members, everything else is shell for a named host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from deploy.model.fleet import Context, Fleet
from deploy.model.observed import Snapshot


@dataclass(frozen=True)
class HealthSeen:
    """One health check of one host. `seconds`: how long its answer took."""

    host: str
    label: str
    well: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class View:
    """What a gate judges by. `seen`: the members and witnesses of the way's service, looked at a moment ago.

    `out`: the member is known to be out (a roll that died left it so), so nothing is asked of it before its restart.
    `leader` None: it cannot be told at the moment, and `dispute` says why. `usual`: (host, label) -> seconds that the
    health check took before the member was touched. `errors`: what the member's units have logged as errors since.
    """

    ctx: Context
    member: str
    seen: Mapping[str, Snapshot]
    health: tuple[HealthSeen, ...] = ()
    leader: str | None = None
    dispute: str = ""
    out: bool = False
    usual: Mapping[tuple[str, str], float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    def counts(self, host: str) -> bool:
        """Whether this member is expected to be well."""
        return not (self.out and host == self.member)


@dataclass(frozen=True)
class Gate:
    """A condition on the whole service. `why_not` gives the reasons why it does not hold; none: it holds.

    `before`, `after`: whether it is asked before a member is touched and once it is back. A gate asked after is also
    what the canary is watched by. `without`: it can be asked although the member is known to be out.
    """

    name: str
    why_not: Callable[[View], Iterable[str]]
    before: bool = True
    after: bool = True
    without: bool = False


@dataclass(frozen=True)
class Act:
    """Shell for one host, as root. The last line it prints is $SAID of the act after it. `seconds`: its time limit."""

    host: str
    script: str = field(repr=False)
    seconds: int = 120


@dataclass(frozen=True)
class Heir:
    """How one member comes to be the one that gets the lead: acts before it is handed over, and others afterwards."""

    prefer: tuple[Act, ...]
    forget: tuple[Act, ...]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one member of a service is rolled.

    `units`: restarted together, in this order, those that are owed it. `cluster`: whoever leads it comes last, and only
    after the lead was handed over. `hand_over`: acts, one after another, of which a failing one is followed by `undo`;
    or the name of a procedure of several hosts, in `handed_over_by`. `heirs`: host -> how it comes to be the one that
    gets the lead, as far as that can be chosen. `never_leads`: no lead is to be handed to this member. `drain`: stages,
    each on all its hosts at once; may be done twice. `undrain`: on all its hosts at once; also where a drain failed.
    `restart`: unit -> shell, where systemd's own restart is not the way. `after_back`: shell after earlier files were
    brought back. `finish`: once, on the last member, when all of them are done. `witnesses`: services whose members are
    looked at as well. `graceful`: nothing is out while it is done. `ahead_of`: the service before which this one is
    rolled, where that is not its place in the catalog.

    `source`: the Debian source package that the units run from. `may_install`: shell that refuses a change of its
    version before anything is touched. `installed`: shell as for `finish`, where versions were changed.
    """

    name: str
    service: str
    units: tuple[str, ...]
    cluster: str = ""
    witnesses: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    drain: tuple[tuple[Act, ...], ...] = ()
    undrain: tuple[Act, ...] = ()
    hand_over: tuple[Act, ...] = ()
    undo: tuple[Act, ...] = ()
    handed_over_by: str = ""
    heirs: Mapping[str, Heir] = field(default_factory=dict)
    never_leads: bool = False
    restart: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    may_install: str = ""
    installed: str = ""
    after_back: str = ""
    finish: str = ""
    graceful: bool = False
    ahead_of: str = ""
    zone: str = ""

    @property
    def moves(self) -> bool:
        """Whether the lead can be handed over."""
        return bool(self.hand_over or self.handed_over_by)

    def looked_at(self, fleet: Fleet) -> list[str]:
        """The hosts of its service's members and of its witnesses."""
        services = (self.service, *self.witnesses)
        return [host.name for host in fleet.hosts if any(host.has(service) for service in services)]

    def needs(self, fleet: Fleet) -> list[str]:
        """All hosts that it is rolled with: those that are looked at, and those where something is done for it."""
        heirs = [act for heir in self.heirs.values() for act in (*heir.prefer, *heir.forget)]
        acts = [*(act for stage in self.drain for act in stage), *self.undrain, *self.hand_over, *self.undo, *heirs]
        needed = {*self.looked_at(fleet), *(act.host for act in acts)}
        return [host.name for host in fleet.hosts if host.name in needed]
