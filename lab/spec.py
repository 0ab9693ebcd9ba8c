"""What a lab is: `inventories/NAME/lab.toml`, checked and frozen."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lab.errors import LabError

INVENTORIES = Path(__file__).resolve().parent.parent / "inventories"
SUITES = ("bookworm", "trixie")

# A host's name is also part of an interface's, a cgroup's and a directory's.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_BRIDGE = re.compile(r"[a-z][a-z0-9-]*")
_BRIDGE_MAX = 15  # bytes of an interface's name in Linux (IFNAMSIZ - 1)
_NAME_MAX = 32
_KEYS = {"bridge", "network", "suite", "hosts"}


@dataclass(frozen=True)
class LabSpec:
    """A lab: its name, its bridge and network, and its hosts' addresses."""

    name: str
    bridge: str
    network: ipaddress.IPv4Network
    suite: str
    hosts: Mapping[str, ipaddress.IPv4Address]
    source: str = "lab.toml"

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The bridge's own address: the first of the network."""
        return self.network.network_address + 1

    @property
    def table(self) -> str:
        """Name of the nft table (which allows no dash)."""
        return "fleet_lab_" + self.bridge.replace("-", "_")

    def machine(self, host: str) -> str:
        """Name of the container: unique on this machine, whatever labs run."""
        return f"{self.bridge}-{host}"

    def address(self, host: str) -> str:
        """The host's address. Raises LabError for a host that the lab has not."""
        self.check_host(host)
        return str(self.hosts[host])

    def check_host(self, host: str) -> None:
        """Raise LabError unless the lab has this host."""
        if host not in self.hosts:
            raise LabError(
                host,
                f"the lab {self.name!r} has no host of this name",
                "one of " + ", ".join(self.hosts),
                f"correct the name, or add it to {self.source}",
            )

    def select(self, hosts: list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
        """The named hosts (all for None), in the order of the inventory."""
        for host in hosts or ():
            self.check_host(host)
        return tuple(h for h in self.hosts if hosts is None or h in hosts)

    @classmethod
    def parse(cls, name: str, data: Mapping[str, Any], source: str = "lab.toml") -> LabSpec:
        """Check a parsed lab.toml. Raises LabError naming the first thing wrong."""

        def wrong(found: str, expected: str) -> LabError:
            return LabError(source, found, expected, "correct the file")

        if len(name) > _NAME_MAX or not _NAME.fullmatch(name):
            raise wrong(f"the folder's name {name!r} cannot name a lab", "lower-case letters, digits, dashes")
        if unknown := sorted(set(data) - _KEYS):
            raise wrong(f"unknown key {unknown[0]!r}", "only " + ", ".join(sorted(_KEYS)))
        if missing := sorted(_KEYS - set(data)):
            raise wrong(f"no {missing[0]!r}", "the keys " + ", ".join(sorted(_KEYS)))
        bridge, suite = data["bridge"], data["suite"]
        if not isinstance(bridge, str) or not _BRIDGE.fullmatch(bridge) or len(bridge) > _BRIDGE_MAX:
            raise wrong(
                f"bridge {bridge!r}",
                f"at most {_BRIDGE_MAX} lower-case letters, digits, dashes; a letter first",
            )
        if suite not in SUITES:
            raise wrong(f"suite {suite!r}", "one of " + ", ".join(SUITES))
        try:
            network = ipaddress.IPv4Network(data["network"])
        except (ValueError, TypeError) as error:
            raise wrong(f"network {data['network']!r}: {error}", 'an IPv4 network, as "10.77.0.0/24"') from None
        if not 16 <= network.prefixlen <= 29 or not network.is_private:
            raise wrong(f"network {network}", "a private network of /16 to /29")
        return cls(name, bridge, network, suite, _parse_hosts(data["hosts"], network, wrong), source)

    @classmethod
    def load(cls, inventory: str | Path) -> LabSpec:
        """Read the lab of an inventory: a name under inventories/, or a folder's path."""
        folder = _folder(inventory)
        path = folder / "lab.toml"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            known = ", ".join(sorted(p.parent.name for p in INVENTORIES.glob("*/lab.toml"))) or "none"
            raise LabError(
                str(inventory),
                f"no lab here: {path}: {error.strerror}",
                f"an inventory with a lab.toml (known: {known})",
                "give a known name, or a path to a folder",
            ) from None
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise LabError(str(path), f"not TOML: {error}", "", "correct the file") from None
        return cls.parse(folder.resolve().name, data, str(path))


def _folder(inventory: str | Path) -> Path:
    text = str(inventory)
    if "/" in text or text in (".", ".."):
        return Path(text)
    return INVENTORIES / text


def _parse_hosts(raw: object, network: ipaddress.IPv4Network, wrong: Any) -> Mapping[str, ipaddress.IPv4Address]:
    if not isinstance(raw, dict) or not raw:
        raise wrong("no hosts", "a table [hosts] of name = address")
    hosts: dict[str, ipaddress.IPv4Address] = {}
    for name, text in raw.items():
        if len(name) > _NAME_MAX or not _NAME.fullmatch(name):
            raise wrong(f"host name {name!r}", "lower-case letters, digits and inner dashes; a letter first")
        try:
            address = ipaddress.IPv4Address(text)
        except (ValueError, TypeError):
            raise wrong(f"{name}: address {text!r}", "an IPv4 address") from None
        if address not in network:
            raise wrong(f"{name}: address {address}", f"an address in {network}")
        if address in (network.network_address, network.network_address + 1, network.broadcast_address):
            raise wrong(f"{name}: address {address}", "neither the network, its gateway (.1), nor its broadcast")
        if taken := next((n for n, a in hosts.items() if a == address), None):
            raise wrong(f"{name}: address {address} is {taken}'s already", "one address for each host")
        hosts[name] = address
    return MappingProxyType(hosts)
