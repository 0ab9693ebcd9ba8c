"""Who can open the inventory's secrets and its CAs' keys: all of it is sealed to the same people.

Where the inventory names operators (base.operators), they are those people, and nobody else is; where it does not,
those whom the secrets are sealed to are written down beside them, and changed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deploy.converge import lock
from deploy.converge.inventory import load, own_identity
from deploy.errors import FleetError
from deploy.trust.authorities import Authorities
from deploy.trust.authority import SIDECAR, Authority
from deploy.trust.identities import Identity, load_identities
from deploy.trust.recipients import Recipient, parse_recipients, read_sidecar
from deploy.trust.signing import BACKDATE
from deploy.trust.vault import Removed, Vault


@dataclass(frozen=True)
class Sealed:
    """To whom everything is sealed now, and what it was that was sealed anew."""

    operators: tuple[str, ...]
    files: tuple[str, ...]


def rekey(path: Path, identity: Path | None = None) -> Sealed:
    """Seal everything to the present operators: with a new key of the files' own, which no old copy opens.

    Raises:
        FleetError: it cannot be opened, or would be sealed to nobody who runs this.
    """
    with lock.hold(path, "fleet secrets rekey"):
        return _seal(path, _present(path), load_identities(identity or own_identity(path)))


def add(path: Path, key: str, identity: Path | None = None) -> Sealed:
    """One more operator, by the line of a public key.

    Raises:
        FleetError: it is no key, or the inventory, which names its operators, does not name this one.
    """
    (new,) = _one(key)
    named = load(path)[1].hosts[0].settings.base.operators
    if named and new.text not in {one.text for one in parse_recipients(named, "base.operators")}:
        raise FleetError(
            subject="base.operators", found=f"no {new.label}", expected="every operator of this inventory",
            hint="write the key into group_data first (with the next apply they may log in too), then run this again",
        )  # fmt: skip
    with lock.hold(path, "fleet secrets add-operator"):
        present = [*_present(path), *([] if named else [new])]
        return _seal(path, present, load_identities(identity or own_identity(path)))


def remove(path: Path, who: str, identity: Path | None = None) -> tuple[Sealed, str]:
    """One operator less, by the key's comment or line; and what they are called. What they could read is noted down.

    Every secret and every CA's key could be read by them, and old copies of the files still can: who has them knows
    those values until they are changed.

    Raises:
        FleetError: nobody of that name, the inventory names them still, or nobody would be left.
    """
    with lock.hold(path, "fleet secrets remove-operator"):
        identities = load_identities(identity or own_identity(path))
        vault = Vault.open(path / "secrets.age", identities)
        gone = [one for one in _sealed_to(path) if _is(one, who)]
        if not gone:
            raise FleetError(
                subject=f"operator {who}", found="nobody of that name or key to whom anything is sealed",
                expected=", ".join(one.label for one in _sealed_to(path)),
                hint="of one who was removed already: fleet secrets rotate --exposed changes what they knew",
            )  # fmt: skip
        texts = {one.text for one in gone}
        named = load(path)[1].hosts[0].settings.base.operators
        if named and texts & {one.text for one in parse_recipients(named, "base.operators")}:
            raise FleetError(
                subject="base.operators", found=f"{gone[0].label}, still", expected="operators of this inventory alone",
                hint="take the key out of group_data and run fleet apply, which ends their logins; then run this again",
            )  # fmt: skip
        left = [one for one in _present(path) if one.text not in texts]
        label = gone[0].comment or gone[0].label
        # Once for each removal, however often it is run: those who are not recipients any more were noted down.
        if texts & {one.text for one in read_sidecar(vault.sidecar)}:
            vault.remove(label)
        return _seal(path, left, identities, vault), label


def exposed(authority: Authority, removed: Iterable[Removed]) -> tuple[str, ...]:
    """Who could have kept the key of a CA, and is no operator any more."""
    made = authority.info.not_before + BACKDATE
    return tuple(dict.fromkeys(one.who for one in removed if made <= datetime.fromisoformat(one.at)))


def _one(key: str) -> tuple[Recipient, ...]:
    found = parse_recipients(key.splitlines(), "the key")
    if len(found) != 1:
        raise FleetError(subject="the key", found=f"{len(found)} keys", expected="one line with one public key")
    return found


def _is(one: Recipient, who: str) -> bool:
    return bool(who) and (who == one.comment or " ".join(who.split()[:2]) == one.text)


def _present(path: Path) -> list[Recipient]:
    """The operators: whom the inventory names, or to whom the secrets are sealed."""
    named = load(path)[1].hosts[0].settings.base.operators
    store = path / "secrets.recipients"
    return list(parse_recipients(named, "base.operators") if named else read_sidecar(store))


def _sealed_to(path: Path) -> list[Recipient]:
    """Everybody to whom anything is sealed."""
    sidecars = [path / "secrets.recipients", *(one.directory / SIDECAR for one in _authorities(path))]
    return list({one.text: one for sidecar in sidecars for one in read_sidecar(sidecar)}.values())


def _authorities(path: Path) -> list[Authority]:
    """Those whose keys are here: of one that came before as well, which may still count for somebody."""
    return [one for one in Authorities.load(path / "pki").every() if not one.offline]


def _seal(
    path: Path, recipients: Sequence[Recipient], identities: Sequence[Identity], vault: Vault | None = None
) -> Sealed:
    """Each file is replaced at once; after a death between two of them, running it again does the rest."""
    if not {one.text for one in recipients} & {one.recipient for one in identities}:
        raise FleetError(
            subject="operators", found="none whose key this command was run with", expected="you among them",
            hint="what nobody here can open could not be changed any more: have another operator do it",
        )  # fmt: skip
    lines = [one.line for one in recipients]
    opened = vault or Vault.open(path / "secrets.age", identities)
    opened.save(lines)
    files = [str(opened.path.relative_to(path))]
    for authority in _authorities(path):
        authority.rekey(identities, lines)
        files.append(str(authority.directory.relative_to(path) / "ca.key.age"))
    return Sealed(tuple(one.label for one in recipients), tuple(files))
