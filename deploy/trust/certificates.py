"""What a leaf certificate must say, and what one does say. Pure: text in, data out."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.errors import FleetError

# Servers compare subjects as text (nginx map, HAProxy ssl_c_s_dn, MariaDB SUBJECT): a separator inside a
# value could make one subject read as another.
_NAME_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")

E = TypeVar("E", bound=x509.ExtensionType)

RENEWAL_FRACTION = 1 / 3
"""A leaf is renewed when this share of its life is left."""


@dataclass(frozen=True)
class LeafProfile:
    """What the authority puts into a leaf certificate, whatever its request asks for.

    common_name: the service. role: the OU, what servers check to decide who may connect. dns_names,
    ip_addresses: every name and address that is dialled. days: life, cut at the authority's own end.
    Raises FleetError when the values make no certificate.
    """

    common_name: str
    role: str
    organization: str
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    server_auth: bool = False
    client_auth: bool = False
    days: int = 365

    def __post_init__(self) -> None:
        for field, value in (("CN", self.common_name), ("OU", self.role), ("O", self.organization)):
            if not _NAME_VALUE.fullmatch(value):
                raise self._bad(f"{field} {value!r}", "1 to 64 letters, digits, spaces, '.', '_' or '-'")
        for name in self.dns_names:
            if not _DNS_NAME.fullmatch(name):
                raise self._bad(f"DNS name {name!r}", "a lower-case host name without wildcard")
        for address in self.ip_addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise self._bad(f"IP address {address!r}", "an IPv4 or IPv6 address without prefix") from None
        if not (self.server_auth or self.client_auth):
            raise self._bad("no usage", "server_auth, client_auth or both")
        if self.server_auth and not (self.dns_names or self.ip_addresses):
            raise self._bad("a server without names", "a DNS name or IP address (clients ignore the CN)")
        if self.days < 1:
            raise self._bad(f"a life of {self.days} days", "1 day or more")

    def _bad(self, found: str, expected: str) -> FleetError:
        return FleetError(subject=f"certificate profile {self.common_name!r}", found=found, expected=expected)

    @property
    def subject(self) -> x509.Name:
        """O, OU, CN in this order."""
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organization),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.role),
                x509.NameAttribute(NameOID.COMMON_NAME, self.common_name),
            ]
        )

    @property
    def subject_slash(self) -> str:
        """``/O=.../OU=.../CN=...``, as MariaDB's REQUIRE SUBJECT wants it."""
        return name_slash(self.subject)

    @property
    def subject_rfc2253(self) -> str:
        """``CN=...,OU=...,O=...``, as nginx's $ssl_client_s_dn gives it."""
        return self.subject.rfc4514_string()


@dataclass(frozen=True)
class CertificateInfo:
    """A certificate's facts, in the forms in which the tools on a host report them.

    Times are aware, UTC. serial: upper-case hex of even length (``openssl x509 -serial``). fingerprint:
    SHA-256 of the DER, lower-case hex. public_key_sha256: of the SubjectPublicKeyInfo DER
    (``openssl pkey -pubin -outform DER | sha256sum``). key_id, issuer_key_id: SKI and AKI, lower-case hex or
    None. issuer_fingerprint: only when the issuer was given and did sign this.
    """

    common_name: str | None
    role: str | None
    organization: str | None
    subject_slash: str
    issuer_slash: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    usages: tuple[str, ...]
    is_ca: bool
    not_before: datetime
    not_after: datetime
    serial: str
    fingerprint: str
    public_key_sha256: str
    key_id: str | None
    issuer_key_id: str | None
    issuer_fingerprint: str | None = None

    @property
    def server_auth(self) -> bool:
        return "serverAuth" in self.usages

    @property
    def client_auth(self) -> bool:
        return "clientAuth" in self.usages

    def remaining(self, now: datetime) -> timedelta:
        """Life left at ``now`` (aware); negative once expired."""
        return self.not_after - now

    def renewal_due(self, now: datetime) -> bool:
        """Whether a third of the life, or less, is left at ``now``."""
        return self.remaining(now) <= (self.not_after - self.not_before) * RENEWAL_FRACTION


