"""Taking certificates back: recorded, listed, brought to every host, and seen to be in force at every port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.converge.inventory import folder, load, open_keys
from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.fleet import Fleet
from deploy.model.resources import Certificate
from deploy.procedures.pki import canaries
from deploy.procedures.pki.renew import Renewed, converge, of_trust, on_hosts
from deploy.procedures.pki.verify import prove
from deploy.procedures.session import Session, session
from deploy.roles.door import OPERATOR
from deploy.trust.authorities import Authorities
from deploy.trust.authority import Authority
from deploy.trust.certificates import describe
from deploy.trust.journal import IssuanceRecord


@dataclass(frozen=True)
class Taken:
    """A certificate that was meant. `fresh`: it was not revoked before."""

    serial: str
    subject: str
    requester: str
    fresh: bool


@dataclass(frozen=True)
class Revoked:
    """`renewed`: of hosts that had one of them. `proven`: ports that were seen to refuse what is on the list."""

    taken: tuple[Taken, ...]
    renewed: tuple[tuple[str, str], ...]
    proven: int
    errors: tuple[FleetError, ...]
    pending: int = 0


def revoke(name: str, what: str, reason: str, *, limit: str | None = None, identity: Path | None = None) -> Revoked:
    """Revoke a serial, all of a host (`web1`), one service of it (`web1/frontend`) or all of a person (`ana`).

    What hosts still use is replaced first; then the list goes out. By a certificate made for it, revoked with the
    others, every port is seen to refuse what is on the list. Interrupted, the next apply goes on: the journal counts.
    Run again, it does what is left: what is revoked stays so.

    Raises:
        FleetError: nothing was revoked: nothing of that name, or an authority that nobody trusts. Or, said so, it is
            recorded but could not be brought to the hosts.
    """
    path = folder(name)
    _, fleet = load(path)
    keys = open_keys(path, identity)
    found = resolve(keys.authorities, fleet, what)
    records = [record for _, records in found for record in records]
    fresh: set[str] = set()
    for authority, of_it in found:
        fresh |= {item.serial for item in authority.revoke([record.serial for record in of_it], reason)}
    taken = tuple(Taken(record.serial, record.subject, record.requester, record.serial in fresh) for record in records)
    with _recorded(taken):
        first = _replaced(name, {record.serial for record in records}, limit, identity)
        with session(name, identity=identity, lock_for="fleet pki revoke", limit=limit) as opened:
            return _distributed(opened, taken, first)


def _replaced(name: str, serials: set[str], limit: str | None, identity: Path | None) -> Renewed | None:
    """Others for those that hosts still use, before anybody refuses them; None: no host has one."""
    with session(name, identity=identity, lock_for="fleet pki revoke", limit=limit) as opened:
        if not serials & {serial for _, serial in on_hosts(opened.run)}:
            return None
        opened.run.keys.authorities.hold = True
        opened.run.rethink()
        return converge(opened)


def _distributed(opened: Session, taken: tuple[Taken, ...], first: Renewed | None) -> Revoked:
    """The list on every host, and the proof. A host that could not replace its own is shut out, and nothing waits."""
    run = opened.run
    failed = first.outcome.errors if first else ()
    made = first.certificates if first else ()
    run.only = of_trust
    if not (failed or any(one.fresh for one in taken) or any(run.plan().values())):
        return Revoked(taken, made, 0, ())
    signer = run.keys.signer()
    good, bad = (canaries.signed(signer, run.fleet.name, f"a {kind} certificate") for kind in ("good", "revoked"))
    run.keys.authority.revoke([describe(bad.certificate).serial], "superseded", canaries.ROLE)
    run.rethink()
    done = converge(opened, (lambda step: not isinstance(step.resource, Certificate)) if failed else None)
    errors = [*failed, *done.errors]
    proven = 0
    if not done.outcome.errors:
        proven, wrong = prove(run, (good, bad), taken=[good.name], revoked=[bad.name])
        errors += wrong
    return Revoked(taken, (*made, *done.certificates), proven, tuple(errors), len(done.outcome.pending))


def resolve(authorities: Authorities, fleet: Fleet, what: str) -> list[tuple[Authority, list[IssuanceRecord]]]:
    """The certificates that are meant, by authority: the serial's one, or all of a name that have not ended.

    Raises:
        FleetError: there is none, it has ended, or the name is both a host's and a person's.
    """
    serial = what.upper().replace(":", "")
    now = datetime.now(UTC).isoformat()
    for authority in authorities.every():
        for record in authority.journal():
            if record.serial == serial or record.serial == f"0{serial}":
                return [(_trusted(authorities, authority), [record])]
    of_host, of_person = [], []
    for authority in authorities.trusted:
        live = [record for record in authority.journal() if record.not_after > now]
        if mine := list(_of_host(live, what)):
            of_host.append((authority, mine))
        if mine := [one for one in live if one.role == OPERATOR and one.subject.endswith(f"/CN={what}")]:
            of_person.append((authority, mine))
    if of_host and of_person:
        raise FleetError(
            subject=what, found="a host and a person of that name", expected="one meaning",
            hint="give serials: fleet pki status, or the journal index.jsonl",
        )  # fmt: skip
    if not (of_host or of_person):
        raise FleetError(
            subject=what, found="no certificate that is in force",
            expected="a serial in hexadecimal digits, HOST, HOST/SERVICE, or the name of an operator",
            hint="fleet pki status shows the serials; the journal index.jsonl has all that were ever issued",
        )  # fmt: skip
    return of_host or of_person


def _of_host(records: Iterable[IssuanceRecord], what: str) -> Iterator[IssuanceRecord]:
    host, _, service = what.partition("/")
    for record in records:
        if record.requester == host and (not service or record.role == service):
            yield record


def _trusted(authorities: Authorities, authority: Authority) -> Authority:
    for one in authorities.trusted:
        if one.directory == authority.directory:
            return one
    raise FleetError(
        subject=f"authority {authority.info.common_name}", found="an authority that no host trusts any more",
        expected="one that is trusted: what it issued is refused everywhere as it is",
    )  # fmt: skip


@contextmanager
def _recorded(taken: tuple[Taken, ...]) -> Iterator[None]:
    """What goes wrong from here on does not undo the revocation, and that is said."""
    try:
        yield
    except (FleetError, FleetErrors) as error:
        said = FleetError(
            subject="fleet pki revoke",
            found=f"{len(taken)} certificates recorded as revoked, but the list is not on all hosts",
            expected="the list to be in force on every host",
            hint="mend what is said above and run it again, with --limit for the hosts that answer; or any apply",
        )  # fmt: skip
        raise FleetErrors([*each_of(error), said]) from None
