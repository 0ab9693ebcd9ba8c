"""Every secret as it is kept: how old, who may know it, how far its change is. Asks no host."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.converge.desired import secret_specs
from deploy.converge.inventory import load, own_identity
from deploy.errors import FleetError
from deploy.procedures.secrets.operators import exposed
from deploy.procedures.secrets.rotate import known
from deploy.trust.authorities import Authorities
from deploy.trust.identities import load_identities
from deploy.trust.recipients import read_sidecar
from deploy.trust.vault import Vault


@dataclass(frozen=True)
class Kept:
    """`days` since it was made. `change`: how another takes its place; `why`: where that is not by phases. `phase`: of
    a change under way. `known_to`: who could read it, and is no operator any more.
    """

    name: str
    purpose: str
    days: int
    created: str
    change: str
    why: str
    phase: str
    known_to: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """`operators`: who can open it. `stray`: names that no role knows. `authorities`: CAs whose keys were known to
    somebody who is no operator any more.
    """

    secrets: tuple[Kept, ...]
    operators: tuple[str, ...]
    stray: tuple[str, ...]
    authorities: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def code(self) -> int:
        """0: all is well, 2: a change is under way, or something is known to who should not know it."""
        return 2 if any(one.phase or one.known_to for one in self.secrets) or self.authorities else 0


def status(path: Path, identity: Path | None = None) -> Report:
    """Raises FleetError: the secrets cannot be opened."""
    specs = secret_specs(load(path)[1].profile)
    vault = _open(path, identity)
    changing, now = vault.changing(), datetime.now(UTC)
    kept = tuple(
        Kept(
            name, spec.purpose, (now - vault.created(name)).days, vault.created(name).isoformat(timespec="seconds"),
            spec.change.value, spec.why, changing[name].value if name in changing else "", vault.known_to(name),
        )
        for name, spec in sorted(specs.items())
        if name in vault.names()
    )  # fmt: skip
    known_keys = {one: exposed(one, vault.removed) for one in Authorities.load(path / "pki").trusted}
    return Report(
        kept, tuple(one.label for one in read_sidecar(vault.sidecar)), tuple(sorted(set(vault.names()) - set(specs))),
        tuple((one.info.common_name or "", who) for one, who in known_keys.items() if who),
    )  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """`value` is what clients come with; `other` the one that it changes from or to, empty if it does not."""

    name: str
    value: str
    other: str
    phase: str


def show(path: Path, name: str, identity: Path | None = None) -> Shown:
    """One secret in plain.

    Raises:
        FleetError: there is none of that name, or it cannot be opened.
    """
    known({**secret_specs(load(path)[1].profile)}, [name])
    entry = _open(path, identity).entry(name)
    others = [one.secret.reveal() for one in entry.values if one is not entry.used]
    return Shown(name, entry.used.secret.reveal(), "".join(others), entry.phase.value if entry.phase else "")


def under_way(path: Path, identity: Path | None = None) -> dict[str, str]:
    """Secrets that change, and their phase."""
    return {name: phase.value for name, phase in _open(path, identity).changing().items()}


def _open(path: Path, identity: Path | None) -> Vault:
    if not (path / "secrets.age").exists():
        raise FleetError(
            subject=str(path / "secrets.age"), found="no such file", expected="the inventory's secrets",
            hint=f"fleet secrets init {path.name} makes them",
        )  # fmt: skip
    return Vault.open(path / "secrets.age", load_identities(identity or own_identity(path)))
