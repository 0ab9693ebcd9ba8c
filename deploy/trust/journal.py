"""The authority's journals: a line of JSON for each certificate signed, and for each revoked, only ever appended to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from deploy.errors import FleetError
from deploy.trust import files


@dataclass(frozen=True)
class IssuanceRecord:
    """serial, fingerprint and key digest as in CertificateInfo; times are ISO 8601, UTC."""

    serial: str
    subject: str
    role: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    usages: tuple[str, ...]
    not_before: str
    not_after: str
    fingerprint: str
    public_key_sha256: str
    issued_at: str
    requester: str


@dataclass(frozen=True)
class Revocation:
    """serial as in CertificateInfo; reason as RFC 5280 names it; revoked_at ISO 8601, UTC; by: who asked for it."""

    serial: str
    reason: str
    revoked_at: str
    by: str


Record = TypeVar("Record", IssuanceRecord, Revocation)


def append(path: Path, record: Record) -> None:
    """Add a record, durable when this returns. The caller holds the authority's lock."""
    line = json.dumps(asdict(record), sort_keys=True).encode() + b"\n"
    try:
        with path.open("a+b") as stream:
            _mend_tail(stream.fileno(), path, type(record))
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise files.cannot("write", path, error) from error


def _mend_tail(descriptor: int, path: Path, kind: type[Record]) -> None:
    """Deal with a last line that has no line end: the writer was killed, or an editor removed the line end.

    A torn line records nothing: a certificate is handed out only after its record is on disk. It is cut off,
    since appending to it would damage the next record as well.
    """
    content = path.read_bytes()
    tail = content.rpartition(b"\n")[2]
    if not tail:
        return
    if _parse(tail, kind) is None:
        os.ftruncate(descriptor, len(content) - len(tail))
    else:
        os.write(descriptor, b"\n")


def read(path: Path) -> tuple[IssuanceRecord, ...]:
    """All certificates, oldest first. A torn last line is passed over; any other damage is a FleetError."""
    return _read(path, IssuanceRecord, "the authority's issuance journal")


def read_revocations(path: Path) -> tuple[Revocation, ...]:
    """All revocations, oldest first, none if there is no file yet. Damage as in :func:`read`."""
    return _read(path, Revocation, "the authority's journal of revocations") if path.exists() else ()


def _read(path: Path, kind: type[Record], expected: str) -> tuple[Record, ...]:
    data = files.read_bytes(path, expected=expected, hint="Restore it from version control.")
    lines = data.split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line, kind)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise FleetError(
                subject=f"{path}, line {number}",
                found="not an issuance record" if kind is IssuanceRecord else "not a revocation",
                expected="one JSON object a line, never edited",
                hint="Restore it from version control; resolve a merge conflict by keeping both sides.",
            )
    return tuple(records)


def _parse(line: bytes, kind: type[Record]) -> Record | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        for name in ("dns_names", "ip_addresses", "usages"):
            if name in fields:
                fields[name] = tuple(fields[name])
        return kind(**fields)
    except (ValueError, TypeError, KeyError):
        return None
