"""Signing on a machine that no network reaches: requests go there in one file, certificates come back in another.

That machine has the authority's folder with its key; the controller has it without the key and its recipients, and an
empty `ca.offline` in their place. Both keep their own journal; what was signed there is taken into the one here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from deploy.errors import FleetError
from deploy.trust import files, journal
from deploy.trust.authority import ISSUED, JOURNAL, LIST, REVOKED, Authority, Signer
from deploy.trust.certificates import LeafProfile, describe, parse_certificate
from deploy.trust.following import Following, Wanted, make
from deploy.trust.identities import Identity
from deploy.trust.journal import IssuanceRecord, Revocation
from deploy.trust.revocation import read_list

REQUESTS, CERTIFICATES, VERSION = "requests.json", "certificates.json", 1


@dataclass(frozen=True)
class Request:
    """What a host asks for: `name` is that of the certificate's resource there."""

    host: str
    name: str
    csr: str
    profile: LeafProfile

    @property
    def line(self) -> str:
        """For the eyes of who signs."""
        of = self.profile
        usages = " ".join(word for word, on in (("server", of.server_auth), ("client", of.client_auth)) if on)
        names = ", ".join((*of.dns_names, *of.ip_addresses))
        return f"{self.host}: {of.subject_slash} ({usages}, {of.days} days) for {names}"


@dataclass(frozen=True)
class Asked:
    requests: tuple[Request, ...]
    revocations: tuple[Revocation, ...]
    days: int
    """Life of a revocation list."""
    following: Wanted | None = None


@dataclass(frozen=True)
class Answer:
    host: str
    name: str
    record: IssuanceRecord
    pem: str


@dataclass(frozen=True)
class Answered:
    """`list`: the revocation list, PEM."""

    certificates: tuple[Answer, ...]
    list: str
    following: Following | None = None


def ask(
    folder: Path, authority: Authority, requests: Sequence[Request], days: int, following: Wanted | None = None
) -> Path:
    """Write the file of requests, with what was revoked here. following: the authority that is to be made."""
    return _write(
        folder / REQUESTS, authority,
        {
            "days": days, "revocations": [asdict(one) for one in authority.revocations().values()],
            "requests": [asdict(one) for one in requests], "following": asdict(following) if following else None,
        },
    )  # fmt: skip


def asked_of(folder: Path, pki: Path) -> Authority:
    """Which authority of those in pki/ a file of requests is for; the first where none is.

    Raises:
        FleetError: there is no such file, or an authority is incomplete.
    """
    every = [Authority.load(pki), *(Authority.load(one.parent) for one in sorted(pki.glob("ca-*/ca.crt")))]
    data = files.read_bytes(folder / REQUESTS, expected="what fleet pki requests wrote", hint="Carry the folder here.")
    return next((one for one in every if one.info.fingerprint in data.decode(errors="replace")), every[0])


def asked(folder: Path, authority: Authority) -> Asked:
    """What a file of requests holds. Raises FleetError: it is none, is damaged, or for another authority."""
    document = _read(folder / REQUESTS, authority, "fleet pki requests")
    try:
        found = tuple(
            Request(str(one["host"]), str(one["name"]), str(one["csr"]), _profile(one["profile"]))
            for one in document["requests"]
        )
        revoked = tuple(Revocation(**one) for one in document["revocations"])
        return Asked(found, revoked, int(document["days"]), _wanted(document["following"]))
    except (KeyError, TypeError, ValueError):
        raise _damaged(folder / REQUESTS, "fleet pki requests") from None


def sign(folder: Path, signer: Signer, wanted: Asked, identities: Sequence[Identity] = ()) -> Path:
    """Sign all that is asked for and a list of what is revoked, make the authority that is to follow, if one is, and
    write the file that goes back. identities: they open that one as well.
    """
    authority = signer.authority
    for one in wanted.revocations:
        adopt_revocation(authority, one)
    answers = []
    for request in wanted.requests:
        pem = signer.sign(request.csr, request.profile, requester=request.host)
        record = next(one for one in reversed(authority.journal()) if one.serial == describe(pem).serial)
        answers.append({"host": request.host, "name": request.name, "record": asdict(record), "pem": pem})
    signed = signer.sign_list(wanted.days)
    made = asdict(make(signer, wanted.following, identities)) if wanted.following else None
    return _write(folder / CERTIFICATES, authority, {"certificates": answers, "list": signed, "following": made})


