"""The fleet as an inventory describes it: hosts, their services, their settings. Pure data."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from deploy.errors import FleetError, FleetErrors
from deploy.model.catalog import ANYONE, CATALOG, RELEASES, Port, Release, Service, Tls, settled
from deploy.model.profiles import PROFILES, REFERENCE, Profile
from deploy.model.resources import Waiver
from deploy.model.secrets import Credential, account
from deploy.model.settings import Settings

CONNECTOR_PREFIXES = ("ssh_", "_", "docker_", "local_", "vagrant_")
"""Keys of a host's data that belong to pyinfra's connectors and global arguments, not to us."""


@dataclass(frozen=True)
class HostInput:
    """One host as the inventory gives it: its groups and its merged data."""

    groups: frozenset[str]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class HostSpec:
    """One host of the fleet."""

    name: str
    address: str
    services: tuple[Service, ...]
    settings: Settings

    def has(self, service: str) -> bool:
        return any(own.name == service for own in self.services)

    def mutual(self, port: Port) -> bool:
        """Whether this port has TLS here, as the settings are."""
        return port.tls is Tls.MUTUAL and (not port.setting or bool(self.settings.named(port.setting)))

    def local(self, service: Service, name: str) -> int:
        """The number by which the host itself asks this port, without TLS where it can."""
        port = service.port(name)
        return service.port(port.plain).number if port.plain and self.mutual(port) else port.number

    def own(self, service: str) -> Service:
        """One of its services, as its settings have it."""
        return next(own for own in self.services if own.name == service)


@dataclass(frozen=True)
class Fleet:
    """All hosts, in the inventory's order."""

    name: str
    hosts: tuple[HostSpec, ...]
    profile: Profile = REFERENCE
    _index: Mapping[str, HostSpec] = field(repr=False, compare=False, default_factory=dict)

    def host(self, name: str) -> HostSpec:
        return self._index[name]

    def members(self, service: str) -> tuple[HostSpec, ...]:
        """The hosts that have this service, first boot's leader first."""
        return tuple(host for host in self.hosts if host.has(service))

    def services(self) -> tuple[Service, ...]:
        """The catalog's services that have a host here, in start order."""
        return tuple(service for service in self.profile.services if self.members(service.name))

    def witnesses(self) -> frozenset[str]:
        """Members of replicated services and who watches them: asked in every run, so that none works from a part of
        the truth.
        """
        return frozenset(
            host.name
            for service in self.services()
            if service.replicated or service.watches
            for host in self.members(service.name)
        )

    def sources(self, service: Service, port: Port, host: HostSpec) -> tuple[str, ...] | None:
        """Addresses and networks that may connect to this port of this host; None means any address."""
        if ANYONE in port.clients:
            return None
        clients = set(port.clients) | ({service.name} if port.peers else set())
        hosts = tuple(
            other.address
            for other in self.hosts
            if other.name != host.name and any(other.has(client) for client in clients)
        )
        return hosts + (tuple(host.settings.named(port.networks)) if port.networks else ())


@dataclass(frozen=True)
class Cluster:
    """What the members of a cluster were seen to be. `leader` None: none of them has ever run.

    `empty` are members proven to hold nothing: new, or made anew after their disk was lost. `encrypted`: nobody needs
    to reach them in plain text any more, so that it can be shut out. `otherwise` serve clients with TLS although their
    settings say without, or the other way: they have not been restarted since. `links`: how the members that run talk
    to one another, `tls` or `plain`; empty if none runs.
    """

    leader: str | None
    empty: frozenset[str] = frozenset()
    encrypted: bool = False
    otherwise: frozenset[str] = frozenset()
    links: str = ""


@dataclass(frozen=True)
class Standing:
    """How one member of a cluster stands, for people: its role, and what it says of the others."""

    cluster: str
    host: str
    role: str
    well: bool
    detail: str = ""


