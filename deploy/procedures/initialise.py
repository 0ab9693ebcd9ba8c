"""Making what an inventory keeps at rest: its secrets and its CA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.converge.desired import secret_specs
from deploy.converge.inventory import load, own_identity
from deploy.errors import FleetError
from deploy.model.permitted import permitted
from deploy.trust.authority import Authority
from deploy.trust.identities import load_identities
from deploy.trust.vault import Vault


@dataclass(frozen=True)
class Made:
    secrets: tuple[str, ...]
    authority: bool


def initialise(path: Path, identity: Path | None = None) -> Made:
    """Make the secrets that are missing and, once, the CA; what exists is kept as it is.

    Encrypted to the operators of the inventory (base.operators); without any, to the identity's own key.

    Raises:
        FleetError: nobody to encrypt to, or what is there cannot be opened.
    """
    _, fleet = load(path)
    identities = load_identities(identity or own_identity(path))
    settings = fleet.hosts[0].settings
    recipients = list(settings.base.operators) or [item.recipient for item in identities]
    store = path / "secrets.age"
    vault = Vault.open(store, identities) if store.exists() else Vault.create(store, recipients)
    made = vault.ensure(secret_specs(fleet.profile))
    if made:
        # Without operators in the inventory it stays with whom it is sealed to: fleet secrets add-operator.
        vault.save(list(settings.base.operators) or None)
    directory = path / "pki"
    fresh = not (directory / "ca.crt").exists()
    if fresh:
        trust = settings.trust
        Authority.create(
            directory,
            f"omegaup-{fleet.name}",
            recipients,
            key_bits=trust.authority_bits,
            days=trust.authority_days,
            permitted=permitted(fleet),
        )
    if not Authority.load(directory).certificate_pem:
        raise FleetError(subject=str(directory), found="no certificate", expected="the CA's certificate")
    return Made(tuple(made), fresh)