def describe(cert_pem: str, issuer_pem: str | None = None) -> CertificateInfo:
    """The facts of the first certificate in ``cert_pem``.

    With ``issuer_pem`` its signature is verified too. FleetError when a text is no certificate, or when
    another authority issued it.
    """
    certificate = parse_certificate(cert_pem)
    extensions = certificate.extensions
    san = _extension(extensions, x509.SubjectAlternativeName)
    eku = _extension(extensions, x509.ExtendedKeyUsage)
    basic = _extension(extensions, x509.BasicConstraints)
    ski = _extension(extensions, x509.SubjectKeyIdentifier)
    aki = _extension(extensions, x509.AuthorityKeyIdentifier)
    return CertificateInfo(
        common_name=_attribute(certificate.subject, NameOID.COMMON_NAME),
        role=_attribute(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME),
        organization=_attribute(certificate.subject, NameOID.ORGANIZATION_NAME),
        subject_slash=name_slash(certificate.subject),
        issuer_slash=name_slash(certificate.issuer),
        dns_names=tuple(san.get_values_for_type(x509.DNSName)) if san else (),
        ip_addresses=tuple(str(ip) for ip in san.get_values_for_type(x509.IPAddress)) if san else (),
        usages=tuple(_usage(oid) for oid in eku) if eku else (),
        is_ca=bool(basic and basic.ca),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=serial_hex(certificate.serial_number),
        fingerprint=certificate.fingerprint(SHA256()).hex(),
        public_key_sha256=_public_key_sha256(certificate),
        key_id=ski.digest.hex() if ski else None,
        issuer_key_id=aki.key_identifier.hex() if aki and aki.key_identifier else None,
        issuer_fingerprint=_verified_issuer(certificate, issuer_pem) if issuer_pem else None,
    )


def differences(info: CertificateInfo, profile: LeafProfile) -> tuple[str, ...]:
    """How a certificate, e.g. the one a host serves, departs from its profile; empty when it does not.

    The life is left out (it is cut at the authority's end): ask :meth:`CertificateInfo.renewal_due`.
    """
    pairs = (
        ("subject", info.subject_slash, profile.subject_slash),
        ("DNS names", sorted(info.dns_names), sorted(set(profile.dns_names))),
        ("IP addresses", sorted(info.ip_addresses), sorted({_ip(item) for item in profile.ip_addresses})),
        ("server usage", info.server_auth, profile.server_auth),
        ("client usage", info.client_auth, profile.client_auth),
        ("certificate authority", info.is_ca, False),
    )
    return tuple(f"{what}: found {found}, expected {want}" for what, found, want in pairs if found != want)


def parse_certificate(cert_pem: str, subject: str = "certificate") -> x509.Certificate:
    """The first certificate of a PEM text; FleetError naming ``subject`` when there is none."""
    try:
        return x509.load_pem_x509_certificate(cert_pem.encode())
    except ValueError as error:
        raise FleetError(
            subject=subject, found="text that is no PEM certificate", expected="an X.509 certificate in PEM"
        ) from error


def name_slash(name: x509.Name) -> str:
    """OpenSSL's one-line form, first attribute first."""
    return "".join(f"/{attribute.rfc4514_attribute_name}={attribute.value!s}" for attribute in name)


def serial_hex(serial: int) -> str:
    """Upper-case hex of even length, as ``openssl x509 -serial`` prints it."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


def _verified_issuer(certificate: x509.Certificate, issuer_pem: str) -> str:
    issuer = parse_certificate(issuer_pem, "issuer certificate")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise FleetError(
            subject=f"certificate {serial_hex(certificate.serial_number)}",
            found=f"issued by {name_slash(certificate.issuer)}",
            expected=f"issued and signed by {name_slash(issuer.subject)}",
            hint="It comes from another authority: have a new one issued.",
        ) from error
    return issuer.fingerprint(SHA256()).hex()


def _public_key_sha256(certificate: x509.Certificate) -> str:
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _extension(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str | None:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if found else None


def _usage(oid: x509.ObjectIdentifier) -> str:
    known = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
    return known.get(oid, oid.dotted_string)


def _ip(text: str) -> str:
    return str(ipaddress.ip_address(text))
