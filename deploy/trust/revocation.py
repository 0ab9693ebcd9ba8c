"""Revocation lists (CRLs, RFC 5280 section 5): signing one, and what one says. Pure: data in, data out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from deploy.errors import FleetError
from deploy.trust.certificates import serial_hex
from deploy.trust.journal import Revocation
from deploy.trust.signing import BACKDATE

REASONS: Final = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""As the command takes them -> RFC 5280's. Not those that put a certificate on hold or are about an authority."""


@dataclass(frozen=True)
class RevocationList:
    """What a CRL says. Times are aware, UTC; serials in upper-case hex as in CertificateInfo."""

    number: int
    this_update: datetime
    next_update: datetime
    serials: frozenset[str]


def sign_list(
    revoked: Iterable[Revocation], number: int, root: x509.Certificate, key: RSAPrivateKey, now: datetime, days: int
) -> str:
    """A CRL (PEM) that names these certificates, good for `days` from `now` but never beyond the root's own end.

    It never ends later than the root since nothing under an ended root is accepted anyway.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(now - BACKDATE)
        .next_update(max(min(now + timedelta(days=days), root.not_valid_after_utc), now + BACKDATE))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    for entry in {item.serial: item for item in revoked}.values():
        single = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(entry.serial, 16))
            .revocation_date(datetime.fromisoformat(entry.revoked_at))
        )
        # "unspecified" is said by saying nothing (RFC 5280, 5.3.1).
        if entry.reason in REASONS and entry.reason != "unspecified":
            single = single.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
        builder = builder.add_revoked_certificate(single.build())
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def read_list(pem: str, root: x509.Certificate, subject: str = "revocation list") -> RevocationList:
    """What the CRL says, its signature verified.

    Raises:
        FleetError: it is no CRL, or another authority's, or was altered.
    """
    try:
        found = x509.load_pem_x509_crl(pem.encode())
        ours = found.issuer == root.subject and found.is_signature_valid(root.public_key())  # type: ignore[arg-type]
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        ends = found.next_update_utc
    except (ValueError, TypeError, x509.ExtensionNotFound):
        ours, number, ends = False, 0, None
    if not ours or ends is None:
        raise FleetError(
            subject=subject, found="not a list that this CA signed, or a damaged one",
            expected="the CA's own revocation list", hint="apply signs another from the journal of revocations",
        )  # fmt: skip
    return RevocationList(
        number, found.last_update_utc, ends, frozenset(serial_hex(entry.serial_number) for entry in found)
    )
