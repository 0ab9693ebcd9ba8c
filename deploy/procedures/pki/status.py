"""Every certificate of the fleet as it lies on its host, the CA's own, and what is due. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.converge.certificates import Have
from deploy.converge.inventory import load
from deploy.errors import FleetError
from deploy.model.catalog import SERVICES
from deploy.model.fleet import Fleet, HostSpec
from deploy.model.permitted import permitted
from deploy.procedures.pki.hosts import ask_all
from deploy.trust.authorities import Authorities
from deploy.trust.authority import SIDECAR, Authority
from deploy.trust.certificates import CertificateInfo, describe
from deploy.trust.recipients import read_sidecar
from deploy.trust.signing import constraints

WELL, DUE, BAD = "well", "due", "bad"


@dataclass(frozen=True)
class Leaf:
    """A certificate on a host. `days` left, cut to whole ones, negative once it has ended. `state`: well, due (apply
    renews it) or bad (nobody accepts it), and `why`.
    """

    host: str
    name: str
    role: str = ""
    owner: str = ""
    ports: tuple[int, ...] = ()
    days: int = 0
    not_after: str = ""
    serial: str = ""
    issuer: str = ""
    revoked: bool = False
    state: str = WELL
    why: str = ""


@dataclass(frozen=True)
class Root:
    """An authority that the hosts trust. `list_days`: of its revocation list; `revoked`: how many are on it.
    `sealed_to`: who can open its key. `signs_for`: the names and networks that it is constrained to; empty: any.
    """

    name: str
    issues: bool
    days: int
    not_after: str
    serial: str
    fingerprint: str
    revoked: int
    list_number: int
    list_days: int
    sealed_to: tuple[str, ...]
    signs_for: tuple[str, ...]
    state: str = WELL
    why: str = ""


@dataclass(frozen=True)
class Report:
    """`phase`: of a change of the CA, empty if none is under way."""

    leaves: tuple[Leaf, ...]
    roots: tuple[Root, ...]
    phase: str
    untold: tuple[str, ...]

    @property
    def code(self) -> int:
        """0: all is well, 2: something is due that apply or roll-ca does, 1: something is bad or was not told."""
        states = {one.state for one in self.leaves} | {one.state for one in self.roots}
        if BAD in states or self.untold:
            return 1
        return 2 if DUE in states or self.phase else 0


def status(path: Path) -> Report:
    """Ask every host. It takes no secret: an operator who may log in may look."""
    inventory, fleet = load(path)
    authorities = Authorities.load(path / "pki")
    seen = ask_all(inventory, fleet, served=False)
    now = datetime.now(UTC)
    return Report(
        tuple(leaf for host in fleet.hosts if host.name in seen.have
              for leaf in leaves(host, seen.have[host.name], authorities, now)),
        tuple(root(one, authorities, fleet, now) for one in authorities.trusted),
        authorities.state.phase.value if authorities.state.phase else "",
        tuple(error.message() for error in seen.untold),
    )  # fmt: skip


def leaves(host: HostSpec, have: Have, authorities: Authorities, now: datetime) -> Iterator[Leaf]:
    """Those that the catalog gives the host, then those that nobody asked for."""
    expected = [service.name for service in host.services if service.identity]
    reissue = authorities.reissue()
    for name in (*expected, *sorted(set(have.certificates) - set(expected))):
        text = have.certificates.get(name, "")
        yield _leaf(host, name, text, authorities, reissue, now, stray=name not in expected)


def _leaf(
    host: HostSpec, name: str, text: str, authorities: Authorities, reissue: Mapping[str, str], now: datetime,
    *, stray: bool,
) -> Leaf:  # fmt: skip
    service = next((one for one in host.services if one.name == name), SERVICES.get(name))
    owner = service.identity.owner if service and service.identity else ""
    ports = tuple(port.number for port in service.ports if host.mutual(port)) if service and not stray else ()
    if not text:
        return Leaf(host.name, name, owner=owner, ports=ports, state=BAD, why="missing")
    try:
        info = describe(text)
    except FleetError as error:
        return Leaf(host.name, name, owner=owner, ports=ports, state=BAD, why=error.found)
    state, why = judged(info, text, authorities, reissue, now, host.settings.trust.renew_days)
    if stray and state is WELL:
        why = "no role of this host asks for it"
    revoked = any(info.serial in one.revocations() for one in authorities.trusted)
    return Leaf(
        host.name, name, info.role or "", owner, ports, info.remaining(now) // timedelta(days=1),
        info.not_after.isoformat(), info.serial, info.issuer_slash.removeprefix("/CN="), revoked, state, why,
    )  # fmt: skip


def issuer_of(text: str, authorities: Authorities) -> Authority | None:
    """Which of the trusted authorities signed a certificate."""
    for authority in authorities.trusted:
        try:
            describe(text, authority.certificate_pem)
        except FleetError:
            continue
        return authority
    return None


def judged(
    info: CertificateInfo, text: str, authorities: Authorities, reissue: Mapping[str, str], now: datetime,
    renew_days: int,
) -> tuple[str, str]:  # fmt: skip
    """(state, why) of a certificate."""
    issuer = issuer_of(text, authorities)
    if issuer is None:
        return BAD, "not from an authority that is trusted"
    if info.serial in issuer.revocations():
        return BAD, reissue[info.serial]
    if info.not_after <= now:
        return BAD, "has ended"
    if info.not_before > now:
        return BAD, "not valid yet: see the clocks"
    if info.serial in reissue:
        return DUE, reissue[info.serial]
    if issuer is not authorities.issuer:
        return DUE, "from the authority that is being replaced"
    # As in compare: one that ends with its authority cannot be had for longer.
    longest = issuer.info.not_after - timedelta(hours=1)
    if info.remaining(now) < timedelta(days=renew_days) and info.not_after < longest:
        return DUE, "to be renewed"
    return WELL, ""


def root(authority: Authority, authorities: Authorities, fleet: Fleet, now: datetime) -> Root:
    trust = fleet.hosts[0].settings.trust
    info = authority.info
    left = info.remaining(now)
    due = authority.list_due(now, trust.renew_days)
    number, list_days, revoked = 0, 0, 0
    signs_for = constraints(authority.certificate)
    state, why = (DUE, f"revocation list: {due}") if due else (WELL, "")
    try:
        have = authority.revocation_list()
        number, revoked = have.number, len(have.serials)
        list_days = (have.next_update - now) // timedelta(days=1)
        if have.next_update <= now:
            state, why = BAD, "the revocation list has ended: nobody is let in where it is checked; fleet apply"
    except FleetError:
        pass
    if left <= timedelta():
        state, why = BAD, "has ended: fleet pki roll-ca"
    elif left < timedelta(days=trust.renew_days) and authority is authorities.issuer:
        # No leaf of it lasts longer.
        state, why = DUE, "fleet pki roll-ca"
    elif state is WELL and authority is authorities.issuer and set(signs_for) != set(permitted(fleet)):
        state, why = DUE, "trust.permitted is another than when it was made: fleet pki roll-ca"
    try:
        sealed_to = tuple(one.label for one in read_sidecar(authority.directory / SIDECAR))
    except FleetError:
        sealed_to = ("it is on another machine",) if authority.offline else ()
    return Root(
        info.common_name or "", authority is authorities.issuer, left // timedelta(days=1), info.not_after.isoformat(),
        info.serial, info.fingerprint, revoked, number, list_days, sealed_to, signs_for, state, why,
    )  # fmt: skip
