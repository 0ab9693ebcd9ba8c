"""The X.509 work itself: building roots and leaves (RFC 5280), and refusing requests that are not sound."""

from __future__ import annotations

import getpass
import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.errors import FleetError
from deploy.model.permitted import network, outside
from deploy.trust.certificates import LeafProfile, name_slash

MINIMUM_RSA_BITS = 2048
BACKDATE = timedelta(minutes=5)
"""A host whose clock is behind the controller's must not see a certificate from the future."""

PublicKey = rsa.RSAPublicKey | EllipticCurvePublicKey


def make_root(
    name: str, key_bits: int, days: int, now: datetime, permitted: Sequence[str] = ()
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A new RSA key and its self-signed root, valid from 5 minutes ago for ``days`` from ``now``.

    permitted: names and networks that it may sign for, as name constraints (critical, as RFC 5280 has them); none: any.

    The subject carries the key's identifier: an old and a new root, trusted side by side during a rotation,
    must not share a name, which some verifiers look issuers up by.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=key_bits)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    common_name = f"{name} CA {identifier.digest.hex()[:8]}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    if permitted:
        trees = [x509.IPAddress(one) if (one := network(text)) else x509.DNSName(text) for text in permitted]
        builder = builder.add_extension(x509.NameConstraints(trees, None), critical=True)
    return key, builder.sign(key, SHA256())


def constraints(root: x509.Certificate) -> tuple[str, ...]:
    """The names and networks that a root may sign for, in the order in which it has them; empty: any."""
    try:
        trees = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(tree.value) for tree in trees or ())


def not_permitted(root: x509.Certificate, profile: LeafProfile) -> tuple[str, ...]:
    """Names of a profile that verifiers would refuse under this root. A subject is taken for a name, for want of one,
    where it has a dot.
    """
    subject = [profile.common_name] if not profile.dns_names and "." in profile.common_name else []
    return outside(constraints(root), [*profile.dns_names, *subject], profile.ip_addresses)


def is_root(certificate: x509.Certificate) -> bool:
    """Whether a certificate is a self-signed RSA authority with the extensions that leaves build on."""
    try:
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return constraints.ca and isinstance(certificate.public_key(), rsa.RSAPublicKey)


def refuse_names(root: x509.Certificate, profile: LeafProfile, host: str | None = None) -> None:
    """Raises FleetError where verifiers would refuse what this root signed of that profile, and says which names."""
    if names := not_permitted(root, profile):
        raise FleetError(
            host=host,
            subject=f"certificate for {profile.common_name}",
            found=f"{', '.join(names)}: not among what {name_slash(root.subject)} may sign for",
            expected=f"names and networks within {', '.join(constraints(root))}",
            hint="add them to trust.permitted, then fleet pki roll-ca: a CA's constraints are made with it",
        )


def issue(
    csr_pem: str, profile: LeafProfile, root: x509.Certificate, root_key: rsa.RSAPrivateKey, now: datetime
) -> x509.Certificate:
    """A leaf for the request's key. Nothing else of the request is used: no subject, no extension.

    It never outlives the root. FleetError: bad request, weak key, root outside its life.
    """
    key = _requested_key(csr_pem)
    if key == root.public_key():
        raise _bad_request("the authority's own key", "a key made on the host for this certificate")
    if not root.not_valid_before_utc <= now < root.not_valid_after_utc:
        raise FleetError(
            subject="certificate authority",
            found=f"valid from {root.not_valid_before_utc:%F %T} to {root.not_valid_after_utc:%F %T} UTC",
            expected=f"valid at {now:%F %T} UTC",
            hint="Check the controller's clock; if the authority has expired: fleet pki roll-ca.",
        )
    refuse_names(root, profile)
    issuer_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(profile.subject)
        .issuer_name(root.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATE, root.not_valid_before_utc))
        .not_valid_after(min(now + timedelta(days=profile.days), root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(encipher=isinstance(key, rsa.RSAPublicKey)), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_usages(profile)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    alternative = _alternative_names(profile)
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return builder.sign(root_key, SHA256())


def _requested_key(csr_pem: str) -> PublicKey:
    """The public key of a request that is signed with it and strong enough."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_request("text that is no PEM request, or of an unsupported kind", _KEYS) from error
    if not signed:
        raise _bad_request("a signature that its own key did not make", "proof that the requester holds the key")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MINIMUM_RSA_BITS:
            raise _bad_request(f"an RSA key of {key.key_size} bits", _KEYS)
        return key
    if isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            raise _bad_request(f"an elliptic-curve key on {key.curve.name}", _KEYS)
        return key
    raise _bad_request(f"a key of type {type(key).__name__}", _KEYS)


_KEYS = "a request for an RSA key of 2048 bits or more, or a P-256 key"


def _bad_request(found: str, expected: str) -> FleetError:
    return FleetError(
        subject="certificate request",
        found=found,
        expected=expected,
        hint="Remove the key on the host, so that the next run makes a new one.",
    )


def _usages(profile: LeafProfile) -> list[x509.ObjectIdentifier]:
    wanted = (
        (profile.server_auth, ExtendedKeyUsageOID.SERVER_AUTH),
        (profile.client_auth, ExtendedKeyUsageOID.CLIENT_AUTH),
    )
    return [oid for asked, oid in wanted if asked]


def _alternative_names(profile: LeafProfile) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(profile.dns_names)]
    addresses = dict.fromkeys(ipaddress.ip_address(text) for text in profile.ip_addresses)
    return names + [x509.IPAddress(address) for address in addresses]


def _key_usage(*, encipher: bool = False, sign_certificates: bool = False) -> x509.KeyUsage:
    """A root signs certificates and CRLs; a leaf signs handshakes and, RSA before TLS 1.3, receives keys."""
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=encipher,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def local_user() -> str:
    """Who runs this, for the journal."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
