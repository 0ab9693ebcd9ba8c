"""All authorities of an inventory: the one that issues, and during a change of the CA the other one as well.

    pki/              the first authority (see authority.py)
    pki/ca-2, ...     those that came after it, each complete
    pki/state.json    which of them counts, how far a change is, and which certificates are to be made anew

Every change of state is one atomic write of state.json: whoever is killed when, it is that before or that after.

A change goes through three phases. Each is brought to every host and proven there before the next is begun, so that
whatever a host shows, every other trusts:

    trust   all hosts trust both; certificates come from the old authority
    issue   all hosts trust both; certificates come from the new one
    drop    all hosts trust the new one alone

To abort is to change back: the same phases towards the old authority, from the one that is safe (see `back`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path

from deploy.errors import FleetError
from deploy.trust import files
from deploy.trust.authority import CERTIFICATE, Authority

STATE = "state.json"
FIRST = "."


class Phase(Enum):
    TRUST = "trust"
    ISSUE = "issue"
    DROP = "drop"


@dataclass(frozen=True)
class State:
    """`active`, `target`: folders below pki/. While there is a phase, the change leads from `active` to `target`.

    `renew`: serials of certificates that are to be made anew though they are not due. `made`: how many authorities
    there were, the first included; none is changed to twice.
    """

    active: str = FIRST
    target: str = ""
    phase: Phase | None = None
    renew: tuple[str, ...] = ()
    made: int = 1

    @property
    def issuer(self) -> str:
        return self.target if self.phase in {Phase.ISSUE, Phase.DROP} else self.active

    @property
    def trusted(self) -> tuple[str, ...]:
        if self.phase in {Phase.TRUST, Phase.ISSUE}:
            return (self.active, self.target)
        return (self.issuer,)

    def begun(self, target: str) -> State:
        """A change to another authority, which nobody trusts yet."""
        return replace(self, target=target, phase=Phase.TRUST, made=self.made + 1)

    def proven(self) -> State:
        """What comes after the phase that is now proven on every host."""
        if self.phase is Phase.TRUST:
            return replace(self, phase=Phase.ISSUE)
        if self.phase is Phase.ISSUE:
            return replace(self, phase=Phase.DROP)
        return replace(self, active=self.target, target="", phase=None)

    def back(self) -> State:
        """The change the other way. From `drop` some hosts trust the new authority alone already: they have to learn
        the old one again before anybody shows its certificates. From `trust` nobody shows one of the new authority, and
        some hosts do not trust it yet: it is dropped. Otherwise a second turn would have it issue for hosts that others
        refuse.
        """
        if self.phase is None:
            return self
        turned = {Phase.TRUST: Phase.DROP, Phase.ISSUE: Phase.ISSUE, Phase.DROP: Phase.TRUST}
        return replace(self, active=self.target, target=self.active, phase=turned[self.phase])


class Authorities:
    """An inventory's authorities and the state that says which counts; `issuer` signs, the `trusted` are believed."""

    def __init__(self, directory: Path, state: State, loaded: Mapping[str, Authority]) -> None:
        """Internal: use :meth:`load` or :meth:`only`."""
        self.directory = directory
        self.state = state
        self._loaded = dict(loaded)
        self.hold = False
        """While it is set, no list is signed or sent: certificates that were revoked are replaced first."""

    @classmethod
    def load(cls, directory: Path) -> Authorities:
        """Raises FleetError: there is none, one that counts is incomplete, or the state cannot be read."""
        state = _read(directory / STATE)
        names = sorted({name for name in (state.active, state.target) if name})
        return cls(directory, state, {name: Authority.load(directory / name) for name in names})

    @classmethod
    def only(cls, authority: Authority) -> Authorities:
        """One authority without a state on the disk."""
        return cls(authority.directory, State(), {FIRST: authority})

    @property
    def issuer(self) -> Authority:
        return self._loaded[self.state.issuer]

    @property
    def other(self) -> Authority | None:
        """During a change, the one that does not issue at the moment."""
        names = {self.state.active, self.state.target} - {"", self.state.issuer}
        return self._loaded[names.pop()] if names else None

    @property
    def trusted(self) -> tuple[Authority, ...]:
        """The oldest first, in every phase: an order that changes would be a change of the file."""
        found = (self._loaded[name] for name in self.state.trusted)
        return tuple(sorted(found, key=lambda one: (one.info.not_before, one.info.fingerprint)))

    @property
    def bundle(self) -> str:
        """The certificates that every host is to trust, PEM."""
        return "".join(one.certificate_pem for one in self.trusted)

    @property
    def lists(self) -> str:
        """Their revocation lists, in the same order, PEM."""
        return "".join(one.list_pem() for one in self.trusted)

    def lists_due(self, now: datetime, renew_days: int) -> str:
        """Why a list is to be signed before it goes out; empty if none is."""
        if self.hold:
            return ""
        due = {one: reason for one in self.trusted if (reason := one.list_due(now, renew_days))}
        return "; ".join(due.values())

    def reissue(self) -> dict[str, str]:
        """Serials of certificates that hosts are not to go on with, and why."""
        asked = dict.fromkeys(self.state.renew, "asked for")
        revoked = (item for one in self.trusted for item in one.revocations().values())
        return asked | {item.serial: f"revoked {item.revoked_at[:10]}" for item in revoked}

    def every(self) -> tuple[Authority, ...]:
        """All that ever were, the first first."""
        names = (FIRST, *(f"ca-{number}" for number in range(2, self.state.made + 1)))
        return tuple(self._loaded.get(name) or Authority.load(self.directory / name) for name in names)

    def ask(self, serials: Iterable[str]) -> None:
        """From now on these are to be made anew, by whichever apply comes."""
        wanted = tuple(dict.fromkeys((*self.state.renew, *serials)))
        if wanted != self.state.renew:
            self.write(replace(self.state, renew=wanted))

    def settle(self, seen: Iterable[str]) -> None:
        """Forget what was asked for of certificates that no host has any more. seen: serials on all hosts."""
        known = frozenset(seen)
        left = tuple(serial for serial in self.state.renew if serial in known)
        if left != self.state.renew:
            self.write(replace(self.state, renew=left))

    @property
    def next_folder(self) -> str:
        """Below pki/: where the next one lies, or will."""
        return f"ca-{self.state.made + 1}"

    def create(
        self, name: str, recipients: Iterable[str], *, key_bits: int, days: int, permitted: Sequence[str] = ()
    ) -> str:
        """Make another complete authority, which counts for nothing yet; its folder below pki/.

        One that an earlier run made, and no change was begun to, is taken.
        """
        path = self.directory / self.next_folder
        if not (path / CERTIFICATE).exists():
            Authority.create(path, name, recipients, key_bits=key_bits, days=days, permitted=permitted)
        return path.name

    def begin(self, folder: str, *, at_once: bool = False) -> None:
        """Begin the change to an authority made by :meth:`create`. at_once: with the phase in which it issues."""
        self._loaded[folder] = Authority.load(self.directory / folder)
        state = self.state.begun(folder)
        self.write(state.proven() if at_once else state)

    def write(self, state: State) -> None:
        """Make this the state, durable when this returns."""
        document = {**asdict(state), "phase": state.phase.value if state.phase else None, "version": 1}
        files.write_atomic(self.directory / STATE, (json.dumps(document, indent=2) + "\n").encode(), files.PUBLIC)
        self.state = state


def _read(path: Path) -> State:
    if not path.exists():
        return State()
    data = files.read_bytes(path, expected="the state of the authorities", hint="Restore it from version control.")
    try:
        document = json.loads(data)
        phase = Phase(document["phase"]) if document["phase"] else None
        renew = tuple(map(str, document["renew"]))
        state = State(str(document["active"]), str(document["target"]), phase, renew, int(document["made"]))
        if document["version"] == 1 and bool(state.target) == bool(phase) and state.active != state.target:
            return state
    except (ValueError, KeyError, TypeError):
        pass
    raise FleetError(
        subject=str(path), found="not a state of authorities", expected="what fleet pki wrote there",
        hint="Restore it from version control: it says which CA the hosts trust.",
    )  # fmt: skip
