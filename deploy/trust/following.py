"""The authority that is to follow one whose key is elsewhere: asked for here, made there, its public half taken here.

On the way from one to the other, every port is shown a certificate of each (see procedures/pki/change.py). Where no key
is here to make one, both are signed there as well, for a key that is here: the canaries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import FleetError
from deploy.trust import signing
from deploy.trust.authority import CERTIFICATE, SIDECAR, Authority, Signer
from deploy.trust.certificates import LeafProfile, describe, parse_certificate
from deploy.trust.identities import Identity
from deploy.trust.recipients import read_sidecar
from deploy.trust.revocation import read_list

FOLDER = re.compile(r"ca-[0-9]{1,6}")


@dataclass(frozen=True)
class Wanted:
    """What it is to be (as Authority.create takes it), its folder below pki/, and what the canaries are to be."""

    folder: str
    name: str
    key_bits: int
    days: int
    permitted: tuple[str, ...]
    csr: str
    profile: LeafProfile

    def __post_init__(self) -> None:
        if not FOLDER.fullmatch(self.folder):
            raise ValueError(f"no folder of an authority: {self.folder!r}")

    @property
    def line(self) -> str:
        """For the eyes of who makes it."""
        names = ", ".join(self.permitted) or "any name"
        return f"another CA, {self.name}: RSA {self.key_bits}, {self.days} days, for {names}"


@dataclass(frozen=True)
class Following:
    """Its public half. `canaries`: fingerprint of an authority -> what it signed, PEM."""

    folder: str
    certificate: str
    list: str
    canaries: Mapping[str, str]


def make(present: Signer, wanted: Wanted, identities: Sequence[Identity]) -> Following:
    """Make it beside the present one, sealed to whom that is sealed to; one that was made before is taken.

    Raises:
        FleetError: it cannot be made, or not be opened.
    """
    path = root(present.authority) / wanted.folder
    if not (path / CERTIFICATE).exists():
        recipients = [one.line for one in read_sidecar(present.authority.directory / SIDECAR)]
        Authority.create(
            path, wanted.name, recipients, key_bits=wanted.key_bits, days=wanted.days, permitted=wanted.permitted
        )
    made = Authority.load(path)
    signers = (present, made.unlock(identities))
    canaries = {
        one.authority.info.fingerprint: one.sign(wanted.csr, wanted.profile, requester=wanted.profile.role)
        for one in signers
    }
    return Following(wanted.folder, made.certificate_pem, made.list_pem(), canaries)


def take(present: Authority, found: Following) -> Authority:
    """Its public half goes where the authorities of the inventory are; it counts for nothing yet.

    Raises:
        FleetError: it is no authority, or not everything is signed by whom it should be.
    """
    certificate = parse_certificate(found.certificate, "the next CA")
    if not FOLDER.fullmatch(found.folder) or not signing.is_root(certificate):
        raise FleetError(
            subject="the next CA", found="not a self-signed authority", expected="what fleet pki sign made",
            hint="run fleet pki sign again",
        )  # fmt: skip
    read_list(found.list, certificate, "the next CA's revocation list")
    new = describe(found.certificate).fingerprint
    for fingerprint, issuer in ((present.info.fingerprint, present.certificate_pem), (new, found.certificate)):
        describe(found.canaries.get(fingerprint, ""), issuer)
    return Authority.adopt(root(present) / found.folder, found.certificate, found.list)


def root(authority: Authority) -> Path:
    """pki/ itself, of which the later authorities are folders."""
    folder = authority.directory
    return folder.parent if FOLDER.fullmatch(folder.name) else folder
