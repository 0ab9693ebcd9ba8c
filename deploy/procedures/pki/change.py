"""Another CA without anybody noticing: trust both, issue from the new one, drop the old one (see trust/authorities.py).

Each phase is brought to every host by what apply does of trust, and proven on every port of every host, before the next
is written down. Where it is, is in state.json beside the CA: stop it or kill it where you like, run it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.errors import FleetError, FleetErrors
from deploy.procedures.phases import known_phase, not_in_force
from deploy.procedures.pki import canaries, succession
from deploy.procedures.pki.renew import converge
from deploy.procedures.pki.verify import prove as shown
from deploy.procedures.session import Session, session
from deploy.roles.door import OPERATOR
from deploy.trust.authorities import Authorities, Phase
from deploy.trust.authority import Authority

Tell = Callable[[str], None]

WORDS = {
    Phase.TRUST: "every host trusts both authorities",
    Phase.ISSUE: "every certificate comes from {issuer}",
    Phase.DROP: "every host trusts {issuer} alone",
}


@dataclass(frozen=True)
class Changed:
    """`phase`: the one that waits, empty when the change is complete. `issuer`: whose certificates the hosts have."""

    phase: str
    issuer: str


def roll_ca(
    name: str, *, stop_after: str = "", abort: bool = False, identity: Path | None = None,
    tell: Tell = lambda _: None,
) -> Changed:  # fmt: skip
    """Begin a change of the CA, or go on with one. stop_after: a phase to end with. abort: change back.

    Raises:
        FleetError, FleetErrors: it stopped: what a host or port has not got, or nothing to abort. The state stands.
    """
    known_phase(stop_after, Phase)
    while True:
        with session(name, identity=identity, lock_for="fleet pki roll-ca") as opened:
            authorities = opened.run.keys.authorities
            if abort:
                back(authorities, tell)
                abort = False
            elif authorities.state.phase is None:
                succession.begin(opened.run, tell)
            else:
                succession.succeed(opened.run)
            opened.run.rethink()
            phase = authorities.state.phase
            assert phase is not None
            prove(opened)
            issuer = authorities.issuer.info.common_name or ""
            tell(f"{phase.value}: {WORDS[phase].format(issuer=issuer)}: proven on {len(opened.run.targets)} hosts")
            if phase is Phase.ISSUE and (names := people_of(authorities.other)):
                tell(f"certificates of people end with the old authority: fleet pki operator for {', '.join(names)}")
            authorities.write(authorities.state.proven())
            if authorities.state.phase is None:
                canaries.forget(authorities.directory)
            if authorities.state.phase is None or phase.value == stop_after:
                return Changed(authorities.state.phase.value if authorities.state.phase else "", issuer)


def back(authorities: Authorities, tell: Tell) -> None:
    """Turn a change around.

    Raises:
        FleetError: there is none, or the authority that it would go back to has ended.
    """
    state = authorities.state
    if state.phase is None:
        raise FleetError(
            subject="fleet pki roll-ca --abort", found="no change under way", expected="a change to abort",
            hint="one that is complete is undone by another change",
        )  # fmt: skip
    turned = Authorities.load(authorities.directory)
    turned.state = state.back()
    target = turned.issuer if turned.state.phase is not Phase.TRUST else turned.other
    assert target is not None
    if succession.ended(target):
        raise FleetError(
            subject="fleet pki roll-ca --abort", found=f"{target.info.common_name} has ended",
            expected="an authority to go back to that still counts", hint="go on: fleet pki roll-ca",
        )  # fmt: skip
    authorities.write(turned.state)
    tell(f"back to {target.info.common_name}")


def people_of(authority: Authority | None) -> list[str]:
    """Names of operators whose certificates of an authority are still good."""
    if authority is None:
        return []
    now = datetime.now(UTC).isoformat()
    live = (one for one in authority.journal() if one.role == OPERATOR and one.not_after > now)
    return sorted({one.subject.rpartition("/CN=")[2] for one in live if one.serial not in authority.revocations()})


def prove(opened: Session) -> None:
    """Bring the present phase to every host and see on every port that it is there.

    Raises:
        FleetErrors: where it is not.
    """
    run = opened.run
    missing = [host.name for host in run.fleet.hosts if host.name not in run.targets]
    if missing:
        raise FleetError(
            subject="hosts", found=f"not among those of this run: {', '.join(missing)}", expected="every host"
        )
    done = converge(opened)
    errors = [*done.errors]
    if not errors:
        errors = [*_owed(run), *_canaries(run)]
    if errors:
        raise FleetErrors(errors)


def _owed(run: Run) -> Iterator[FleetError]:
    """What differs still, or waits for a restart or a signature: the phase is not in force there."""

    def hint(step: Step) -> str:
        if step.unsigned:
            return "fleet pki requests, fleet pki sign there, fleet pki accept; then fleet pki roll-ca again"
        return "fleet roll, then fleet pki roll-ca again" if step.pending else "fleet pki roll-ca again"

    return not_in_force(run, hint)


def _canaries(run: Run) -> list[FleetError]:
    """Every port takes a certificate of each authority that is trusted, and of no other."""
    authorities = run.keys.authorities
    other = authorities.other
    made = [canaries.of(run, authorities.issuer, "a certificate of the authority that issues")]
    taken, refused = [made[0].name], list[str]()
    if other is not None and not succession.ended(other):
        made.append(canaries.of(run, other, "a certificate of the other authority"))
        (refused if authorities.state.phase is Phase.DROP else taken).append(made[1].name)
    return shown(run, made, taken=taken, refused=refused)[1]
