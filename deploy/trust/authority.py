"""The inventory's certificate authority: a directory with a certificate, an encrypted key and a journal.

    ca.crt            the root certificate, what the hosts trust
    ca.key.age        its private key, encrypted to the operators; in plain it exists in memory only
    ca.key.recipients whom the key is encrypted to
    index.jsonl       the issuance journal
    issued/SERIAL.crt every certificate issued
    revoked.jsonl     the journal of revocations: what counts
    ca.crl            the list signed from it: what the hosts load; signed anew when it is behind, lost or damaged
    ca.offline        in place of the key and its recipients: the key is on another machine (see exchange.py)

A certificate under this root proves membership of the fleet, not permission: servers check the role
(OU) as well.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
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
from deploy.trust.journal import IssuanceRecord, Revocation
from deploy.trust.recipients import parse_recipients, write_sidecar
from deploy.trust.revocation import REASONS, RevocationList, read_list, sign_list
from deploy.trust.sealing import looks_sealed, seal, unseal

CERTIFICATE, KEY, SIDECAR, JOURNAL, ISSUED, REVOKED, LIST, OFFLINE = (
    "ca.crt", "ca.key.age", "ca.key.recipients", "index.jsonl", "issued", "revoked.jsonl", "ca.crl", "ca.offline",
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
        cls, directory: Path, name: str, recipients: Iterable[str], *, key_bits: int = 4096, days: int = 365,
        permitted: Sequence[str] = (),
    ) -> Authority:  # fmt: skip
        """Make a new authority called ``name`` (the inventory's), its key encrypted to ``recipients``.

        key_bits: RSA, 2048 or more (the spec: 4096); days: life of the root (the spec: 365).
        permitted: names and networks that it may sign for; none: any.
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
                key, certificate = signing.make_root(name, key_bits, days, datetime.now(UTC), permitted)
                sealed = seal(_key_der(key), parsed)
                now = datetime.now(UTC)
                # From the beginning, so that the first revocation changes no configuration.
                empty = sign_list((), _number(now), certificate, key, now, days)
                with _drafted(directory, certificate.public_bytes(Encoding.PEM).decode(), empty) as draft:
                    files.write_atomic(draft / KEY, sealed, files.PRIVATE)
                    write_sidecar(draft / SIDECAR, parsed)
        except OSError as error:
            raise files.cannot("create", directory, error) from error
        return cls(directory, certificate)

    @classmethod
    def adopt(cls, directory: Path, certificate_pem: str, list_pem: str) -> Authority:
        """The public half of an authority that was made elsewhere, in one step; one that is there already stays.

        FleetError when another is there.
        """
        if not directory.exists():
            with _drafted(directory, certificate_pem, list_pem) as draft:
                files.write_atomic(draft / OFFLINE, b"", files.PUBLIC)
        found = cls.load(directory)
        if found.info.fingerprint != describe(certificate_pem).fingerprint:
            raise FleetError(
                subject=str(directory), found=f"{found.info.common_name}", expected="none there, or the same",
                hint="move it away: nothing that counts lies there",
            )  # fmt: skip
        return found

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
        away = (directory / OFFLINE).exists()
        blobs = {
            name: files.read_bytes(directory / name, expected="a part of the certificate authority", hint=hint)
            for name in ((CERTIFICATE, JOURNAL) if away else (CERTIFICATE, KEY, SIDECAR, JOURNAL))
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
        if not away and not looks_sealed(blobs[KEY]):
            raise FleetError(
                subject=str(directory / KEY),
                found="a file that is not encrypted with age",
                expected="the authority's encrypted key",
                hint=f"{hint} If this is a plain key, it is compromised: make a new authority.",
            )
        return cls(directory, certificate)

    @property
    def offline(self) -> bool:
        """Whether its key is on another machine, and here is only asked and answered."""
        return (self.directory / OFFLINE).exists()

    def journal(self) -> tuple[IssuanceRecord, ...]:
        """What was issued, oldest first; FleetError when the journal is damaged."""
        return journal.read(self.directory / JOURNAL)

    def revocations(self) -> Mapping[str, Revocation]:
        """What was revoked, by serial, oldest first; FleetError when the journal is damaged."""
        found: dict[str, Revocation] = {}
        for item in journal.read_revocations(self.directory / REVOKED):
            found.setdefault(item.serial, item)
        return found

    def revoke(self, serials: Sequence[str], reason: str, by: str = "") -> tuple[Revocation, ...]:
        """Record that these certificates count no more. It takes no key: the list is signed afterwards.

        reason: one of revocation.REASONS. What is revoked already stays as it is and is not returned.

        Raises:
            FleetError: a serial that this authority never issued, or no such reason; nothing is recorded then.
        """
        if reason not in REASONS:
            raise FleetError(subject="reason", found=repr(reason), expected=f"one of {', '.join(REASONS)}")
        with files.locked(self.directory / ".lock"):
            issued = {record.serial for record in self.journal()}
            for serial in serials:
                if serial not in issued:
                    raise FleetError(
                        subject=f"certificate {serial}", found="no such serial in the journal",
                        expected=f"one that {self.info.common_name} issued", hint="fleet pki status shows the serials",
                    )  # fmt: skip
            known = self.revocations()
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            who = by or signing.local_user()
            fresh = tuple(Revocation(serial, reason, moment, who) for serial in dict.fromkeys(serials))
            fresh = tuple(item for item in fresh if item.serial not in known)
            for item in fresh:
                journal.append(self.directory / REVOKED, item)
        return fresh

    def list_pem(self) -> str:
        """The revocation list as it is on the disk, fit or not; empty when there is none."""
        path = self.directory / LIST
        if not path.exists():
            return ""
        return files.read_bytes(path, expected="the revocation list", hint="").decode("ascii", errors="replace")

    def revocation_list(self) -> RevocationList:
        """What it says. Raises FleetError when it is missing or damaged, or another authority's."""
        return read_list(self.list_pem(), self.certificate, str(self.directory / LIST))

    def list_due(self, now: datetime, renew_days: int) -> str:
        """Why another list is to be signed, empty if none is: there is none that can be used, it lacks a revocation,
        or fewer than `renew_days` days of it are left. One that ends with its authority cannot be had for longer, and
        under one that has ended nobody is accepted anyway.
        """
        if now >= self.info.not_after:
            return ""
        try:
            have = self.revocation_list()
        except FleetError as error:
            return error.found if self.list_pem() else "there is none yet"
        if missing := self._revoked(now) - have.serials:
            return f"{len(missing)} revoked since"
        longest = self.info.not_after - timedelta(hours=1)
        if have.next_update - now < timedelta(days=renew_days) and have.next_update < longest:
            return f"ends {have.next_update:%Y-%m-%d}"
        return ""

    def _revoked(self, now: datetime) -> frozenset[str]:
        """Serials that a list has to name: an expired certificate needs no revocation."""
        revoked = self.revocations()
        if not revoked:
            return frozenset()
        limit = (now - timedelta(days=1)).isoformat()
        return frozenset(record.serial for record in self.journal() if record.not_after >= limit) & frozenset(revoked)

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
        if self.offline:
            raise FleetError(
                subject=f"authority {self.info.common_name}", found=f"a key that is on another machine ({OFFLINE})",
                expected="its key, for this",
                hint="fleet pki requests, fleet pki sign there, fleet pki accept: so it signs without being here",
            )  # fmt: skip
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

    def sign_list(self, days: int, now: datetime | None = None) -> str:
        """Sign a revocation list from the journal, good for `days` (never beyond the authority's end), and keep it."""
        moment = now or datetime.now(UTC)
        authority = self.authority
        with files.locked(authority.directory / ".lock"):
            try:
                number = authority.revocation_list().number + 1
            except FleetError:
                number = 0
            wanted = authority._revoked(moment)
            revoked = [item for item in authority.revocations().values() if item.serial in wanted]
            number = max(number, _number(moment))
            pem = sign_list(revoked, number, authority.certificate, self._key, moment, days)
            files.write_atomic(authority.directory / LIST, pem.encode(), files.PUBLIC)
        return pem


def _number(now: datetime) -> int:
    """Of a revocation list: milliseconds since 1970, so that it rises even where the list before it is lost."""
    return int(now.timestamp() * 1000)


def _key_der(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def _drafted(directory: Path, certificate_pem: str, list_pem: str) -> Iterator[Path]:
    """A folder that becomes ``directory``, with a new authority's public half in it, when the block has ended."""
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.creating-", dir=directory.parent))
        try:
            yield draft
            public = {
                JOURNAL: "",
                ".gitignore": "/.lock\n/.*.tmp\n/.ca-*\n",
                LIST: list_pem,
                CERTIFICATE: certificate_pem,
            }
            for name, text in public.items():
                files.write_atomic(draft / name, text.encode(), files.PUBLIC)
            (draft / ISSUED).mkdir(mode=files.PRIVATE_DIRECTORY)
            os.rename(draft, directory)
            files.sync_directory(directory.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise files.cannot("create", directory, error) from error


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
