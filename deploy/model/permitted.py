"""Which names a certificate of the fleet may bear: what the CA is constrained to (RFC 5280, 4.2.1.10). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from deploy.model.fleet import Fleet

OWN = ("localhost", "127.0.0.1/32")
"""Of every host, so that it reaches its own services by TLS."""


def permitted(fleet: Fleet) -> tuple[str, ...]:
    """What the inventory allows (trust.permitted) and what the catalog needs besides; empty: anything."""
    chosen = fleet.hosts[0].settings.trust.permitted
    services = (name for service in fleet.profile.services for name in service.names)
    return tuple(dict.fromkeys((*chosen, *services, *OWN))) if chosen else ()


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """A network, or an address as one of its own; None for a name."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def outside(allowed: Iterable[str], names: Iterable[str], addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of a certificate's names and addresses that are not allowed. A name allows all that end in it as well."""
    allowed = tuple(allowed)
    if not allowed:
        return ()
    networks = [one for one in map(network, allowed) if one]
    domains = [one for one in allowed if not network(one)]
    return (
        *(name for name in names if not any(name == one or name.endswith(f".{one}") for one in domains)),
        *(text for text in addresses if not any(ipaddress.ip_address(text) in one for one in networks)),
    )
