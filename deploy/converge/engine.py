"""The engine: one Run for one pyinfra State. Look at every host, know what differs, act on a part of it, look again.

`pyinfra INVENTORY deploy/site.py` and `fleet` both work through this; it holds no list of its own of anything.
"""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from gevent.lock import BoundedSemaphore
from pyinfra.api import Host, State

from deploy.converge import audit, checks, compare, desired, guard, look, parcels, remote, shell
from deploy.converge.issue import issue
from deploy.converge.step import Step
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors, Unsettled
from deploy.model import fleet as model
from deploy.model.observed import Snapshot
from deploy.model.resources import (
    Certificate,
    Delivery,
    File,
    HostState,
    Only,
    Parameter,
    Phase,
    Resource,
    Revocations,
    StepClass,
    Unit,
)
from deploy.trust.authorities import Authorities
from deploy.trust.authority import Authority, Signer
from deploy.trust.masking import Masker
from deploy.trust.vault import Vault

LOOK_SECONDS = 600
EVERY = ""
"""In place of a role: all of a host."""
PATIENCE = 20.0
"""Seconds that the members of a cluster have to agree who leads. A returning Redis primary claims to be one for 10."""

Listener = Callable[[str, Step, str], None]
"""Called with the host, the step, and `start`, `done` or `failed`."""


@dataclass(repr=False)
class Keys:
    """An inventory's opened secrets and its CA, whose key is opened when something is signed; of both authorities while
    the CA changes.
    """

    vault: Vault
    authorities: Authorities
    unlock: Callable[[Authority], Signer]

    @property
    def authority(self) -> Authority:
        """The one that issues."""
        return self.authorities.issuer

    def signer(self) -> Signer:
        return self.unlock(self.authority)

    def sign_lists(self, days: int, renew_days: int) -> None:
        """Sign the revocation lists that are due."""
        for authority in self.authorities.trusted:
            if authority.list_due(datetime.now(UTC), renew_days):
                self.unlock(authority).sign_list(days)

    def secret(self, name: str) -> str:
        return self.vault.get(name).reveal()


