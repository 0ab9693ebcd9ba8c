"""New key pairs and certificates by the ordinary way of apply, but nothing else that apply would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.catalog import SSL_DIR
from deploy.model.resources import Certificate, File, Parameter, Unit
from deploy.procedures.apply import Outcome
from deploy.procedures.apply import apply as apply_fleet
from deploy.procedures.pki.verify import Verified, verify_run
from deploy.procedures.session import Session, session
from deploy.trust.certificates import describe


@dataclass(frozen=True)
class Renewed:
    """`certificates`: (host, name) of those that were made anew. `outcome.pending`: restarts that bring the rest."""

    certificates: tuple[tuple[str, str], ...]
    outcome: Outcome
    verified: Verified

    @property
    def errors(self) -> list[FleetError]:
        return [*self.outcome.errors, *(() if self.outcome.errors else self.verified.errors)]


def of_trust(step: Step) -> bool:
    """Whether a step is about certificates, keys, the CA's files, or loading them."""
    match step.resource:
        case Certificate():
            return True
        case File(path=path):
            return path.startswith(f"{SSL_DIR}/")
        case Unit():
            return f"{SSL_DIR}/" in step.summary
        case Parameter(name=name):
            # `files`: see roles/proven.py; what a server has not loaded yet.
            return name == "files" or f"{SSL_DIR}/" in step.summary
    return False


def renew(
    name: str, hosts: Iterable[str] = (), *, everything: bool = False, identity: Path | None = None
) -> Renewed:  # fmt: skip
    """Make certificates anew: those of these hosts, or all; without either, those that are due. Then ask every port.

    What was asked for is written down before anything is done: after an interruption any apply, and this command
    without options, goes on with it.

    Raises:
        FleetError: nothing was begun: an unknown host, one that cannot be reached, a roll under way.
    """
    chosen = set(hosts)
    with session(name, identity=identity, lock_for="fleet pki renew") as opened:
        run = opened.run
        if unknown := sorted(chosen - {host.name for host in run.fleet.hosts}):
            raise FleetError(
                subject="--host", found=", ".join(unknown), expected=", ".join(host.name for host in run.fleet.hosts)
            )
        if chosen or everything:
            run.keys.authorities.ask(serial for host, serial in on_hosts(run) if everything or host in chosen)
        return converge(opened)


def converge(opened: Session, but: Callable[[Step], bool] | None = None) -> Renewed:
    """Everything of trust that differs, and the proof on every port. What was asked for and is done is forgotten.

    but: of these, those alone that it says.
    """
    run = opened.run
    run.only = lambda step: of_trust(step) and (but is None or but(step))
    outcome = apply_fleet(opened)
    if not outcome.errors:
        if run.targets == {host.name for host in run.fleet.hosts}:
            run.keys.authorities.settle(serial for _, serial in on_hosts(run))
        verified = verify_run(run)
    else:
        verified = Verified(())
    made = tuple(
        (step.host, step.resource.name)
        for step in run.acted
        if isinstance(step.resource, Certificate) and not step.script
    )
    return Renewed(made, outcome, verified)


def on_hosts(run: Run) -> Iterator[tuple[str, str]]:
    """(host, serial) of each certificate that the last look saw."""
    for host, seen in run.snapshots.items():
        for state in seen.certificates.values():
            if state.pem:
                try:
                    yield host, describe(state.pem).serial
                except FleetError:
                    continue