def answered(folder: Path, authority: Authority) -> Answered:
    """What is in the file that came back, certificates and list seen to be the authority's own.

    Raises:
        FleetError: it is none, is damaged, or from another authority.
    """
    document = _read(folder / CERTIFICATES, authority, "fleet pki sign")
    try:
        found = []
        for one in document["certificates"]:
            record = dict(one["record"])
            for name in ("dns_names", "ip_addresses", "usages"):
                record[name] = tuple(record[name])
            found.append(Answer(str(one["host"]), str(one["name"]), IssuanceRecord(**record), str(one["pem"])))
        text, made = str(document["list"]), document["following"]
        following = Following(**made) if made else None
    except (KeyError, TypeError, ValueError):
        raise _damaged(folder / CERTIFICATES, "fleet pki sign") from None
    for answer in found:
        info = describe(answer.pem, authority.certificate_pem)
        if (info.serial, info.fingerprint) != (answer.record.serial, answer.record.fingerprint):
            raise _damaged(folder / CERTIFICATES, "fleet pki sign")
    read_list(text, authority.certificate, f"{folder / CERTIFICATES}, its revocation list")
    return Answered(tuple(found), text, following)


def adopt(authority: Authority, answers: Iterable[Answer], text: str) -> None:
    """Take what was signed elsewhere into the journal here, and the list in place of ours, unless ours is newer."""
    with files.locked(authority.directory / ".lock"):
        known = {one.serial for one in authority.journal()}
        for answer in answers:
            if answer.record.serial not in known:
                journal.append(authority.directory / JOURNAL, answer.record)
            (authority.directory / ISSUED).mkdir(mode=files.PRIVATE_DIRECTORY, exist_ok=True)
            pem = parse_certificate(answer.pem).public_bytes(Encoding.PEM)
            files.write_atomic(authority.directory / ISSUED / f"{answer.record.serial}.crt", pem, files.PUBLIC)
        try:
            newest = authority.revocation_list().number
        except FleetError:
            newest = -1
        if read_list(text, authority.certificate).number > newest:
            files.write_atomic(authority.directory / LIST, text.encode(), files.PUBLIC)


def adopt_revocation(authority: Authority, one: Revocation) -> None:
    """Take a revocation that was recorded elsewhere into the journal here."""
    with files.locked(authority.directory / ".lock"):
        if one.serial not in authority.revocations():
            journal.append(authority.directory / REVOKED, one)


def _wanted(fields: dict[str, Any] | None) -> Wanted | None:
    if not fields:
        return None
    more = {"profile": _profile(fields["profile"]), "permitted": tuple(map(str, fields["permitted"]))}
    return Wanted(**{**fields, **more})


def _profile(fields: dict[str, Any]) -> LeafProfile:
    names = {name: tuple(fields[name]) for name in ("dns_names", "ip_addresses")}
    return LeafProfile(**{**fields, **names})


def _write(path: Path, authority: Authority, document: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "version": VERSION, "authority": authority.info.fingerprint,
        "at": datetime.now(UTC).isoformat(timespec="seconds"), **document,
    }  # fmt: skip
    files.write_atomic(path, (json.dumps(whole, indent=2) + "\n").encode(), files.PUBLIC)
    return path


def _read(path: Path, authority: Authority, by: str) -> dict[str, Any]:
    data = files.read_bytes(path, expected=f"what {by} wrote", hint=f"Run {by} with this folder.")
    try:
        document: dict[str, Any] = json.loads(data)
        version, whose = document["version"], document["authority"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, by) from None
    if version != VERSION or whose != authority.info.fingerprint:
        raise FleetError(
            subject=str(path), found=f"version {version} of an authority {str(whose)[:16]}...",
            expected=f"version {VERSION}, for {authority.info.common_name} ({authority.info.fingerprint[:16]}...)",
            hint="see that the folder and the authority belong together",
        )  # fmt: skip
    return document


def _damaged(path: Path, by: str) -> FleetError:
    return FleetError(subject=str(path), found="a damaged file", expected=f"what {by} wrote", hint=f"run {by} again")
