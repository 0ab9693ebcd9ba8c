"""The operator's own key, which opens what is encrypted at rest.

Looked for in this order: an explicit path, the environment's FLEET_IDENTITY, then ~/.ssh/id_ed25519 and
~/.ssh/id_rsa. An SSH private key and an age identity file (``age-keygen``'s format) are both accepted.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import os
import resource
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from deploy.errors import FleetError

ENVIRONMENT_VARIABLE = "FLEET_IDENTITY"
DEFAULT_NAMES = ("id_ed25519", "id_rsa")

Passphrase = Callable[[Path], str]
"""Asks the operator for the passphrase of the key at that path."""

_EXPECTED = "an ed25519 or RSA SSH private key, or an age identity file"


@dataclass(frozen=True)
class Identity:
    """A private key ready to decrypt. ``recipient`` is its public half, as it appears among recipients."""

    path: Path
    recipient: str
    key: Any = field(repr=False, compare=False)  # an age key prints itself in full: it must not reach a repr


def load_identities(
    option: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
    passphrase: Passphrase | None = None,
) -> tuple[Identity, ...]:
    """The identities to try, at least one.

    A path that was asked for (``option`` or the environment) must load; of the defaults, those that exist and
    load are used, and the first one's error is raised only when none does. A passphrase-protected key is
    decrypted in memory, its passphrase asked for by ``passphrase`` (the terminal, where there is one).
    Raises FleetError: nothing found, unreadable, readable by others, protected, not a key, of another kind.
    """
    # Whoever holds a key, and then what it opens, leaves no file with all its memory behind when it dies.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    environ = os.environ if environ is None else environ
    if passphrase is None and sys.stdin and sys.stdin.isatty():
        passphrase = _from_terminal
    asked = option or (Path(environ[ENVIRONMENT_VARIABLE]) if environ.get(ENVIRONMENT_VARIABLE) else None)
    if asked is not None:
        return _load(asked.expanduser(), passphrase)

    folder = (home or Path.home()) / ".ssh"
    loaded: list[Identity] = []
    errors: list[FleetError] = []
    for path in (folder / name for name in DEFAULT_NAMES):
        if path.exists():
            try:
                loaded.extend(_load(path, passphrase))
            except FleetError as error:
                errors.append(error)
    if loaded:
        return tuple(loaded)
    if errors:
        raise errors[0]
    raise FleetError(
        subject="identity",
        found=f"none of {', '.join(str(folder / name) for name in DEFAULT_NAMES)}",
        expected=_EXPECTED,
        hint=f"Pass --identity PATH or set {ENVIRONMENT_VARIABLE}.",
    )


# Once for a command that opens the secrets anew at each of its steps.
@cache
def _from_terminal(path: Path) -> str:
    return getpass.getpass(f"Passphrase of {path}: ")


def _load(path: Path, passphrase: Passphrase | None) -> tuple[Identity, ...]:
    data = _read_private(path)
    text = data.decode("utf-8", errors="replace").strip()
    if "AGE-SECRET-KEY-1" in text:
        return _age_identities(path, text)
    if text.startswith(("ssh-", "ecdsa-", "sk-", "age1")):
        raise _refused(path, "a public key", "Give the private key: the same path without .pub.")
    if _needs_passphrase(text):
        data = _decrypted(path, data, passphrase)
    return (_ssh_identity(path, data),)


def _read_private(path: Path) -> bytes:
    """Content of a key file that only its owner can read; checked on the opened file, not on the name."""
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if not stat.S_ISREG(status.st_mode):
                raise _refused(path, "not a regular file", "Give the path of the key file itself.")
            if mode & 0o077:
                raise FleetError(
                    subject=str(path),
                    found=f"mode {mode:04o}, open to group or others",
                    expected="mode 0600 (readable by its owner only)",
                    hint=f"Run `chmod 600 {path}`, and replace the key if others use this machine.",
                )
            return stream.read()
    except FileNotFoundError as error:
        hint = f"Check --identity or {ENVIRONMENT_VARIABLE}."
        raise _refused(path, "no such file", hint) from error
    except OSError as error:
        found = f"cannot read: {error.strerror or error}"
        raise _refused(path, found, "Give the path of a key file this user can read.") from error


def _age_identities(path: Path, text: str) -> tuple[Identity, ...]:
    identities = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            try:
                key = pyrage.x25519.Identity.from_str(entry)
            except pyrage.IdentityError as error:
                found = f"line {number} is not an age identity ({error})"
                raise _refused(path, found, "Restore the file from where it was made.") from error
            identities.append(Identity(path, str(key.to_public()), key))
    return tuple(identities)


def _ssh_identity(path: Path, data: bytes) -> Identity:
    try:
        key = pyrage.ssh.Identity.from_buffer(data)
        return Identity(path, _public_line(_private_key(data, None)), key)
    except (pyrage.IdentityError, ValueError, UnsupportedAlgorithm) as error:
        # ECDSA and hardware keys end here: age has no stanza for them.
        hint = "Make a key with `ssh-keygen -t ed25519`, and have it added to the recipients."
        raise _refused(path, f"not usable ({error})", hint) from error


def _needs_passphrase(text: str) -> bool:
    if "Proc-Type: 4,ENCRYPTED" in text or "BEGIN ENCRYPTED PRIVATE KEY" in text:
        return True
    if "BEGIN OPENSSH PRIVATE KEY" not in text:
        return False
    body = "".join(line for line in text.splitlines() if not line.startswith("-----"))
    try:
        blob = base64.b64decode(body)
    except (binascii.Error, ValueError):
        return False
    # openssh-key-v1: the magic, then the cipher's name as a length-prefixed string (OpenSSH PROTOCOL.key).
    return blob.startswith(b"openssh-key-v1\0") and not blob[15:].startswith(b"\0\0\0\x04none")


def _decrypted(path: Path, data: bytes, passphrase: Passphrase | None) -> bytes:
    """The key re-encoded without its passphrase, in memory only: the age library takes plain keys alone."""
    if passphrase is None:
        raise FleetError(
            subject=str(path),
            found="a passphrase-protected key, and nobody to ask for the passphrase",
            expected=_EXPECTED + " that opens without a passphrase",
            hint="Run in a terminal, or point --identity at an age identity kept for this purpose "
            "(`age-keygen`); ssh-agent cannot decrypt age files.",
        )
    try:
        key = _private_key(data, passphrase(path).encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError(
            subject=str(path),
            found="a passphrase that does not open the key, or a damaged key",
            expected="the passphrase of this key",
            hint=f"Check it with `ssh-keygen -y -f {path}`.",
        ) from error
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _private_key(data: bytes, password: bytes | None) -> Ed25519PrivateKey | RSAPrivateKey:
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    key = load_ssh_private_key(data, password) if openssh else load_pem_private_key(data, password)
    if not isinstance(key, Ed25519PrivateKey | RSAPrivateKey):
        raise ValueError(f"unsupported key type {type(key).__name__}")
    return key


def _public_line(key: Ed25519PrivateKey | RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _refused(path: Path, found: str, hint: str) -> FleetError:
    return FleetError(subject=str(path), found=found, expected=_EXPECTED, hint=hint)
