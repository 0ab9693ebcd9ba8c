"""Encrypting to operators and decrypting as one of them (age, https://age-encryption.org/v1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyrage

from deploy.errors import FleetError
from deploy.trust.identities import Identity
from deploy.trust.recipients import Recipient, read_sidecar

_MAGIC = b"age-encryption.org/v1\n"


def seal(data: bytes, recipients: Sequence[Recipient]) -> bytes:
    """``data`` encrypted so that any one of ``recipients`` (from parse_recipients) can open it."""
    return bytes(pyrage.encrypt(data, [recipient.key for recipient in recipients]))


def looks_sealed(blob: bytes) -> bool:
    """Whether ``blob`` starts as an age file does."""
    return blob.startswith(_MAGIC)


def unseal(blob: bytes, identities: Sequence[Identity], *, path: Path, sidecar: Path) -> bytes:
    """Decrypt ``blob``, read from ``path``, with whichever identity fits.

    Raises FleetError, telling apart: empty or cut short, not an age file, encrypted to other people (naming
    the identities tried and the recipients recorded in ``sidecar``), and altered after it was written.
    """
    if not blob or (len(blob) < len(_MAGIC) and _MAGIC.startswith(blob)):
        raise _damaged(path, f"{len(blob)} bytes: truncated")
    if not looks_sealed(blob):
        raise _damaged(path, "not an age file (its first line is another)")
    if not identities:
        raise FleetError(
            subject=str(path),
            found="no identity to decrypt with",
            expected="one operator's private key",
            hint="Pass --identity PATH.",
        )
    try:
        return bytes(pyrage.decrypt(blob, [identity.key for identity in identities]))
    except pyrage.DecryptError as error:
        reason = str(error)
        # The library has one exception type; its texts are pinned by the unit tests.
        if "No matching keys" in reason:
            raise _not_for_us(path, identities, sidecar) from error
        if "fill whole buffer" in reason:
            raise _damaged(path, f"truncated after {len(blob)} bytes") from error
        raise _damaged(path, f"altered or truncated ({reason})") from error


def _not_for_us(path: Path, identities: Sequence[Identity], sidecar: Path) -> FleetError:
    tried = ", ".join(dict.fromkeys(str(identity.path) for identity in identities))
    ours = {identity.recipient for identity in identities}
    try:
        recorded = read_sidecar(sidecar)
    except FleetError:
        recipients, member = f"unknown ({sidecar.name} is missing or unreadable)", False
    else:
        recipients = ", ".join(recipient.label for recipient in recorded)
        member = any(recipient.text in ours for recipient in recorded)
    hint = (
        f"{sidecar.name} does list this key, so one of the two files is from another time: "
        "restore both from the same commit, or have another operator save again."
        if member
        else "Pass --identity with a key listed there, or have one of these operators add yours."
    )
    return FleetError(
        subject=str(path),
        found=f"a file that {tried} cannot decrypt",
        expected=f"an identity of one of its recipients: {recipients}",
        hint=hint,
    )


def _damaged(path: Path, found: str) -> FleetError:
    return FleetError(
        subject=str(path),
        found=found,
        expected="an intact age file",
        hint=f"Restore it from version control or a backup, e.g. `git checkout -- {path}`.",
    )
