"""The issuance journal: one JSON line for each certificate ever signed, only ever appended to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


def append(path: Path, record: IssuanceRecord) -> None:
    """Add a record, durable when this returns. The caller holds the authority's lock."""
    line = json.dumps(asdict(record), sort_keys=True).encode() + b"\n"
    try:
        with path.open("a+b") as stream:
            _mend_tail(stream.fileno(), path)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise files.cannot("write", path, error) from error


def _mend_tail(descriptor: int, path: Path) -> None:
    """Deal with a last line that has no line end: the writer was killed, or an editor removed the line end.

    A torn line records nothing: a certificate is handed out only after its record is on disk. It is cut off,
    since appending to it would damage the next record as well.
    """
    content = path.read_bytes()
    tail = content.rpartition(b"\n")[2]
    if not tail:
        return
    if _parse(tail) is None:
        os.ftruncate(descriptor, len(content) - len(tail))
    else:
        os.write(descriptor, b"\n")


def read(path: Path) -> tuple[IssuanceRecord, ...]:
    """All records, oldest first. A torn last line is passed over; any other damage is a FleetError."""
    data = files.read_bytes(path, expected="the authority's issuance journal", hint="Restore it from version control.")
    lines = data.split(b"\n")
    records: list[IssuanceRecord] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise FleetError(
                subject=f"{path}, line {number}",
                found="not an issuance record",
                expected="one JSON object a line, never edited",
                hint="Restore it from version control; resolve a merge conflict by keeping both sides.",
            )
    return tuple(records)


def _parse(line: bytes) -> IssuanceRecord | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        for name in ("dns_names", "ip_addresses", "usages"):
            fields[name] = tuple(fields[name])
        return IssuanceRecord(**fields)
    except (ValueError, TypeError, KeyError):
        return None