@dataclass(repr=False)
class Run:
    """What is known and done in one run.

    `hosts` are connected and looked at: the `targets`, which may be acted on, and the members of replicated services,
    who are asked who leads whatever the run is limited to.
    """

    fleet: model.Fleet
    inventory: Path
    keys: Keys
    hosts: dict[str, Host]
    targets: frozenset[str]
    listener: Listener = lambda _host, _step, _event: None
    only: Callable[[Step], bool] | None = None
    """Which steps are this run's business; the others are neither planned nor taken."""
    trail: audit.Trail | None = None
    """What a run that changes something writes down; none for one that only looks."""
    live: model.Live = field(init=False)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    failures: list[FleetError] = field(default_factory=list)
    acted: list[Step] = field(default_factory=list)
    acted_until: float = field(default_factory=time.monotonic)
    """When the last step had been done, in seconds of the monotonic clock."""
    _stale: dict[str, set[str]] = field(default_factory=dict)
    """Host -> roles of which nothing is known any more; EVERY of them."""
    _states: dict[str, HostState] = field(default_factory=dict)
    _compared: dict[str, tuple[object, list[Step]]] = field(default_factory=dict)
    """Host -> what it was compared by last, and what differed."""
    _verifying: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    _verified: int = 0
    """Steps that were done when all hosts were last looked at again."""

    def __post_init__(self) -> None:
        self.live = model.Live.first_boot(self.fleet)
        self.masker = Masker(self.keys.vault.values())

    # -- knowing -------------------------------------------------------------------------------------------

    def state(self, name: str) -> HostState:
        """The desired state of a host, given who leads."""
        if name not in self._states:
            self._states[name] = desired.host_state(self.context(name))
        return self._states[name]

    def rethink(self) -> None:
        """What is desired is worked out anew: the authorities are not what they were when it was last."""
        self._states.clear()

    def context(self, name: str) -> model.Context:
        spec, authorities = self.fleet.host(name), self.keys.authorities
        return desired.context(
            self.fleet, spec, self.live, authorities.bundle, self.keys.secret, authorities.lists,
            authorities.lists_due(datetime.now(UTC), spec.settings.trust.renew_days), self.keys.vault.accepted,
        )  # fmt: skip

    def look_all(self) -> None:
        """Look at every connected host, all at once, and learn who leads.

        Members that contradict one another only because roles are moving are asked again, until PATIENCE is over.

        Raises:
            FleetError: a host could not be looked at or is not fit to be changed, or the members do not agree.
        """
        until = time.monotonic() + PATIENCE
        self._learn(self.hosts)
        while True:
            try:
                contexts = {name: self.context(name) for name in self.hosts}
                live = desired.live(self.fleet, contexts, self.snapshots)
                # What could not be shut at the beginning of a run is left to another: what is desired must not change.
                self.live = replace(live, encrypted=live.encrypted & self.live.encrypted)
            except Unsettled:
                if time.monotonic() >= until:
                    raise
                time.sleep(1)
                self._learn(self.fleet.witnesses())
            else:
                self._states.clear()
                if unknown := desired.unknown_pins(self.fleet, self.state):
                    raise FleetErrors(unknown)
                self._learn(self._not_asked())
                return

    def _not_asked(self) -> list[str]:
        """Hosts that are to be asked more than they were, now that it is known who leads."""
        return [
            name
            for name in self.hosts
            if any(
                isinstance(item, Parameter | Only) and item.query.id not in self.snapshots[name].answers
                for item in self.state(name).resources
            )
        ]

    def _learn(self, names: Iterable[str]) -> None:
        together(names, self._look_for_changing)

    def standings(self) -> list[model.Standing]:
        """How the members of clusters stand, by the last look at each."""
        contexts = {host.name: self.context(host.name) for host in self.fleet.hosts}
        return desired.standings(self.fleet, contexts, self.snapshots)

    def _look_for_changing(self, name: str, roles: frozenset[str] = frozenset()) -> None:
        """Look at a host that is to be changed, or whose word decides what is. roles: at what these want alone.

        Raises:
            FleetError: it could not be looked at, or is not fit to be changed.
        """
        asked = time.time()
        if roles:
            wanted = [item for item in self.state(name).resources if item.role in roles]
            self.snapshots[name] = self.snapshots[name].since(self._asked(name, wanted, LOOK_SECONDS))
            self._stale.pop(name, None)
        else:
            self.look(name)
        facts = self.snapshots[name].facts
        checks.fit(self.fleet.host(name), facts)
        checks.in_time(self.fleet.host(name), facts, (asked, time.time()))

    def look(self, name: str, *, role: str = "", seconds: int = LOOK_SECONDS) -> Snapshot:
        """Look at one host, fit for changes or not, and remember what was seen. role: at what this role wants alone.

        Raises:
            FleetError: it could not be looked at.
        """
        wanted = [item for item in self.state(name).resources if not role or item.role == role]
        snapshot = self._asked(name, wanted, seconds)
        self.snapshots[name] = snapshot
        self._stale.pop(name, None)
        return snapshot

    def _asked(self, name: str, wanted: Sequence[Resource], seconds: int) -> Snapshot:
        nonce = random.token_hex(8)
        reply = remote.run(self.hosts[name], look.script(wanted, nonce), seconds=seconds)
        lines = [*reply.stdout, *([] if reply.stdout else reply.stderr)]
        try:
            return look.parse(name, lines, nonce, wanted, self.masker)
        except FleetError as error:
            raise self._masked(error) from None

    def glance(self, name: str, services: frozenset[str]) -> Snapshot:
        """Only what the units and servers of these services say, for a gate; it is not remembered.

        Raises:
            FleetError: the host could not be asked.
        """
        asked = [
            item
            for item in self.state(name).resources
            if item.role in services and isinstance(item, Unit | Parameter | Only)
        ]
        return self._asked(name, asked, seconds=60)

    def do(
        self, name: str, key: str, script: str, seconds: int = remote.LIMIT_SECONDS, *, expected: str = "",
        unseen: bool = False,
    ) -> str:  # fmt: skip
        """Run shell that changes something on a host, alone there; the last line that it printed.

        What was known of the host is forgotten, unless it changes nothing that a look sees (`unseen`).

        Raises:
            FleetError: it did not succeed.
        """
        if not unseen:
            self._forget(name)
            self.touch(name)
        reply = remote.run(self.hosts[name], shell.single(key, script), seconds=seconds)
        failure = shell.failure(reply.stdout)
        if not unseen:
            self.did(name, {"key": key, **({"failed": True} if failure else {})})
        if failure is not None:
            raise FleetError(
                host=name,
                subject=key,
                found=self.masker(failure.words or "; ".join(reply.stderr[-3:]) or "no word of why"),
                expected=expected or "it to succeed",
            )
        said = [line for line in reply.stdout if not line.startswith("@@")]
        return said[-1] if said else ""

    def steps(self, name: str) -> list[Step]:
        """What differs on a host, by the last look at it."""
        roles = self._stale.get(name, set()) if name in self.snapshots else {EVERY}
        if roles:
            self._look_for_changing(name, frozenset() if EVERY in roles else frozenset(roles))
        issuer = self.keys.authorities.issuer
        of = (self.state(name), self.snapshots[name], issuer.certificate_pem, self.keys.authorities.reissue())
        # Each of pyinfra's operations asks, for one role and phase: hundreds for a host.
        known = self._compared.get(name)
        if known is None or known[0] != (of, issuer.offline):
            known = (of, issuer.offline), compare.steps(*of, offline=issuer.offline)
            self._compared[name] = known
        return list(known[1])

    def _forget(self, name: str, *roles: str) -> None:
        """What was known of these roles on a host, or of all of it, is true no more."""
        self._stale.setdefault(name, set()).update(roles or {EVERY})

    def _chosen(self, name: str) -> list[Step]:
        return [step for step in self.steps(name) if self.only is None or self.only(step)]

    # -- acting --------------------------------------------------------------------------------------------

    def audited(self, doing: str) -> None:
        """From now on what is changed is written down, as done by the command `doing`."""

        def write(name: str, script: str) -> None:
            self.do(name, "audit", script, seconds=audit.SECONDS, unseen=True)

        self.trail = audit.Trail(self.inventory, doing, write, self.masker)

    def touch(self, name: str, *, tell: bool = True) -> None:
        """Before a host is changed; `tell` as for a Trail.

        Raises:
            FleetError: it cannot be written down that it is.
        """
        if self.trail:
            self.trail.touch(name, tell=tell)

    def did(self, name: str, *steps: dict[str, Any]) -> None:
        """What was changed on it."""
        if self.trail:
            self.trail.did(name, steps)

    def todo(self, name: str, role: str, phase: Phase) -> list[Step]:
        """The steps of one role and phase on one host; packages are those of all roles at once."""
        return [
            step
            for step in self._chosen(name)
            if not step.pending and step.phase is phase and (phase is Phase.PACKAGES or step.role == role)
        ]

    def act(self, name: str, steps: list[Step]) -> None:
        """Do these steps on a host, in order. What was known of the host is forgotten.

        Raises:
            FleetError: a step failed; the steps before it are done, those after it are not begun.
        """
        if not steps:
            return
        every = self.state(name).resources
        # By what is known before it is forgotten: a look from here on would be taken for one at what was done.
        unsigned = self._unsigned(name) if self.only is None else []
        self._forget(name, *(step.role if _within_its_role(step, every) else EVERY for step in steps))
        self.touch(name)
        for step in steps:
            self.listener(name, step, "start")
        finished: list[Step] = []
        running: list[Step] = []
        try:
            if unsigned:
                raise FleetError(
                    host=name, subject="certificates", found=f"none for {', '.join(unsigned)}",
                    expected="certificates that were signed where the CA's key is",
                    hint="fleet pki requests, fleet pki sign there, fleet pki accept; then apply again",
                )  # fmt: skip
            certificates = [step for step in steps if isinstance(step.resource, Certificate) and not step.script]
            if certificates:
                issue(
                    self.hosts[name],
                    self.fleet.name,
                    [_certificate(step) for step in certificates],
                    self.keys,
                )
                finished += certificates
            steps = self._signed(name, steps)
            for step in guard.left_armed(steps):
                guard.log_in_anew(self.hosts[name], step.key)
            scripted = [step for step in steps if step.script]
            for step in scripted:
                if isinstance(step.resource, Delivery):
                    parcels.send(self.hosts[name], self.inventory, step.key, step.resource.parcels)
            if scripted:
                running = scripted
                self._run(name, scripted)
                guard.confirm(self.hosts[name], scripted)
        except FleetError as error:
            failure = self._masked(error)
            self._forget(name)
            self.failures.append(failure)
            if any(step.key == failure.subject for step in running):
                finished += takewhile(lambda step: step.key != failure.subject, running)
            self.acted.extend(finished)
            self.did(name, *map(audit.described, finished), {"key": failure.subject, "failed": True})
            for step in steps:
                self.listener(name, step, "done" if step in finished else "failed")
            raise failure from None
        self.acted.extend(steps)
        self.acted_until = time.monotonic()
        self.did(name, *map(audit.described, steps))
        for step in steps:
            self.listener(name, step, "done")

    def _unsigned(self, name: str) -> list[str]:
        """Certificates that this host has not got, and nobody here can sign: what they are for could not start, and
        the host would be left half-made.
        """
        if not self.keys.authorities.issuer.offline:
            return []
        return [
            step.resource.name
            for step in self.steps(name)
            if step.pending and step.step is StepClass.CREATE and isinstance(step.resource, Certificate)
        ]

    def _signed(self, name: str, steps: list[Step]) -> list[Step]:
        """The steps, with the revocation list that had to be signed first: once for all hosts."""
        if not any(isinstance(step.resource, Revocations) and not step.script for step in steps):
            return steps
        trust = self.fleet.host(name).settings.trust
        self.keys.sign_lists(trust.crl_days, trust.renew_days)
        self.rethink()
        lists = {item.key: item for item in self.state(name).resources if isinstance(item, Revocations)}
        return [
            replace(step, resource=lists[step.key], script=shell.put(lists[step.key])) if step.key in lists else step
            for step in steps
        ]

    def _masked(self, error: FleetError) -> FleetError:
        """The same refusal without any secret that a host may have repeated."""
        return type(error)(
            host=error.host, subject=error.subject, found=self.masker(error.found), expected=error.expected,
            hint=error.hint,
        )  # fmt: skip

    def _run(self, name: str, steps: list[Step]) -> None:
        reply = remote.run(self.hosts[name], shell.batch(steps, guard.armed))
        failure = shell.failure(reply.stdout)
        if failure is None:
            return
        words = failure.words or "; ".join(reply.stderr[-3:]) or "no word of why"
        step = next((step for step in steps if step.key == failure.key), None)
        raise FleetError(
            host=name,
            subject=failure.key,
            found=words,
            expected=f"the step to succeed: {step.summary}" if step else "the steps to succeed",
            hint="what was live is still live; mend the cause and run apply again",
        )

    # -- the whole -----------------------------------------------------------------------------------------

    def plan(self) -> dict[str, list[Step]]:
        """Host -> what differs, in the inventory's order of hosts."""
        return {host.name: self._chosen(host.name) for host in self.fleet.hosts if host.name in self.targets}

    def remaining(self) -> dict[str, list[Step]]:
        """The second look: what still differs (and is not pending), with who leads asked anew."""
        # Every host's last operation asks for it, and each look is at all of them: once is enough.
        with self._verifying:
            if self.acted and self._verified != len(self.acted):
                self.look_all()
                self._verified = len(self.acted)
        return {
            name: left for name, steps in self.plan().items() if (left := [step for step in steps if not step.pending])
        }