@dataclass(frozen=True)
class Live:
    """Who leads each cluster, as its members said when they were looked at.

    Before the first boot it is the first member of the inventory, all are empty, and `proven` lacks the cluster.
    `encrypted`: the clusters that shut out plain text, where their settings have TLS; a new one does so at once.
    """

    leaders: Mapping[str, str]
    proven: frozenset[str] = frozenset()
    empty: Mapping[str, frozenset[str]] = field(default_factory=dict)
    encrypted: frozenset[str] = frozenset()
    otherwise: Mapping[str, frozenset[str]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """The last two as in Cluster."""

    @staticmethod
    def first_boot(fleet: Fleet) -> Live:
        members = {
            cluster: [host.name for host in fleet.members(service.name)]
            for service in fleet.profile.services
            for cluster in service.clusters
            if fleet.members(service.name)
        }
        return Live(
            {cluster: names[0] for cluster, names in members.items()},
            empty={cluster: frozenset(names) for cluster, names in members.items()},
            encrypted=frozenset(members),
        )


@dataclass(frozen=True)
class Context:
    """What a role is given to say what its host should be."""

    fleet: Fleet
    host: HostSpec
    live: Live
    authority: str
    """The certificate of the CA, PEM; of both while it changes."""
    secret: Callable[[str], str]
    render: Callable[..., str]
    files: Callable[[str], Mapping[str, bytes]]
    release: Release = RELEASES["12"]
    revocations: str = ""
    """The CA's revocation list, PEM; of both while it changes."""
    revocations_due: str = ""
    """Why the CA has to sign another before this one goes out; empty if it has not."""
    accepted: Callable[[str], tuple[Credential, ...]] | None = None
    """What servers take of a secret: two values while it changes. `secret` is what clients come with."""

    def accepts(self, name: str) -> tuple[Credential, ...]:
        """The values of a secret that its servers take, at least the one that clients come with."""
        return self.accepted(name) if self.accepted else (Credential(self.secret(name)),)

    def login(self, user: str, name: str) -> tuple[str, str]:
        """(account, password) that a client comes with where a server keeps one password for each account."""
        used = self.secret(name)
        turn = next(one.turn for one in self.accepts(name) if one.value == used)
        return account(user, turn), used

    @property
    def settings(self) -> Settings:
        return self.host.settings

    def leads(self, cluster: str) -> bool:
        return self.live.leaders.get(cluster) == self.host.name

    def leader(self, cluster: str) -> HostSpec:
        return self.fleet.host(self.live.leaders[cluster])

    def is_empty(self, cluster: str) -> bool:
        """Whether this host was proven to hold nothing of the cluster."""
        return self.host.name in self.live.empty.get(cluster, frozenset())


def build(name: str, hosts: Mapping[str, HostInput]) -> Fleet:
    """The fleet of an inventory.

    Raises:
        FleetErrors: with one FleetError for each thing that is wrong.
    """
    problems: list[FleetError] = []
    specs: list[HostSpec] = []
    for host_name, given in hosts.items():
        try:
            specs.append(_host(host_name, given))
        except FleetErrors as error:
            problems.extend(error.errors)
    if problems:
        raise FleetErrors(problems)
    profile = PROFILES[specs[0].settings.profile] if specs else REFERENCE
    return Fleet(name, tuple(specs), profile, {spec.name: spec for spec in specs})


def _host(name: str, given: HostInput) -> HostSpec:
    data = {key: value for key, value in given.data.items() if not key.startswith(CONNECTOR_PREFIXES) and key != "name"}
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise FleetErrors(_setting_errors(name, error)) from None
    address = settings.machine.address or given.data.get("ssh_hostname") or name
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise FleetErrors(
            [
                FleetError(
                    host=name,
                    subject="machine.address",
                    found=repr(address),
                    expected="an IP address that the other hosts can reach",
                    hint="set machine = {'address': '...'} for the host, or an address as ssh_hostname",
                )
            ]
        ) from None
    unknown = given.groups - set(_GROUPS) - {"all", "inventory"}
    if unknown:
        raise FleetErrors(
            [
                FleetError(
                    host=name,
                    subject="groups",
                    found=", ".join(sorted(unknown)),
                    expected=f"groups named after services: {', '.join(_GROUPS)}",
                    hint="rename the group, or give it the name of a service",
                )
            ]
        )
    services = tuple(
        settled(service, lambda name: bool(settings.named(name)))
        for service in PROFILES[settings.profile].services
        if service.group == "all" or given.groups & service.groups
    )
    return HostSpec(name, str(address), services, settings)


_GROUPS = tuple(group for service in CATALOG if service.chosen for group in service.groups)


def _setting_errors(host: str, error: ValidationError) -> list[FleetError]:
    found = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        unknown = item["type"] == "extra_forbidden"
        found.append(
            FleetError(
                host=host,
                subject=where,
                found=repr(item["input"]) if not unknown else "an unknown setting",
                expected=_known(item["loc"]) if unknown else item["msg"].removeprefix("Value error, "),
                hint="correct it in the inventory's group_data or host data",
            )
        )
    return found


def _known(location: tuple[int | str, ...]) -> str:
    fields = Settings.model_fields
    if len(location) > 1 and str(location[0]) in fields:
        section = fields[str(location[0])].annotation
        names = getattr(section, "model_fields", {})
        return f"one of {', '.join(names)}"
    return f"a section: {', '.join(fields)}"


def waivers(host: HostSpec) -> tuple[Waiver, ...]:
    """The host's declared exceptions."""
    return tuple(Waiver(item.what, item.why) for item in host.settings.waivers)
