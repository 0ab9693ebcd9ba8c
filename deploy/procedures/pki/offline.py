"""A CA whose key is on another machine: what hosts are owed goes out as requests, and comes back as certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.converge.issue import install, requests
from deploy.converge.profile import profile
from deploy.converge.step import Step
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.resources import Certificate, Phase, StepClass
from deploy.procedures.pki.renew import Renewed, converge
from deploy.procedures.session import session
from deploy.trust import exchange
from deploy.trust.authority import Authority
from deploy.trust.certificates import describe, differences
from deploy.trust.exchange import Answer, Request
from deploy.trust.identities import load_identities


def request(name: str, folder: Path, *, identity: Path | None = None) -> tuple[Path, tuple[Request, ...]]:
    """Make a key on its host for each certificate that is owed, and write their requests into the folder.

    Again: other keys, so that what was asked for before is of no use any more.

    Raises:
        FleetError: a host could not be asked, or could not make a key.
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
        return exchange.ask(folder, run.keys.authority, found, days), found


def sign(pki: Path, folder: Path, agree: Callable[[tuple[Request, ...]], None], identity: Path | None = None) -> Path:
    """On the machine that has the key: sign what the folder asks for. agree: shown all of it first; raises to refuse.

    Raises:
        FleetError: the requests are no good or for another authority, or the key cannot be opened.
    """
    authority = Authority.load(pki)
    wanted = exchange.asked(folder, authority)
    agree(wanted.requests)
    return exchange.sign(folder, authority.unlock(load_identities(identity)), wanted)


@dataclass(frozen=True)
class Accepted:
    """`placed`: (host, certificate) of each that was put into its place. `renewed`: what servers made of it; None where
    a host of them was never deployed: an apply comes first.
    """

    placed: tuple[tuple[str, str], ...]
    renewed: Renewed | None


def accept(name: str, folder: Path, *, identity: Path | None = None) -> Accepted:
    """Put certificates that came back where they belong, and let servers load them; then ask every port.

    On a host that was never deployed they wait for the apply that makes their servers.

    Raises:
        FleetError: one is not what its host is to have, or its key is not there any more. Nothing was installed on that
            host then.
    """
    with session(name, identity=identity, lock_for="fleet pki accept") as opened:
        run = opened.run
        answers, text = exchange.answered(folder, run.keys.authority)
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
        together(by_host, put)
        run.rethink()
        run.look_all()
        placed = tuple((host, item.name) for host, pairs in by_host.items() for item, _ in pairs)
        if any(_bare(step) for host in by_host for step in run.plan()[host]):
            return Accepted(placed, None)
        done = converge(opened)
        return Accepted(placed, Renewed((*placed, *done.certificates), done.outcome, done.verified))


def _bare(step: Step) -> bool:
    """Whether a host with such a step has not even got all its packages and accounts."""
    return step.step is StepClass.CREATE and step.phase in {Phase.PACKAGES, Phase.ACCOUNTS}


def _foreign(answer: Answer, expected: str) -> FleetError:
    return FleetError(
        host=answer.host, subject=answer.name, found=f"a certificate of {answer.record.subject}", expected=expected,
        hint="the inventory is another than when it was asked for: fleet pki requests again",
    )  # fmt: skip
