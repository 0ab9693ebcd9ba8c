"""Secrets at rest: one age file an inventory, JSON inside, encrypted to the operators' public keys.

Inside: ``{"version": 1, "secrets": {NAME: {"value": ..., "created": ISO 8601 UTC}}}``. Beside it, in plain,
``NAME.recipients`` says whom it is encrypted to, so that it can be encrypted again without asking everybody.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.errors import FleetError
from deploy.model.secrets import SecretSpec
from deploy.trust import files
from deploy.trust.identities import Identity
from deploy.trust.recipients import Recipient, parse_recipients, read_sidecar, write_sidecar
from deploy.trust.sealing import seal, unseal
from deploy.trust.secret import Secret, generate

VERSION = 1
_NAME = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+)*")


@dataclass(frozen=True)
class Entry:
    """A stored secret and when it was made (ISO 8601, UTC)."""

    value: Secret
    created: str


class Vault:
    """An opened secrets file. Changes stay in memory until :meth:`save`.

    The recipients recorded beside the file are public but not authenticated: whoever can change the
    inventory's repository can add a reader to the next save, as they could add themselves to the inventory.
    """

    def __init__(self, path: Path, entries: dict[str, Entry], seen: str | None) -> None:
        """Internal: use :meth:`create` or :meth:`open`. ``seen`` is the digest of the file read."""
        self.path = path
        self._entries = entries
        self._seen = seen

    @property
    def sidecar(self) -> Path:
        """``secrets.age`` -> ``secrets.recipients``."""
        return self.path.with_suffix(".recipients")

    @classmethod
    def create(cls, path: Path, recipients: Iterable[str]) -> Vault:
        """Write a new, empty secrets file; FleetError if there is one already, or for bad recipients."""
        parsed = parse_recipients(recipients, f"recipients of {path}")
        vault = cls(path, {}, None)
        vault._write(parsed)
        return vault

    @classmethod
    def open(cls, path: Path, identities: Sequence[Identity]) -> Vault:
        """Decrypt and parse; FleetError when missing, damaged, not for us or of another version."""
        blob = files.read_bytes(
            path,
            expected="the inventory's encrypted secrets",
            hint=f"Run `fleet secrets init {path.resolve().parent.name}`.",
        )
        plain = unseal(blob, identities, path=path, sidecar=path.with_suffix(".recipients"))
        return cls(path, _parse(plain, path), _digest(blob))

    def names(self) -> list[str]:
        """Names of all stored secrets, sorted."""
        return sorted(self._entries)

    def values(self) -> list[Secret]:
        """All stored values, e.g. for a Masker."""
        return [entry.value for entry in self._entries.values()]

    def get(self, name: str) -> Secret:
        """The secret called ``name``; FleetError when there is none."""
        return self._entry(name).value

    def created(self, name: str) -> datetime:
        """When the secret's present value was made; FleetError when there is none."""
        return datetime.fromisoformat(self._entry(name).created)

    def ensure(self, specs: Mapping[str, SecretSpec]) -> list[str]:
        """Generate the missing ones of ``specs``, change no existing one; the names made, in given order."""
        missing = [name for name in specs if name not in self._entries]
        for name in missing:
            self.put(name, generate(specs[name]))
        return missing

    def renew(self, name: str, spec: SecretSpec) -> Secret:
        """Replace an existing secret by a new value, for a rotation; FleetError when there is none yet."""
        self._entry(name)
        fresh = generate(spec)
        self.put(name, fresh)
        return fresh

    def put(self, name: str, value: Secret) -> None:
        """Store a value, e.g. a password that somebody else issued; replaces what was there."""
        if not _NAME.fullmatch(name):
            raise FleetError(
                subject=f"secret {name!r}",
                found="a name with other characters",
                expected="lower-case letters and digits, in words joined by . _ / or -",
            )
        self._entries[name] = Entry(value, datetime.now(UTC).isoformat(timespec="seconds"))

    def save(self, recipients: Iterable[str] | None = None) -> None:
        """Encrypt to ``recipients`` (None: those recorded beside the file) and replace the file atomically.

        FleetError when the file changed since it was opened: saving would undo somebody else's work.
        """
        parsed = (
            read_sidecar(self.sidecar)
            if recipients is None
            else parse_recipients(recipients, f"recipients of {self.path}")
        )
        self._write(parsed)

    def _write(self, recipients: Sequence[Recipient]) -> None:
        body = {name: {"value": e.value.reveal(), "created": e.created} for name, e in sorted(self._entries.items())}
        blob = seal(json.dumps({"version": VERSION, "secrets": body}).encode(), recipients)
        with files.locked(self.path.with_name(f".{self.path.name}.lock")):
            self._check_unchanged()
            # The sidecar first: a run killed in between has recorded the intention, and the next save does
            # the rest. The other way round, that save would bring a removed operator back.
            write_sidecar(self.sidecar, recipients)
            files.write_atomic(self.path, blob, files.PRIVATE)
        self._seen = _digest(blob)

    def _check_unchanged(self) -> None:
        present = _digest(self.path.read_bytes()) if self.path.exists() else None
        if present == self._seen:
            return
        if self._seen is None:
            found, hint = (
                "an existing secrets file",
                "Use it as it is; move it away first if it is to be replaced.",
            )
        elif present is None:
            found, hint = "removed since it was opened", "Restore it and run again."
        else:
            found, hint = (
                "changed since it was opened",
                "Run again: the present content will then be read first.",
            )
        raise FleetError(subject=str(self.path), found=found, expected="nobody else's changes", hint=hint)

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise FleetError(
                subject=f"secret {name!r}",
                found=f"not among the {len(self._entries)} secrets of {self.path}",
                expected="a stored secret",
                hint=f"Run `fleet secrets init {self.path.resolve().parent.name}` to make what is missing.",
            ) from None


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _parse(plain: bytes, path: Path) -> dict[str, Entry]:
    # Errors say where, never what: this text is the secrets themselves. "from None", because a JSON error
    # carries the whole document it failed on.
    try:
        document: Any = json.loads(plain)
        version = int(document["version"])
        if version == VERSION:
            return {name: _parse_entry(item) for name, item in document["secrets"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        version = None
    raise FleetError(
        subject=str(path),
        found="not a secrets document inside" if version is None else f"version {version}",
        expected=f"a secrets document of version {VERSION}",
        hint="Restore it from version control." if version is None else "Update this program.",
    ) from None


def _parse_entry(item: Any) -> Entry:
    datetime.fromisoformat(item["created"])
    return Entry(Secret(item["value"]), item["created"])
