"""What a Certificate resource asks of the authority, and what kind of key a certificate has."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from deploy.model.resources import Certificate
from deploy.trust.certificates import LeafProfile, parse_certificate


def profile(item: Certificate, organization: str) -> LeafProfile:
    return LeafProfile(
        common_name=item.common_name,
        role=item.role_name,
        organization=organization,
        dns_names=item.dns_names,
        ip_addresses=item.ip_addresses,
        server_auth=item.server_auth,
        client_auth=item.client_auth,
        days=item.days,
    )


def key_type(pem: str) -> str:
    """`rsa2048`, `p256`, ...: as the setting trust.key_type calls it."""
    key = parse_certificate(pem).public_key()
    if isinstance(key, RSAPublicKey):
        return f"rsa{key.key_size}"
    if isinstance(key, EllipticCurvePublicKey):
        return {"secp256r1": "p256"}.get(key.curve.name, key.curve.name)
    return type(key).__name__
