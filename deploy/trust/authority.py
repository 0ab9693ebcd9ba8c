"""The inventory's certificate authority: a directory with a certificate, an encrypted key and a journal.

    ca.crt            the root certificate, what the hosts trust
    ca.key.age        its private key, encrypted to the operators; in plain it exists in memory only
    ca.key.recipients whom the key is encrypted to
    index.jsonl       the issuance journal
    issued/SERIAL.crt every certificate issued

A certificate under this root proves membership of the fleet, not permission: servers check the role
(OU) as well.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from deploy.errors import FleetError
from deploy.trust import files, journal, signing
from deploy.trust.certificates import CertificateInfo, LeafProfile, describe, parse_certificate
from deploy.trust.identities import Identity
from deploy.trust.journal import IssuanceRecord
from deploy.trust.recipients import parse_recipients, write_sidecar
from deploy.trust.sealing import looks_sealed, seal, unseal

CERTIFICATE, KEY, SIDECAR, JOURNAL, ISSUED = (
    "ca.crt", "ca.key.age", "ca.key.recipients", "index.jsonl", "issued",
)  # fmt: skip
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class Authority:
    """The public half of an authority: enough to verify, to list what was issued and to unlock the key."""

    def __init__(self, directory: Path, certificate: x509.Certificate) -> None:
        """Internal: use :meth:`create` or :meth:`load`."""
        self.directory = directory
        self.certificate = certificate
        self.certificate_pem = certificate.public_bytes(Encoding.PEM).decode()
        self.info: CertificateInfo = describe(self.certificate_pem)

    @classmethod
    def create(
        cls, directory: Path, name: str, recipients: Iterable[str], *, key_bits: int = 4096, days: int = 365
    ) -> Authority:
        """Make a new authority called ``name`` (the inventory's), its key encrypted to ``recipients``.

        key_bits: RSA, 2048 or more (the spec: 4096); days: life of the root (the spec: 365).
        Everything is written beside ``directory`` and renamed in one step: a killed run leaves nothing that
        loads, and the next one starts over. FleetError when ``directory`` holds anything already.
        """
        parsed = parse_recipients(recipients, f"recipients of {directory / KEY}")
        if not _NAME.fullmatch(name) or key_bits < signing.MINIMUM_RSA_BITS or days < 1:
            raise FleetError(
                subject=f"authority {name!r}",
                found=f"key of {key_bits} bits, life of {days} days",
                expected="a name of lower-case letters, digits and '-', 2048 bits or more, 1 day or more",
            )
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with files.locked(directory.parent / f".{directory.name}.lock"):
                _refuse_existing(directory)
                for stale in directory.parent.glob(f".{directory.name}.creating-*"):
                    shutil.rmtree(stale)  # a killed run's; the lock says that nobody is at work in it
                key, certificate = signing.make_root(name, key_bits, days, datetime.now(UTC))
                sealed = seal(_key_der(key), parsed)
                draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.creating-", dir=directory.parent))
                try:
                    files.write_atomic(draft / KEY, sealed, files.PRIVATE)
                    write_sidecar(draft / SIDECAR, parsed)
                    files.write_atomic(draft / JOURNAL, b"", files.PUBLIC)
                    files.write_atomic(draft / ".gitignore", b"/.lock\n/.*.tmp\n", files.PUBLIC)
                    (draft / ISSUED).mkdir(mode=files.PRIVATE_DIRECTORY)
                    pem = certificate.public_bytes(Encoding.PEM)
                    files.write_atomic(draft / CERTIFICATE, pem, files.PUBLIC)
                    os.rename(draft, directory)
                    files.sync_directory(directory.parent)
                except BaseException:
                    shutil.rmtree(draft, ignore_errors=True)
                    raise
        except OSError as error:
            raise files.cannot("create", directory, error) from error
        return cls(directory, certificate)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Read the public half; FleetError when it is missing, incomplete, or not a self-signed root."""
        if not directory.is_dir():
            raise FleetError(
                subject=str(directory),
                found="no such directory",
                expected="a certificate authority",
                hint=f"Run `fleet secrets init {directory.resolve().parent.name}`.",
            )
        hint = "Restore the directory from version control; a part of an authority cannot be made up for."
        blobs = {
            name: files.read_bytes(directory / name, expected="a part of the certificate authority", hint=hint)
            for name in (CERTIFICATE, KEY, SIDECAR, JOURNAL)
        }
        path = directory / CERTIFICATE
        certificate = parse_certificate(blobs[CERTIFICATE].decode("utf-8", errors="replace"), str(path))
        if not signing.is_root(certificate):
            raise FleetError(
                subject=str(path),
                found="a certificate that is not a self-signed authority",
                expected="the root certificate",
                hint=hint,
            )
        if not looks_sealed(blobs[KEY]):
            raise FleetError(
                subject=str(directory / KEY),
                found="a file that is not encrypted with age",
                expected="the authority's encrypted key",
                hint=f"{hint} If this is a plain key, it is compromised: make a new authority.",
            )
        return cls(directory, certificate)

    def journal(self) -> tuple[IssuanceRecord, ...]:
        """What was issued, oldest first; FleetError when the journal is damaged."""
        return journal.read(self.directory / JOURNAL)

    def issued_pem(self, serial: str) -> str:
        """The certificate with that serial (hex as in the journal); FleetError when it is not kept here."""
        path = self.directory / ISSUED / f"{serial}.crt"
        return files.read_bytes(
            path, expected="an issued certificate", hint="See the journal for what was issued."
        ).decode()

    def unlock(self, identities: Sequence[Identity]) -> Signer:
        """Decrypt the key; FleetError as from unseal, or when the key is not this certificate's."""
        return Signer(self, self._key(identities))

    def rekey(self, identities: Sequence[Identity], recipients: Iterable[str]) -> None:
        """Encrypt the same key to other operators. One who left may have a copy: then a new root is due."""
        parsed = parse_recipients(recipients, f"recipients of {self.directory / KEY}")
        with files.locked(self.directory / ".lock"):
            sealed = seal(_key_der(self._key(identities)), parsed)
            # Sidecar first, for the reason given in vault.py.
            write_sidecar(self.directory / SIDECAR, parsed)
            files.write_atomic(self.directory / KEY, sealed, files.PRIVATE)

    def _key(self, identities: Sequence[Identity]) -> RSAPrivateKey:
        path = self.directory / KEY
        blob = files.read_bytes(path, expected="the authority's encrypted key", hint="Restore it.")
        plain = unseal(blob, identities, path=path, sidecar=self.directory / SIDECAR)
        key = None
        with suppress(ValueError, TypeError):
            key = load_der_private_key(plain, None)
        if not isinstance(key, RSAPrivateKey) or key.public_key() != self.certificate.public_key():
            raise FleetError(
                subject=str(path),
                found="not the private key of ca.crt",
                expected="the key that belongs to the certificate beside it",
                hint="Restore both from the same commit.",
            )
        return key


class Signer:
    """An unlocked authority. Hold it for as long as signing takes, not longer."""

    def __init__(self, authority: Authority, key: RSAPrivateKey) -> None:
        """Internal: use :meth:`Authority.unlock`."""
        self.authority = authority
        self._key = key

    def sign(self, csr_pem: str, profile: LeafProfile, *, requester: str = "", now: datetime | None = None) -> str:
        """A certificate (PEM) for the request's public key, with the content of ``profile`` alone.

        requester: who asked, for the journal, e.g. ``alice for data1``; default the local user. now: aware.
        The record is on disk before the certificate is, and both before this returns: what is not in the
        journal was never handed out. FleetError for a bad request or an expired authority.
        """
        moment = now or datetime.now(UTC)
        certificate = signing.issue(csr_pem, profile, self.authority.certificate, self._key, moment)
        pem = certificate.public_bytes(Encoding.PEM)
        info = describe(pem.decode())
        directory = self.authority.directory
        record = IssuanceRecord(
            serial=info.serial,
            subject=info.subject_slash,
            role=profile.role,
            dns_names=info.dns_names,
            ip_addresses=info.ip_addresses,
            usages=info.usages,
            not_before=info.not_before.isoformat(),
            not_after=info.not_after.isoformat(),
            fingerprint=info.fingerprint,
            public_key_sha256=info.public_key_sha256,
            issued_at=moment.isoformat(timespec="seconds"),
            requester=requester or signing.local_user(),
        )
        with files.locked(directory / ".lock"):
            journal.append(directory / JOURNAL, record)
            (directory / ISSUED).mkdir(mode=files.PRIVATE_DIRECTORY, exist_ok=True)  # git keeps no empty one
            files.write_atomic(directory / ISSUED / f"{info.serial}.crt", pem, files.PUBLIC)
        return pem.decode()


def _key_der(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _refuse_existing(directory: Path) -> None:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    complete = (directory / CERTIFICATE).exists() and (directory / KEY).exists()
    raise FleetError(
        subject=str(directory),
        found="a certificate authority already" if complete else "files that are no complete authority",
        expected="no directory there yet, or an empty one",
        hint="Use it as it is; a new one goes into another directory, as hosts must trust both for a while."
        if complete
        else "Restore the missing parts from version control, or move the directory away, then run again.",
    )
