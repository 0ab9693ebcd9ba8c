"""What several roles say in the same way."""

from __future__ import annotations

from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import Certificate

CA_FILE = f"{SSL_DIR}/ca.crt"
CRL_FILE = f"{SSL_DIR}/ca.crl"
"""What the CA revoked. It is there from the beginning, empty: a verifier that is told to read one needs one."""


def certificate(ctx: Context, name: str) -> Certificate:
    """The key pair of a service on this host, under the spec's names, readable by the service alone."""
    service = SERVICES[name]
    identity = service.identity
    if identity is None:
        raise LookupError(f"the catalog gives {name} no identity")
    trust = ctx.settings.trust
    return Certificate(
        name=name,
        directory=SSL_DIR,
        common_name=name,
        role_name=name,
        dns_names=tuple(dict.fromkeys((*service.names, ctx.host.name, "localhost"))),
        ip_addresses=tuple(dict.fromkeys((ctx.host.address, "127.0.0.1"))),
        server_auth=identity.server,
        client_auth=identity.client,
        owner=identity.owner,
        group=identity.owner,
        key_type=trust.key_type,
        days=trust.leaf_days,
        renew_days=trust.renew_days,
    )
