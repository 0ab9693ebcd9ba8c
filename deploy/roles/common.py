"""What several roles say in the same way."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.catalog import SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import Certificate, File, Resource, Unit

CA_FILE = f"{SSL_DIR}/ca.crt"
CRL_FILE = f"{SSL_DIR}/ca.crl"
"""What the CA revoked. It is there from the beginning, empty: a verifier that is told to read one needs one."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, as OpenSSL takes them: with forward secrecy, and without block ciphers that are signed before they are
encrypted."""


def pair(service: str) -> tuple[str, str]:
    """Certificate and key of a service, under the spec's names."""
    return f"{SSL_DIR}/{service}.crt", f"{SSL_DIR}/{service}.key"


def confined(ctx: Context, unit: str, template: str) -> File:
    """What a unit that is rolled without a restart (see graceful) may do: a drop-in that counts from its next start.

    So it is not stamped: a reload, which pays its other debts, would not bring it.
    """
    return File(
        path=f"/etc/systemd/system/{unit}.d/70-fleet-sandbox.conf", content=ctx.render(template),
        absent=not ctx.settings.base.sandbox,
    )  # fmt: skip


def certificate(ctx: Context, name: str) -> Certificate:
    """The key pair of a service on this host, under the spec's names, readable by the service alone."""
    service = ctx.fleet.profile.service(name)
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


def timer(ctx: Context, templates: str, name: str, /, **values: object) -> Iterator[Resource]:
    """What a timer runs again and again: both units from `NAME.service.j2` and `NAME.timer.j2` of a template folder."""
    for kind in ("service", "timer"):
        path = f"/etc/systemd/system/{name}.{kind}"
        yield File(path=path, content=ctx.render(f"{templates}/{name}.{kind}.j2", **values))
    yield Unit(name=f"{name}.timer")