def _within_its_role(step: Step, every: Iterable[Resource]) -> bool:
    """Whether a look at its own role sees all that it changes; the last look of a run is at everything anyway."""
    item = step.resource
    if isinstance(item, File):
        # What systemd makes of a unit is seen where the unit is wanted.
        if item.absent or item.path.startswith("/etc/systemd/"):
            return False
        others = [one for one in every if isinstance(one, Parameter | Only) and one.role != step.role]
        return not any(
            item.path in one.query.script or (isinstance(one, Parameter) and item.path in one.loads) for one in others
        )
    return isinstance(item, Parameter) and not isinstance(item, Delivery) and not item.guard


def still_different(step: Step) -> FleetError:
    """What the second look found."""
    return FleetError(
        host=step.host,
        subject=step.key,
        found=f"after apply still: {step.summary}",
        expected="no difference at the second look",
        hint="somebody else changes it, or the service does not take the value; see plan",
    )


def _certificate(step: Step) -> Certificate:
    assert isinstance(step.resource, Certificate)
    return step.resource


_RUNS: WeakKeyDictionary[State, Run] = WeakKeyDictionary()


def attach(state: State, run: Run) -> None:
    """Make this the Run of a pyinfra State."""
    _RUNS[state] = run


def run_of(state: State) -> Run | None:
    return _RUNS.get(state)


def phases(services: Iterable[str]) -> list[tuple[str, Phase]]:
    """The fixed list of a deploy's operations: the same for every host, whatever it has or lacks."""
    steps = [("", Phase.PACKAGES)]
    steps += [(service, phase) for service in services for phase in Phase if phase is not Phase.PACKAGES]
    return steps
