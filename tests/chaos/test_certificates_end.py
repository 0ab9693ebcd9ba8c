"""Certificates near their end, at it and after it: renewed unnoticed before, brought back by `apply` after.

The lab's hosts share the machine's clock, which nobody may move. So it is the certificates that are moved: what hosts
get was signed so long ago that the moment in question is now.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

from deploy.converge import compare
from deploy.errors import FleetError, FleetErrors
from deploy.procedures.pki.change import roll_ca
from deploy.procedures.pki.renew import renew
from deploy.trust import signing
from deploy.trust.authority import Signer
from deploy.trust.certificates import LeafProfile
from tests.chaos import results
from tests.chaos.failover import load, settled, the_fleet, visiting
from tests.chaos.promises import lost
from tests.chaos.support import UNBOUNDED, altered, fleet, on, shared
from tests.chaos.test_pki import pki_of, unnoticed

pytestmark = pytest.mark.thorough

LEAF, ROOT_LIFE = timedelta(days=365), timedelta(days=800)
"""For how long certificates are signed, and the CA's."""
NOW = timedelta()
THRESHOLD = timedelta(days=30)
"""`trust.renew_days`."""
BAR = 300.0
"""Seconds of an apply that brings back a fleet in which nobody trusts anybody any more. Brokers let nobody in for up to
two minutes of them: so long Erlang keeps certificates in its memory, and that nothing but time ends from outside.
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The inventory with its real CA, which was made as long ago as any certificate here is to be signed."""
    settled()
    text = f'{UNBOUNDED}roll = {{"canary_seconds": 1, "read_interval": 0.3}}\n'
    copy = altered(tmp_path_factory.mktemp("ends"), f'{text}trust = trust | {{"authority_days": {ROOT_LIFE.days}}}\n')
    shared(copy, "pki")
    assert fleet("apply", inventory=copy).returncode == 0
    with made(root=LEAF):
        replaced(str(copy))
    yield str(copy)
    assert fleet("apply", inventory=copy).returncode == 0
    sentinels(str(copy))
    assert fleet("apply").returncode == 0
    settled()


@contextmanager
def made(*, leaves: timedelta = NOW, root: timedelta = NOW) -> Iterator[None]:
    """What is signed meanwhile for hosts was signed so long ago, and nobody here takes it for due; what is shown to
    ports as a proof is signed now.
    """
    sign, make = Signer.sign, signing.make_root
    then, long_ago = datetime.now(UTC) - leaves, datetime.now(UTC) - root

    def signed(signer: Signer, csr: str, profile: LeafProfile, *, requester: str = "") -> str:
        return sign(signer, csr, profile, requester=requester, now=then if profile.days > 1 else None)

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(then.timestamp(), tz)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "datetime", Then)
        patch.setattr(Signer, "sign", signed)
        patch.setattr(
            signing, "make_root", lambda name, bits, days, now, permitted: make(name, bits, days, long_ago, permitted)
        )
        yield


def replaced(place: str) -> None:
    """Another CA, to its end."""
    for _ in range(8):
        try:
            assert roll_ca(place).phase == ""
            return
        except (FleetError, FleetErrors) as error:
            if "redis-sentinel" not in str(error):
                raise
            sentinels(place)
    raise AssertionError("a change of the CA does not come to its end")


def renewed(place: str, left: timedelta) -> datetime:
    """Every certificate of every host anew, with so much of its life left; when that is over."""
    with made(leaves=LEAF - left):
        done = renew(place, everything=True)
        until = datetime.now(UTC) + left
    assert [error for error in done.errors if "sentinel" not in error.message()] == []
    sentinels(place)
    return until


def sentinels(place: str) -> None:
    """One after another, by hand: a roll of them takes a minute, and nothing of it is at stake here."""
    for host in the_fleet().members("sentinel"):
        on(host.name, "systemctl restart redis-sentinel")
        assert fleet("status", "--wait", "60", inventory=place).returncode == 0


def until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()) + 2)


def status(place: str) -> Any:
    return json.loads(pki_of(place, "status", "--json").stdout)


def recovered(place: str, what: str) -> None:
    """By one apply: everybody is served again, and what was stored is there."""
    begun = time.monotonic()
    done = fleet("apply", inventory=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet("status", "--wait", "60", inventory=place).returncode == 0
    seconds = time.monotonic() - begun
    results.note(f"{what}: apply, and all is well", seconds=seconds)
    assert seconds < BAR
    with visiting("web1") as visits:
        time.sleep(5)
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}
    # They decide over what they have open to one another, and so are left to roll.
    sentinels(place)
    settled(inventory=place)
    assert pki_of(place, "verify").returncode == 0


def test_at_the_threshold_they_are_renewed_and_nobody_notices(place: str) -> None:
    when = renewed(place, THRESHOLD + timedelta(minutes=2)) - THRESHOLD
    assert datetime.now(UTC) < when, "it has taken too long to be a test of the threshold"
    assert fleet("plan", inventory=place).returncode == 0, "not yet"
    until(when)
    done = fleet("plan", "--no-diff", inventory=place)
    assert done.returncode == 2
    assert "issue again: ends " in done.stdout
    assert {leaf["state"] for leaf in status(place)["leaves"]} == {"due"}
    applied_unnoticed(place, "certificates are renewed at the threshold")


def test_an_hour_before_the_end_all_is_well_and_they_are_renewed_unnoticed(place: str) -> None:
    renewed(place, timedelta(hours=1))
    assert fleet("status", "--wait", "30", inventory=place).returncode == 0
    applied_unnoticed(place, "certificates are renewed an hour before their end")


def applied_unnoticed(place: str, what: str) -> None:
    with visiting("web1") as visits:
        time.sleep(2)
        done = fleet("apply", inventory=place)
        time.sleep(4)
    assert done.returncode == 0, done.stdout + done.stderr
    unnoticed(visits, what)
    sentinels(place)
    assert {leaf["state"] for leaf in status(place)["leaves"]} == {"well"}


def test_an_apply_brings_a_fleet_back_whose_certificates_have_all_ended(place: str) -> None:
    with load("web1", "ended", "sessions", "messages", "rows") as running:
        time.sleep(5)
        ledgers = running.end()
    until(renewed(place, timedelta(minutes=3)))
    assert {leaf["why"] for leaf in status(place)["leaves"]} == {"has ended"}
    assert fleet("status", inventory=place).returncode == 1
    recovered(place, "all certificates have ended")
    assert lost(ledgers, "sessions") == {"sessions": set()}


def test_an_apply_brings_a_fleet_back_whose_ca_has_ended(place: str) -> None:
    end = datetime.now(UTC) + timedelta(minutes=9)
    with made(root=ROOT_LIFE - timedelta(minutes=9)):
        replaced(place)
    assert datetime.now(UTC) < end, "it has taken too long to be a test of the end"
    until(end)
    assert {root["why"] for root in status(place)["roots"]} == {"has ended: fleet pki roll-ca"}
    done = fleet("plan", "--no-diff", inventory=place)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "its CA has ended" in done.stdout
    recovered(place, "the CA has ended")
    assert status(place)["phase"] == "issue"
    replaced(place)
    (root,) = status(place)["roots"]
    assert root["state"] == "well"
