"""Certificates that are made to be shown once to every port, and those of authorities whose keys are elsewhere.

Where a key is here, a canary is signed when it is needed. Otherwise one of each authority came with the next authority
(trust/following.py); its key waits in a file beside them, of no use but for this: nobody admits its role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from deploy.converge.certificates import Canary
from deploy.converge.engine import Run
from deploy.errors import FleetError
from deploy.trust import files
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile, describe, parse_certificate

ROLE = "canary"
"""Nothing lets it in beyond the handshake."""
KEPT = ".ca-canary.json"
"""Below pki/, readable by its owner alone, and not for version control."""


def profile(organization: str, days: int) -> LeafProfile:
    return LeafProfile(common_name=ROLE, role=ROLE, organization=organization, client_auth=True, days=days)


def pair() -> tuple[str, str]:
    """A new key and a request for it, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "request")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return text, request.public_bytes(Encoding.PEM).decode()


def signed(signer: Signer, organization: str, name: str) -> Canary:
    """A key that exists here, in memory, and its certificate: a client's, for a day."""
    key, request = pair()
    return Canary(name, signer.sign(request, profile(organization, 1), requester=ROLE), key)


def of(run: Run, authority: Authority, name: str) -> Canary:
    """One of this authority.

    Raises:
        FleetError: its key is elsewhere, and what it signed for this is not here, or has ended.
    """
    if not authority.offline:
        return signed(run.keys.unlock(authority), run.fleet.name, name)
    key, certificates = _read(run.keys.authorities.directory / KEPT)
    pem = certificates.get(authority.info.fingerprint, "")
    if not pem or describe(pem).remaining(datetime.now(UTC)).total_seconds() <= 0:
        raise FleetError(
            subject=f"authority {authority.info.common_name}", found=f"no certificate of it in {KEPT}",
            expected="one that every port can be shown, signed where its key is",
            hint="restore the file; or go back with --abort, and begin again with fleet pki requests --next-ca",
        )  # fmt: skip
    return Canary(name, pem, key)


def keep(directory: Path, key: str, certificates: Mapping[str, str]) -> None:
    """directory: pki/. certificates: fingerprint of an authority -> what it signed."""
    text = json.dumps({"key": key, "certificates": dict(certificates)})
    files.write_atomic(directory / KEPT, text.encode(), files.PRIVATE)


def take(directory: Path, certificates: Mapping[str, str]) -> None:
    """What came back for the key that is kept.

    Raises:
        FleetError: it is for another key.
    """
    key, _ = _read(directory / KEPT)
    for pem in certificates.values():
        if not key or _public(key) != parse_certificate(pem).public_key():
            raise FleetError(
                subject=str(directory / KEPT), found="not the key that came back certified",
                expected="the key that fleet pki requests --next-ca made",
                hint="it was asked for again since: sign what was asked for last",
            )  # fmt: skip
    keep(directory, key, certificates)


def forget(directory: Path) -> None:
    (directory / KEPT).unlink(missing_ok=True)


def _public(key: str) -> object:
    return load_pem_private_key(key.encode(), None).public_key()


def _read(path: Path) -> tuple[str, dict[str, str]]:
    if not path.exists():
        return "", {}
    document = json.loads(files.read_bytes(path, expected="the key of what is shown to every port", hint="Restore it."))
    return str(document["key"]), dict(document["certificates"])
