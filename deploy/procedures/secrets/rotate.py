"""Another value for secrets without anybody noticing: servers take both, clients turn to the new one, the old one goes.

Each phase (see trust/rotation.py) is brought to every host by what `apply` and `roll` do, and proven there, before the
next is written down. Where each secret is, is in the vault: stop it or kill it where you like, run it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.converge.desired import secret_specs
from deploy.converge.engine import Run
from deploy.converge.inventory import folder, load, open_keys
from deploy.errors import FleetError, FleetErrors
from deploy.model.resources import Parameter
from deploy.model.secrets import Change, SecretSpec
from deploy.procedures.apply import apply as apply_fleet
from deploy.procedures.phases import known_phase, not_in_force
from deploy.procedures.roll import journal as journals
from deploy.procedures.roll import run as rolls
from deploy.procedures.roll.refusals import none_left
from deploy.procedures.session import Session, session
from deploy.roles.mysql_members import SERVER_QUERY
from deploy.trust.rotation import Phase
from deploy.trust.secret import generate
from deploy.trust.vault import Vault

Tell = Callable[[str], None]

DOING = "fleet secrets rotate"
REPLICATED_SECONDS = 60.0
"""How long what the primary was told of accounts may take to be on its replicas."""

WORDS = {
    Phase.ACCEPT: "every server takes the present and the next value",
    Phase.USE: "every client comes with the next value",
    Phase.DROP: "no server takes the earlier value any more",
}
INTERRUPTED = frozenset({Change.STOP, Change.AT_ONCE})


@dataclass(frozen=True)
class Rotated:
    """`changed`: secrets whose change came to its end; `left`: others, and the phase that waits. `untouched`: those
    that cannot be changed in this way, and why.
    """

    changed: tuple[str, ...]
    left: Mapping[str, str]
    untouched: Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """Which secrets: by name, `everything`, or those that people know who are no operators any more (`exposed`).

    `interrupt`: those too whose change interrupts something, which is then wanted.
    """

    names: tuple[str, ...] = ()
    everything: bool = False
    exposed: bool = False
    interrupt: bool = False

    @property
    def any(self) -> bool:
        return bool(self.names) or self.everything or self.exposed


def rotate(
    name: str, asked: Asked = Asked(), *, abort: bool = False, stop_after: str = "", identity: Path | None = None,
    tell: Tell = lambda _: None,
) -> Rotated:  # fmt: skip
    """Go on with what is under way, and change what is asked for.

    abort: back to the values that were before. stop_after: a phase to end with.

    Raises:
        FleetError, FleetErrors: it refuses to begin, or it stopped: what a host has not got. The vault says where.
    """
    known_phase(stop_after, Phase)
    if abort and asked.any:
        raise FleetError(subject="--abort", found="secrets to rotate beside it", expected="nothing else")
    profile = load(folder(name))[1].profile
    specs = secret_specs(profile)
    known(specs, asked.names)
    _end_roll(name, identity, tell)
    changed: list[str] = []
    if asked.exposed and not stop_after and open_keys(folder(name), identity, profile=profile).vault.changing():
        # What it leads to may have been read as well: it comes to its end first, and is then seen for what it is.
        changed += rotate(name, identity=identity, tell=tell).changed
    at_once, untouched = _begin(name, asked, specs, abort=abort, identity=identity, tell=tell, satisfied=bool(changed))
    changed += at_once
    while True:
        proven, left = _phase(name, identity, tell)
        changed += [one for one in proven if one not in left]
        if not left or stop_after in {phase.value for phase in proven.values()}:
            return Rotated(tuple(dict.fromkeys(changed)), {one: phase.value for one, phase in left.items()}, untouched)


def known(specs: Mapping[str, SecretSpec], names: Iterable[str]) -> None:
    """Raise FleetError for a name that no role of the fleet knows."""
    if unknown := [name for name in names if name not in specs]:
        raise FleetError(
            subject=f"secret {', '.join(unknown)}", found="a name that no role knows",
            expected=", ".join(sorted(specs)), hint="fleet secrets status shows what each is for",
        )  # fmt: skip


# -- beginning ---------------------------------------------------------------------------------------------------


def _end_roll(name: str, identity: Path | None, tell: Tell) -> None:
    """A roll of ours whose controller died goes on; another's is another's business.

    Raises:
        FleetError, FleetErrors: there is another's, or ours does not come to its end.
    """
    path = folder(name)
    left = journals.unfinished(path)
    if left is None:
        return
    if left.get("doing") != DOING:
        raise FleetError(
            subject=f"roll of {path.name}", found=f"one that was begun at {left.get('at')} and has not ended",
            expected="no unfinished roll", hint=f"fleet roll {path.name} --resume or --abort ends it",
        )  # fmt: skip
    tell("going on with the roll that was under way")
    with session(name, identity=identity, lock_for=DOING, look=False) as opened:
        _ended(rolls.resume(opened, rolls.Options(doing=DOING), tell))


def _ended(rolled: rolls.Rolled) -> None:
    if rolled.errors:
        raise FleetErrors(rolled.errors)


def _begin(
    name: str, asked: Asked, specs: Mapping[str, SecretSpec], *, abort: bool, identity: Path | None, tell: Tell,
    satisfied: bool = False,
) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    """Write down that changes began, or that they go back. satisfied: there need not be any.

    Returns (secrets whose value was changed at once, those that are left as they are, and why).

    In a session of its own: what the hosts say is masked by what the vault held when it was opened.

    Raises:
        FleetError: nothing to do, or something is in the way; nothing was begun.
    """
    with session(name, identity=identity, lock_for=DOING) as opened:
        run = opened.run
        vault = run.keys.vault
        changing = vault.changing()
        if abort:
            if not changing:
                raise FleetError(
                    subject=f"{DOING} --abort", found="no change under way", expected="a change to abort",
                    hint="one that is complete is undone by another one",
                )  # fmt: skip
            vault.turn_back()
            vault.save()
            tell(f"back: {_listed(changing)}")
            return [], {}
        wanted, untouched = chosen(vault, specs, asked)
        fresh = [one for one in wanted if one not in changing]
        if not fresh and not changing and not satisfied:
            raise FleetError(
                subject=DOING, found="no secret to change" if asked.any else "no change under way, and no name",
                expected="what to change: names, --exposed or --all",
                hint="; ".join(f"{one}: {why}" for one, why in untouched.items())
                or f"fleet secrets status {folder(name).name} shows names",
            )  # fmt: skip
        if fresh:
            _fit_to_begin(run, fresh, specs, going_on=bool(changing))
            for one in fresh:
                if specs[one].change is Change.PHASES:
                    vault.begin(one, generate(specs[one]))
                else:
                    vault.renew(one, specs[one])
            vault.save()
            tell(f"begun: {_listed(fresh)}")
    return [one for one in fresh if specs[one].change is not Change.PHASES], untouched


def chosen(vault: Vault, specs: Mapping[str, SecretSpec], asked: Asked) -> tuple[list[str], dict[str, str]]:
    """(secrets to change, others that were meant and cannot be changed so, and why).

    Raises:
        FleetError: one was asked for by its name that cannot be changed so.
    """
    meant = dict.fromkeys(asked.names)
    if asked.everything or asked.exposed:
        meant |= dict.fromkeys(name for name in specs if asked.everything or vault.known_to(name))
    found: list[str] = []
    untouched: dict[str, str] = {}
    for name in meant:
        spec = specs[name]
        if spec.change is Change.PHASES or (spec.change in INTERRUPTED and asked.interrupt):
            found.append(name)
            continue
        untouched[name] = spec.why
        if name in asked.names:
            raise FleetError(
                subject=f"secret {name}", found=f"a change {spec.change.value!r}: {spec.why}",
                expected="a secret that is changed without an interruption",
                hint=_instead(spec),
            )  # fmt: skip
    return found, untouched


def _instead(spec: SecretSpec) -> str:
    match spec.change:
        case Change.STOP:
            return f"stop {spec.unit} on all its hosts, then run it with --interrupt (docs/secrets.md)"
        case Change.AT_ONCE:
            return "where that may be for a moment: --interrupt"
        case Change.ISSUED:
            return "fleet secrets set stores another one"
    return "docs/secrets.md says what to do where it has to be"


def _fit_to_begin(run: Run, fresh: Iterable[str], specs: Mapping[str, SecretSpec], *, going_on: bool) -> None:
    """A change is begun on a fleet that is as its inventory says: what is proven after it is then its own.

    Raises:
        FleetError: it is not; or something runs that has to be stopped.
    """
    stopped = {specs[name].unit for name in fresh} - {""}
    for unit in sorted(stopped):
        for host, seen in run.snapshots.items():
            state = seen.units.get(unit)
            if state and state.running:
                raise FleetError(
                    host=host, subject=unit, found="it runs", expected="it to be stopped on every host meanwhile",
                    hint=f"systemctl stop {unit} on each host (docs/secrets.md), then run this again",
                )  # fmt: skip
    if going_on or stopped:
        return
    none_left(
        [step for steps in run.plan().values() for step in steps], "steps",
        "a fleet that is as its inventory says, before its secrets change",
        "fleet apply first, and fleet roll where a restart is owed; fleet plan shows what there is",
    )  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


# -- one phase ---------------------------------------------------------------------------------------------------


def _phase(name: str, identity: Path | None, tell: Tell) -> tuple[dict[str, Phase], dict[str, Phase]]:
    """Bring the present phase of every change to every host, prove it, and write down the next.

    Returns (the phases that were proven, those that wait now).

    Raises:
        FleetErrors: a host has not got it; nothing was written down.
    """
    with session(name, identity=identity, lock_for=DOING) as opened:
        outcome = apply_fleet(opened)
        if outcome.errors:
            raise FleetErrors(outcome.errors)
        if not outcome.pending:
            return _proven(opened, tell)
    tell(f"{len(outcome.pending)} restarts are owed: a roll pays them")
    with session(name, identity=identity, lock_for=DOING) as opened:
        _ended(rolls.roll(opened, rolls.Options(doing=DOING), tell))
        opened.run.look_all()
        return _proven(opened, tell)


def _proven(opened: Session, tell: Tell) -> tuple[dict[str, Phase], dict[str, Phase]]:
    run = opened.run
    vault = run.keys.vault
    if errors := [*_owed(run)]:
        raise FleetErrors(errors)
    _replicated(run)
    proven = vault.changing()
    for phase in Phase:
        if names := [name for name, own in proven.items() if own is phase]:
            tell(f"{phase.value}: {WORDS[phase]}: proven on {len(run.targets)} hosts ({_listed(names)})")
    if proven:
        vault.advance()
        vault.save()
    return proven, vault.changing()


def _owed(run: Run) -> Iterator[FleetError]:
    """What differs still, or waits for a restart: the phase is not in force there."""
    return not_in_force(run, lambda _: f"{DOING} again goes on from here; --abort goes back")


def _replicated(run: Run) -> None:
    """Accounts reach the database's replicas by replication: there too a client has to be taken.

    Raises:
        FleetErrors: not within REPLICATED_SECONDS.
    """
    until = time.monotonic() + REPLICATED_SECONDS
    while errors := [*_not_there(run)]:
        if time.monotonic() >= until:
            raise FleetErrors(errors)
        time.sleep(1)
        for host in {error.host for error in errors}:
            run.look(str(host))


def _not_there(run: Run) -> Iterator[FleetError]:
    """What a replica of the database has not got of what its primary was told of accounts."""
    leader = run.live.leaders.get("mysql")
    if leader is None:
        return
    accounts = [
        item
        for item in run.state(leader).resources
        if isinstance(item, Parameter) and item.query.id == SERVER_QUERY and item.name.startswith("account ")
    ]
    for member in run.fleet.members("mysql"):
        answer = run.snapshots[member.name].answers.get(SERVER_QUERY)
        for item in accounts:
            found = answer.values.get(item.name, "none") if answer else "no answer"
            if found != item.want:
                yield FleetError(
                    host=member.name, subject=item.key, found=found, expected=item.want or "none",
                    hint="fleet db status shows how far behind its replicas are; then run it again",
                )  # fmt: skip
