"""What the settings let cross the network in the clear, for whoever reads a plan. Pure."""

from __future__ import annotations

from deploy.model.fleet import Fleet

TURNED_OFF: tuple[tuple[str, str, str], ...] = (
    ("redis", "redis.tls", "sessions, the cache, replication and the passwords of Redis and Sentinel"),
    ("rabbitmq", "rabbitmq.tls", "messages, the management API and the passwords of the broker's users"),
    ("rabbitmq", "rabbitmq.inter_node_tls", "messages among the broker's members"),
    ("mysql", "mysql.tls", "queries, their results and replication"),
)
"""(service, the setting that turns its TLS off, what is sent as it is then)."""


def cleartext(fleet: Fleet) -> list[tuple[str, str]]:
    """(service, warning) for each service whose setting turns TLS off; none where nothing leaves a host."""
    found = []
    for service, setting, what in TURNED_OFF:
        off = [host for host in fleet.members(service) if not host.settings.named(setting)]
        if off and len(fleet.hosts) > 1:
            found.append((service, f"{setting} is off: {what} cross the network in the clear"))
    return found
