"""Recipients: the public keys of the operators who may open what is encrypted at rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage

from deploy.errors import FleetError
from deploy.trust import files

_SSH_TYPES = ("ssh-ed25519", "ssh-rsa")
_EXPECTED = "an SSH public key (ssh-ed25519, or ssh-rsa of 2048 bits or more) or an age1... key"
_HEADER = "# Who can decrypt the file beside this one. Written by the last save; edit the inventory instead.\n"


@dataclass(frozen=True)
class Recipient:
    """One public key. ``text`` is the key without its comment, ``comment`` whose it is (may be empty)."""

    text: str
    comment: str = ""
    key: Any = field(default=None, repr=False, compare=False)

    @property
    def line(self) -> str:
        """As written in the sidecar and in an ``authorized_keys`` file."""
        return f"{self.text} {self.comment}".rstrip()

    @property
    def label(self) -> str:
        """Short form for messages: the comment if there is one, and enough of the key to tell two apart."""
        kind, _, body = self.text.rpartition(" ")
        short = f"{kind} ...{body[-8:]}" if kind else f"{body[:12]}..."
        return f"{self.comment} ({short})" if self.comment else short


def parse_recipients(lines: Iterable[str], source: str) -> tuple[Recipient, ...]:
    """Parse one public key a line; blank lines and ``#`` comments are skipped, duplicates kept once.

    ``source`` names where the lines come from in errors (a file, an inventory key).
    Raises FleetError for a malformed key, a private key (whose text is never repeated) or no key at all.
    """
    parsed: dict[str, Recipient] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if line and not line.startswith("#"):
            recipient = _parse(line, f"{source}, recipient {number}")
            parsed.setdefault(recipient.text, recipient)
    if not parsed:
        raise FleetError(
            subject=source,
            found="no recipients",
            expected="at least one operator's public key",
            hint="Add the content of ~/.ssh/id_ed25519.pub: without a recipient nobody could ever decrypt.",
        )
    return tuple(parsed.values())


def _parse(line: str, subject: str) -> Recipient:
    if "PRIVATE KEY" in line.upper() or line.upper().startswith("AGE-SECRET-KEY-"):
        raise FleetError(
            subject=subject,
            found="a private key (not repeated here)",
            expected=_EXPECTED,
            hint="Put the public half there, and replace this key pair: its private half was in plain sight.",
        )
    words = line.split(None, 2)
    try:
        if words[0] in _SSH_TYPES:
            text = " ".join(words[:2])
            return Recipient(text, words[2] if len(words) > 2 else "", pyrage.ssh.Recipient.from_str(text))
        if words[0].startswith("age1"):
            return Recipient(words[0], " ".join(words[1:]), pyrage.x25519.Recipient.from_str(words[0]))
    except pyrage.RecipientError as error:
        raise FleetError(
            subject=subject,
            found=f"{_shortened(line)!r}: {error}",
            expected=_EXPECTED,
            hint="Copy the whole line of the .pub file again.",
        ) from error
    raise FleetError(
        subject=subject,
        found=repr(_shortened(line)),
        expected=_EXPECTED,
        hint="ECDSA and hardware-backed (sk-...) SSH keys cannot decrypt age files: use an ed25519 key.",
    )


def _shortened(line: str) -> str:
    return line if len(line) <= 40 else f"{line[:37]}..."


def write_sidecar(path: Path, recipients: Iterable[Recipient]) -> None:
    """Record, in plain, whom the file beside it is encrypted to: age itself does not tell."""
    body = "".join(f"{recipient.line}\n" for recipient in recipients)
    files.write_atomic(path, (_HEADER + body).encode(), files.PUBLIC)


def read_sidecar(path: Path) -> tuple[Recipient, ...]:
    """The recorded recipients; FleetError when the sidecar is missing or malformed."""
    data = files.read_bytes(
        path,
        expected="the recorded list of recipients",
        hint="Restore it from version control, or pass the recipients again.",
    )
    return parse_recipients(data.decode("utf-8", errors="replace").splitlines(), str(path))
