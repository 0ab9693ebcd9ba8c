"""A CA whose key is on another machine: what hosts are owed goes out as requests, and comes back as certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.converge.engine import Run
from deploy.converge.issue import install, requests
from deploy.converge.profile import profile
from deploy.converge.step import Step
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.permitted import permitted
from deploy.model.resources import Certificate, Phase, StepClass
from deploy.procedures.pki import canaries
from deploy.procedures.pki.renew import Renewed, converge
from deploy.procedures.session import session
from deploy.trust import exchange
from deploy.trust.authorities import Authorities
from deploy.trust.certificates import describe, differences
from deploy.trust.exchange import Answer, Asked, Request
from deploy.trust.following import Following, Wanted, take
from deploy.trust.identities import load_identities

CANARY_DAYS = 90
"""How long a change of the CA may take whose signatures are carried there and back."""


def request(
    name: str, folder: Path, *, next_ca: bool = False, identity: Path | None = None
) -> tuple[Path, tuple[Request, ...], Wanted | None]:
    """Make a key on its host for each certificate that is owed, and write their requests into the folder. next_ca: and
    what the authority is to be that follows this one.

    Again: other keys, so that what was asked for before is of no use any more.

    Raises:
        FleetError: a host could not be asked, or could not make a key; or the CA changes already.
    """
    with session(name, identity=identity, lock_for="fleet pki requests") as opened:
        run = opened.run
        owed = {
            host: [step.resource for step in steps if isinstance(step.resource, Certificate) and not step.script]
            for host, steps in run.plan().items()
        }
        made = together(
            [host for host, items in owed.items() if items], lambda host: requests(run.hosts[host], owed[host])
        )
        found = tuple(
            Request(host, item.key, texts[item.key], profile(item, run.fleet.name))
            for host, texts in made.items()
            for item in owed[host]
        )
        days = run.fleet.hosts[0].settings.trust.crl_days
        wanted = _wanted(run) if next_ca else None
        return exchange.ask(folder, run.keys.authority, found, days, wanted), found, wanted


def _wanted(run: Run) -> Wanted:
    """What the next authority is to be; the key of what it and this one are shown by is made and kept here."""
    authorities, trust = run.keys.authorities, run.fleet.hosts[0].settings.trust
    if authorities.state.phase is not None:
        raise FleetError(
            subject="fleet pki requests --next-ca", found=f"a change, in phase {authorities.state.phase.value}",
            expected="none under way", hint="fleet pki roll-ca goes on with it",
        )  # fmt: skip
    key, csr = canaries.pair()
    canaries.keep(authorities.directory, key, {})
    return Wanted(
        authorities.next_folder, f"omegaup-{run.fleet.name}", trust.authority_bits, trust.authority_days,
        permitted(run.fleet), csr, canaries.profile(run.fleet.name, CANARY_DAYS),
    )  # fmt: skip


def sign(pki: Path, folder: Path, agree: Callable[[Asked], None], identity: Path | None = None) -> Path:
    """On the machine that has the key: sign what the folder asks for. agree: shown all of it first; raises to refuse.

    pki: with the authorities that came after the first as folders in it; the one that is asked signs.

    Raises:
        FleetError: the requests are no good or for another authority, or the key cannot be opened.
    """
    authority = exchange.asked_of(folder, pki)
    wanted = exchange.asked(folder, authority)
    agree(wanted)
    identities = load_identities(identity)
    return exchange.sign(folder, authority.unlock(identities), wanted, identities)


@dataclass(frozen=True)
class Accepted:
    """`placed`: (host, certificate) of each that was put into its place. `renewed`: what servers made of it; None where
    a host was never deployed: an apply comes first. `following`: the authority to which a change has begun.
    """

    placed: tuple[tuple[str, str], ...]
    renewed: Renewed | None
    following: str = ""


def accept(name: str, folder: Path, *, identity: Path | None = None) -> Accepted:
    """Put certificates that came back where they belong, and let servers load them; then ask every port.

    On a host that was never deployed they wait for the apply that makes their servers.

    Raises:
        FleetError: one is not what its host is to have, or its key is not there any more. Nothing was installed on that
            host then.
    """
    with session(name, identity=identity, lock_for="fleet pki accept") as opened:
        run = opened.run
        answered = exchange.answered(folder, run.keys.authority)
        answers, text = answered.certificates, answered.list
        by_host: dict[str, list[tuple[Certificate, Answer]]] = {}
        for answer in answers:
            if answer.host not in run.targets:
                raise _foreign(answer, "a host that the inventory has")
            items = {item.key: item for item in run.state(answer.host).resources if isinstance(item, Certificate)}
            item = items.get(answer.name)
            if item is None:
                raise _foreign(answer, "a certificate that this host is to have")
            if wrong := differences(describe(answer.pem), profile(item, run.fleet.name)):
                raise _foreign(answer, f"what the host is to have; {'; '.join(wrong)}")
            by_host.setdefault(answer.host, []).append((item, answer))

        def put(host: str) -> None:
            pairs = by_host[host]
            install(run.hosts[host], [item for item, _ in pairs], {item.key: answer.pem for item, answer in pairs})

        exchange.adopt(run.keys.authority, answers, text)
        following = _begin(run.keys.authorities, answered.following) if answered.following else ""
        together(by_host, put)
        run.rethink()
        run.look_all()
        placed = tuple((host, item.name) for host, pairs in by_host.items() for item, _ in pairs)
        if any(_bare(step) for steps in run.plan().values() for step in steps):
            return Accepted(placed, None, following)
        done = converge(opened)
        return Accepted(placed, Renewed((*placed, *done.certificates), done.outcome, done.verified), following)


def _begin(authorities: Authorities, found: Following) -> str:
    """The change to the authority that came back, unless it has begun already; its name."""
    new = take(authorities.issuer, found)
    canaries.take(authorities.directory, found.canaries)
    if authorities.state.phase is None:
        authorities.begin(found.folder)
    return new.info.common_name or ""


def _bare(step: Step) -> bool:
    """Whether a host with such a step has not even got all its packages and accounts."""
    return step.step is StepClass.CREATE and step.phase in {Phase.PACKAGES, Phase.ACCOUNTS}


def _foreign(answer: Answer, expected: str) -> FleetError:
    return FleetError(
        host=answer.host, subject=answer.name, found=f"a certificate of {answer.record.subject}", expected=expected,
        hint="the inventory is another than when it was asked for: fleet pki requests again",
    )  # fmt: skip
