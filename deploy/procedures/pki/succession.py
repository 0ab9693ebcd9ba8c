"""Who comes after an authority: the one that another change leads to (see change.py), or, after an end, any."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from deploy.converge.engine import Run
from deploy.errors import FleetError
from deploy.model.permitted import permitted
from deploy.trust.authorities import Phase
from deploy.trust.authority import SIDECAR, Authority
from deploy.trust.recipients import read_sidecar

logger = logging.getLogger(__name__)


def ended(authority: Authority) -> bool:
    return authority.info.not_after <= datetime.now(UTC)


def begin(run: Run, tell: Callable[[str], None]) -> None:
    """Make the new authority, sealed to whom the present one is sealed to, and write down that a change began.

    Raises:
        FleetError: the present one's key cannot be opened, or is not here; nothing was begun.
    """
    trust, authorities = run.fleet.hosts[0].settings.trust, run.keys.authorities
    old = authorities.issuer
    over = ended(old)
    if old.offline:
        raise FleetError(
            subject=f"authority {old.info.common_name}", found="a key that is on another machine",
            expected="the authority that is to follow, made there",
            hint="fleet pki requests --next-ca, fleet pki sign there, fleet pki accept; then again",
        )  # fmt: skip
    if not over:
        run.keys.signer()
    recipients = [one.line for one in read_sidecar(old.directory / SIDECAR)]
    made = authorities.create(
        f"omegaup-{run.fleet.name}", recipients, key_bits=trust.authority_bits, days=trust.authority_days,
        permitted=permitted(run.fleet),
    )  # fmt: skip
    # Of one that has ended nothing is accepted any more: there is nothing to be careful with.
    authorities.begin(made, at_once=over)
    new = authorities.issuer if over else authorities.other
    assert new is not None
    tell(f"{new.info.common_name} is to follow {old.info.common_name}: {new.directory}")
    if over:
        tell(f"{old.info.common_name} has ended: certificates come from the new one at once")


def succeed(run: Run) -> bool:
    """Where the authority that issues has ended, another does from now on: the one that a change leads to, or a new
    one. It stays a change under way, which `fleet pki roll-ca` proves and ends. Whether that was so.

    Raises:
        FleetError: the authority's key is on another machine.
    """
    authorities = run.keys.authorities
    if not ended(authorities.issuer):
        return False
    if authorities.state.phase is None:
        begin(run, lambda words: logger.warning("%s", words))
    elif authorities.state.phase is Phase.TRUST:
        authorities.write(authorities.state.proven())
    run.rethink()
    return True
