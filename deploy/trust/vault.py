"""Secrets at rest: one age file an inventory, JSON inside, encrypted to the operators' public keys.

Inside: ``{"version": 2, "secrets": {NAME: {"value": VALUE, "target": VALUE or null, "phase": PHASE or null}},
"removed": [{"who": ..., "at": ISO 8601 UTC}]}``, a VALUE being ``{"secret": ..., "created": ISO 8601 UTC, "turn": 0}``
(see rotation.py). Version 1, which knew no changes (``{NAME: {"value": ..., "created": ...}}``), is read as well, and
becomes version 2 at the next save. Beside it, in plain, ``NAME.recipients`` says whom it is encrypted to, so that it
can be encrypted again without asking everybody.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.errors import FleetError
from deploy.model.secrets import Credential, SecretSpec
from deploy.trust import files
from deploy.trust.identities import Identity
from deploy.trust.recipients import Recipient, parse_recipients, read_sidecar, write_sidecar
from deploy.trust.rotation import Entry, Phase, Value
from deploy.trust.sealing import seal, unseal
from deploy.trust.secret import Secret, generate

VERSION = 2
_NAME = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+)*")


@dataclass(frozen=True)
class Removed:
    """Somebody who was an operator, and since when (ISO 8601, UTC) not any more."""

    who: str
    at: str


class Vault:
    """An opened secrets file. Changes stay in memory until :meth:`save`.

    The recipients recorded beside the file are public but not authenticated: whoever can change the
    inventory's repository can add a reader to the next save, as they could add themselves to the inventory.
    """

    def __init__(
        self, path: Path, entries: dict[str, Entry], seen: str | None, removed: Iterable[Removed] = ()
    ) -> None:
        """Internal: use :meth:`create` or :meth:`open`. ``seen`` is the digest of the file read."""
        self.path = path
        self.removed = tuple(removed)
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
        entries, removed = _parse(plain, path)
        return cls(path, entries, _digest(blob), removed)

    def names(self) -> list[str]:
        """Names of all stored secrets, sorted."""
        return sorted(self._entries)

    def values(self) -> list[Secret]:
        """All stored values, those of changes under way included, e.g. for a Masker."""
        return [value.secret for entry in self._entries.values() for value in entry.values]

    def get(self, name: str) -> Secret:
        """The value that clients of the secret called ``name`` come with; FleetError when there is none."""
        return self.entry(name).used.secret

    def accepted(self, name: str) -> tuple[Credential, ...]:
        """What servers take; FleetError when there is no such secret."""
        return tuple(Credential(one.secret.reveal(), one.turn) for one in self.entry(name).accepted)

    def created(self, name: str) -> datetime:
        """When the value that clients come with was made; FleetError when there is none."""
        return datetime.fromisoformat(self.entry(name).used.created)

    def changing(self) -> dict[str, Phase]:
        """The secrets that are on their way to another value, and how far."""
        return {name: entry.phase for name, entry in sorted(self._entries.items()) if entry.phase}

    def begin(self, name: str, secret: Secret) -> None:
        """Begin a change to this value; FleetError when one is under way, or it is the value already."""
        entry = self.entry(name)
        if entry.phase or secret in [value.secret for value in entry.values]:
            raise FleetError(
                subject=f"secret {name}",
                found=f"a change under way, in its phase {entry.phase.value!r}" if entry.phase else "the value it has",
                expected="no change under way" if entry.phase else "another value",
                hint="fleet secrets rotate goes on with it, or back with --abort." if entry.phase else "",
            )
        self._entries[name] = entry.begun(secret, _now())

    def advance(self) -> None:
        """What comes after the present phase of every change, which all hosts were proven to have."""
        self._entries = {name: entry.proven() if entry.phase else entry for name, entry in self._entries.items()}

    def turn_back(self) -> None:
        """Every change goes the other way."""
        self._entries = {name: entry.back() for name, entry in self._entries.items()}

    def remove(self, who: str) -> None:
        """Somebody who could read all of it is no operator any more."""
        self.removed = (*self.removed, Removed(who, _now()))

    def known_to(self, name: str) -> tuple[str, ...]:
        """Who could read the value that clients come with, and is no operator any more."""
        created = self.created(name)
        return tuple(dict.fromkeys(one.who for one in self.removed if created <= datetime.fromisoformat(one.at)))

    def ensure(self, specs: Mapping[str, SecretSpec]) -> list[str]:
        """Generate the missing ones of ``specs``, change no existing one; the names made, in given order."""
        missing = [name for name in specs if name not in self._entries]
        for name in missing:
            self.put(name, generate(specs[name]))
        return missing

    def renew(self, name: str, spec: SecretSpec) -> Secret:
        """Replace an existing secret by a new value at once; FleetError when there is none yet."""
        self.entry(name)
        fresh = generate(spec)
        self.put(name, fresh)
        return fresh

    def put(self, name: str, value: Secret) -> None:
        """Store a value, e.g. a password that somebody else issued; replaces what was there, whatever became of it."""
        if not _NAME.fullmatch(name):
            raise FleetError(
                subject=f"secret {name!r}",
                found="a name with other characters",
                expected="lower-case letters and digits, in words joined by . _ / or -",
            )
        earlier = self._entries.get(name)
        self._entries[name] = Entry(Value(value, _now(), earlier.used.turn if earlier else 0))

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
        body = {name: _written(entry) for name, entry in sorted(self._entries.items())}
        document = {"version": VERSION, "secrets": body, "removed": [asdict(one) for one in self.removed]}
        blob = seal(json.dumps(document).encode(), recipients)
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

    def entry(self, name: str) -> Entry:
        """All that is stored of a secret; FleetError when there is none."""
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


def _parse(plain: bytes, path: Path) -> tuple[dict[str, Entry], list[Removed]]:
    # Errors say where, never what: this text is the secrets themselves. "from None", because a JSON error
    # carries the whole document it failed on.
    try:
        document: Any = json.loads(plain)
        version = int(document["version"])
        if version in _READERS:
            entries = {name: _READERS[version](item) for name, item in document["secrets"].items()}
            return entries, [_parse_removed(item) for item in document.get("removed", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        version = None
    raise FleetError(
        subject=str(path),
        found="not a secrets document inside" if version is None else f"version {version}",
        expected=f"a secrets document of version {VERSION}, or an earlier one",
        hint="Restore it from version control." if version is None else "Update this program.",
    ) from None


def _now() -> str:
    # To the microsecond: whether a value was made before or after somebody left is told by it.
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _written(entry: Entry) -> dict[str, Any]:
    return {
        "value": _written_value(entry.value),
        "target": _written_value(entry.target) if entry.target else None,
        "phase": entry.phase.value if entry.phase else None,
    }


def _written_value(value: Value) -> dict[str, Any]:
    return {**asdict(value), "secret": value.secret.reveal()}


def _parse_value(item: Any) -> Value:
    datetime.fromisoformat(item["created"])
    return Value(Secret(item["secret"]), item["created"], int(item["turn"]))


def _parse_removed(item: Any) -> Removed:
    datetime.fromisoformat(item["at"])
    return Removed(str(item["who"]), item["at"])


def _parse_entry(item: Any) -> Entry:
    target = _parse_value(item["target"]) if item["target"] else None
    return Entry(_parse_value(item["value"]), target, Phase(item["phase"]) if item["phase"] else None)


def _parse_first(item: Any) -> Entry:
    """An entry of version 1."""
    datetime.fromisoformat(item["created"])
    return Entry(Value(Secret(item["value"]), item["created"]))


_READERS = {1: _parse_first, 2: _parse_entry}
