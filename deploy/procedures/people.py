"""Certificates for people: what opens the status page to a browser, and nothing else of the fleet."""

from __future__ import annotations

import os
import secrets as random
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12
from cryptography.x509.oid import NameOID

from deploy.converge.inventory import load, open_keys
from deploy.errors import FleetError
from deploy.roles.door import OPERATOR
from deploy.trust.certificates import LeafProfile


@dataclass(frozen=True)
class Issued:
    """`path`: key, certificate and CA in one file (PKCS #12), as browsers take them; `password` opens it."""

    path: Path
    password: str
    ends: str


def operator(path: Path, name: str, out: Path, days: int, identity: Path | None = None) -> Issued:
    """Make a key here and have it certified with the role of a person. days: its life, which `fleet pki revoke` cuts.

    Raises:
        FleetError: the file exists, the name is none, or the CA cannot be opened.
    """
    _, fleet = load(path)
    keys = open_keys(path, identity, profile=fleet.profile)
    profile = LeafProfile(
        common_name=name, role=OPERATOR, organization=fleet.name, client_auth=True, days=days,
    )  # fmt: skip
    if out.exists():
        raise FleetError(
            subject=str(out), found="a file", expected="none: a key is never written over", hint="give another --out"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "request")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = keys.signer().sign(request.public_bytes(Encoding.PEM).decode(), profile, requester=f"operator {name}")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    authority = x509.load_pem_x509_certificate(keys.authority.certificate_pem.encode())
    password = random.token_urlsafe(12)
    bundle = pkcs12.serialize_key_and_certificates(
        name.encode(), key, certificate, [authority], BestAvailableEncryption(password.encode())
    )
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(bundle)
    return Issued(out, password, certificate.not_valid_after_utc.date().isoformat())
