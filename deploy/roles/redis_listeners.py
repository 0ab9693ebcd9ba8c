"""Where Redis and Sentinel listen, and how they speak to their like: the same file at the start, the same values while
they run.
"""

from __future__ import annotations

from deploy.model.catalog import SERVICES
from deploy.model.fleet import HostSpec
from deploy.roles.common import CA_FILE, CIPHERS, pair
from deploy.roles.redis_cli import owner

PROTOCOLS = "TLSv1.2 TLSv1.3"


def listeners(host: HostSpec, name: str) -> dict[str, str]:
    """The parameters, in an order in which a running server takes them: what it leaves comes before what it takes."""
    service = SERVICES[owner(name)]
    port = service.port(name)
    if not host.mutual(port):
        return {"tls-replication": "no", "tls-port": "0", "port": str(port.number)}
    certificate, key = pair(service.name)
    return {
        "tls-cert-file": certificate,
        "tls-key-file": key,
        "tls-ca-cert-file": CA_FILE,
        "tls-auth-clients": "yes",
        "tls-protocols": PROTOCOLS,
        "tls-ciphers": CIPHERS,
        "tls-prefer-server-ciphers": "yes",
        "tls-replication": "yes",
        "port": str(host.local(service, name)),
        "tls-port": str(port.number),
    }


def written(host: HostSpec, name: str) -> dict[str, str]:
    """The same as lines of a configuration file have them."""
    return {key: f'"{value}"' if " " in value else value for key, value in listeners(host, name).items()}


def transport(host: HostSpec, name: str) -> str:
    """All of them as one value: they are one thing, and change as one."""
    return ", ".join(f"{key}={value}" for key, value in listeners(host, name).items())


def record(cluster: str) -> str:
    """When an instance changed where it listens, in seconds since 1970: older connections are of the other kind."""
    return f"/var/lib/fleet/{cluster}.transport"
