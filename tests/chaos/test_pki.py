"""Certificates through their life, under load: revoked, all renewed, the CA replaced; none notice but the refused.

Every TLS port is asked as in tests/chaos/test_mutual_tls.py, from a host that the firewall lets through.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.converge.inventory import folder, open_keys
from deploy.trust.authorities import Authorities, Phase
from deploy.trust.certificates import LeafProfile
from tests.chaos import results
from tests.chaos.failover import eventually, settled, the_fleet, visiting
from tests.chaos.support import INVENTORY, REPEATS, ROOT, UNBOUNDED, altered, fleet, on, shared
from tests.chaos.test_mutual_tls import PROBES, TARGETS, Pair, called
from tests.chaos.visitors import Visits

REQUESTER = "chaos-pki"
"""For whom the certificates of these tests were made: by this name they are all revoked."""
BAR = 60.0
"""Seconds from `fleet pki revoke` until every port refuses."""


def pki(command: str, *rest: str) -> subprocess.CompletedProcess[str]:
    return pki_of(PLACE["inventory"], command, *rest)


def pki_of(inventory: str | Path, command: str, *rest: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "fleet"), "pki", command, str(inventory), *rest],
        cwd=ROOT, text=True, capture_output=True, timeout=900, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


PLACE: dict[str, Path] = {}
"""The inventory of this module: with the real CA, and no bound on how often visitors may come."""


@pytest.fixture(scope="module", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    settled()
    copy = altered(
        tmp_path_factory.mktemp("pki"),
        UNBOUNDED + 'roll = {"canary_seconds": 1, "read_interval": 0.3}',
    )
    shared(copy, "pki")
    PLACE["inventory"] = copy
    assert fleet("apply", inventory=copy).returncode == 0
    yield
    for host in the_fleet().hosts:
        on(host.name, "rm -rf /run/fleet-mtls")
    assert fleet("apply").returncode == 0
    settled()


def carried(command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The same, until it has ended well: sentinels take another certificate, or another CA, by `fleet roll` alone."""
    done = pki(command, *words)
    for _ in range(6):
        if "redis-sentinel" not in done.stdout + done.stderr:
            break
        rolled = fleet("roll", inventory=PLACE["inventory"], timeout=1800)
        assert rolled.returncode == 0, rolled.stdout + rolled.stderr
        if command == "renew" or done.returncode == 0:
            return pki("verify") if done.returncode else done
        # What was turned around stays so.
        done = pki(command, *(word for word in words if word != "--abort"))
    return done


def differs() -> int:
    return fleet("drift", inventory=PLACE["inventory"]).returncode


def killed(seconds: float, *words: str, phase: Phase | None = None) -> None:
    """Begin `fleet pki ...`, and kill it. phase: so long after this one is written down."""
    command, *rest = words
    running = subprocess.Popen(
        [str(ROOT / "fleet"), "pki", command, str(PLACE["inventory"]), *rest], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if phase is not None:
        eventually(f"the change is in phase {phase.value}", lambda: under_way() is phase)
    time.sleep(seconds)
    running.kill()
    running.wait()
    assert phase is None or under_way() is phase, "it died too late to leave hosts without it"


def under_way() -> Phase | None:
    return Authorities.load(folder(INVENTORY) / "pki").state.phase


def made(role: str) -> Pair:
    """A good certificate of a role, by the CA as it is now, in its journal."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "request")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    profile = LeafProfile(common_name=role, role=role, organization=INVENTORY, client_auth=True, days=1)
    signer = open_keys(folder(INVENTORY)).signer()
    pem = signer.sign(request.public_bytes(Encoding.PEM).decode(), profile, requester=REQUESTER)
    return Pair(pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def codes(pairs: dict[str, Pair]) -> dict[str, str]:
    """What every port of the fleet answers to who may call it, with these certificates of each role."""
    found = {}
    for host, service, port in TARGETS:
        role, path = PROBES[service.name, port.name]
        url = f"https://{host.name}:{port.number}{path}"
        found[f"{service.name} {port.name} {host.name}"] = called(client_of(role), url, pairs[role])
    return found


ROLES = sorted({role for role, _ in PROBES.values()})


def client_of(role: str) -> str:
    return next(host.name for host in the_fleet().hosts if host.has(role))


def verified() -> dict[str, Any]:
    done = pki("verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def roots() -> list[str]:
    """Fingerprints of the authorities that hosts trust."""
    return [one["fingerprint"] for one in json.loads(pki("status", "--json").stdout)["roots"]]


def unnoticed(visits: dict[str, Visits], what: str) -> None:
    for kind, one in visits.items():
        results.note(f"{what}: visits, {kind}", failed=len(one.failed), slowest_seconds=one.slowest)
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}
    assert all(one.good > 10 for one in visits.values())


def test_status_and_verify_are_well_and_leave_no_trace() -> None:
    report = json.loads(pki("status", "--json").stdout)
    assert report["code"] in {0, 2}, report
    assert not report["untold"]
    ports = verified()["ports"]
    assert len(ports) >= len(TARGETS)
    assert all(port["served"] == port["disk"] for port in ports)
    assert differs() == 0


def test_a_revoked_certificate_is_refused_by_every_verifier_within_a_minute() -> None:
    pairs = {role: made(role) for role in ROLES}
    assert set(codes(pairs).values()) == {"200"}
    begun = time.monotonic()
    done = pki("revoke", REQUESTER, "--reason", "key-compromise", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert len(report["taken"]) >= len(ROLES)
    assert report["proven"] > 0
    answers = codes(pairs)
    while set(answers.values()) != {"000"} and time.monotonic() - begun < BAR:
        time.sleep(1)
        answers = codes(pairs)
    seconds = time.monotonic() - begun
    results.note("a certificate is revoked", seconds_until_refused_everywhere=seconds)
    assert set(answers.values()) == {"000"}, answers
    assert seconds < BAR
    assert set(codes({role: made(role) for role in ROLES}).values()) == {"200"}, "others are served as before"
    assert differs() == 0, "the list is part of what apply keeps"
    again = json.loads(pki("revoke", REQUESTER, "--json").stdout)
    assert {one["serial"] for one in report["taken"]} <= {one["serial"] for one in again["taken"]}


@pytest.mark.thorough
def test_a_certificate_in_use_is_replaced_before_it_is_refused() -> None:
    with visiting("web1") as visits:
        time.sleep(2)
        done = pki("revoke", "web1/frontend", "--reason", "superseded", "--json")
        time.sleep(4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ["web1", "frontend"] in json.loads(done.stdout)["renewed"]
    unnoticed(visits, "a certificate in use is revoked")
    verified()


@pytest.mark.thorough
def test_without_the_list_a_port_takes_what_is_revoked() -> None:
    """The twin: it is the list that refuses. One door loses it, and takes again what every other refuses."""
    host, service, port = next(target for target in TARGETS if target[1].name == "door")
    role, path = PROBES[service.name, port.name]
    client = client_of(role)
    pair = made(role)
    assert pki("revoke", REQUESTER).returncode == 0
    url = f"https://{host.name}:{port.number}{path}"
    assert called(client, url, pair) == "000"
    try:
        on(host.name, "sed -i 's/ crl-file [^ ]*//' /etc/haproxy/door.cfg && systemctl reload fleet-door")
        time.sleep(2)
        assert called(client, url, pair) == "200"
    finally:
        assert fleet("apply", "--limit", host.name, inventory=PLACE["inventory"]).returncode == 0
    assert called(client, url, pair) == "000"


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_every_certificate_is_renewed_and_nobody_notices(turn: int) -> None:
    before = {(port["host"], port["service"]): port["served"] for port in verified()["ports"]}
    with visiting("web1") as visits:
        time.sleep(2)
        begun = time.monotonic()
        report = json.loads(pki("renew", "--all", "--json").stdout)
        # Whatever serves somebody has loaded them; sentinels are rolled.
        assert {step["key"] for step in report["pending"]} == {"unit:redis-sentinel.service"}
        done = fleet("roll", inventory=PLACE["inventory"], timeout=1800)
        results.note("all certificates are renewed", seconds=time.monotonic() - begun)
        time.sleep(4)
    assert done.returncode == 0, done.stdout + done.stderr
    unnoticed(visits, "all certificates are renewed")
    after = {(port["host"], port["service"]): port["served"] for port in verified()["ports"]}
    assert {key for key in before if before[key] == after[key]} == set(), "still the old one"
    assert differs() == 0


@pytest.mark.thorough
def test_a_renewal_that_was_killed_is_finished_by_the_next() -> None:
    before = {(port["host"], port["service"]): port["disk"] for port in verified()["ports"]}
    killed(9, "renew", "--all")
    done = carried("renew")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {(port["host"], port["service"]): port["disk"] for port in verified()["ports"]}
    assert {key for key in before if before[key] == after[key]} == set()
    assert json.loads(pki("renew", "--json").stdout)["renewed"] == [], "and it is done once"


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_the_ca_is_replaced_and_nobody_notices(turn: int) -> None:
    old = {role: made(role) for role in ROLES}
    with visiting("web1") as visits:
        time.sleep(2)
        begun = time.monotonic()
        for phase in ("trust", "issue", "drop"):
            done = carried("roll-ca", "--stop-after", phase)
            assert done.returncode == 0, done.stdout + done.stderr
            expected = "000" if phase == "drop" else "200"
            # Each call trusts the bundle that its host has by now.
            assert set(codes(old).values()) == {expected}, phase
        results.note("the CA is replaced", seconds=time.monotonic() - begun)
        time.sleep(4)
    unnoticed(visits, "the CA is replaced")
    verified()
    assert set(codes({role: made(role) for role in ROLES}).values()) == {"200"}
    assert differs() == 0


@pytest.mark.thorough
def test_a_change_of_the_ca_that_is_killed_again_and_again_comes_to_its_end() -> None:
    with visiting("web1") as visits:
        for seconds in (4, 9, 14, 19, 24):
            killed(seconds, "roll-ca")
        done = carried("roll-ca")
        assert done.returncode == 0, done.stdout + done.stderr
        time.sleep(4)
    unnoticed(visits, "the CA is replaced, the controller killed five times")
    verified()


@pytest.mark.thorough
@pytest.mark.parametrize("phase", ["trust", "issue"])
def test_a_change_that_is_aborted_leaves_what_was(phase: str) -> None:
    before = roots()
    assert carried("roll-ca", "--stop-after", phase).returncode == 0
    done = carried("roll-ca", "--abort")
    assert done.returncode == 0, done.stdout + done.stderr
    assert roots() == before
    verified()


@pytest.mark.thorough
@pytest.mark.parametrize("turns", [1, 2])
def test_a_change_that_dies_before_all_trust_both_is_turned_around_and_that_as_well(turns: int) -> None:
    """What the new authority would sign is refused by hosts that have not learned of it: turned twice, they have to."""
    before = roots()
    with visiting("web1") as visits:
        killed(2, "roll-ca", phase=Phase.TRUST)
        if turns == 2:
            killed(2, "roll-ca", "--abort", phase=Phase.DROP)
        done = carried("roll-ca", "--abort")
        assert done.returncode == 0, done.stdout + done.stderr
        time.sleep(4)
    unnoticed(visits, f"a change of the CA dies in phase trust, turned {turns} times, each but the last dies as well")
    assert (roots() == before) is (turns == 1)
    assert under_way() is None
    verified()


@pytest.mark.thorough
def test_a_change_stops_at_a_host_that_has_not_got_the_phase() -> None:
    """A port that did not load the new bundle is found by what it refuses, whatever its files say."""
    host = next(target[0].name for target in TARGETS if target[1].name == "door")
    try:
        on(host, "systemctl stop fleet-door; systemctl mask --runtime fleet-door")
        done = pki("roll-ca", "--stop-after", "trust")
        assert done.returncode == 1, done.stdout
        assert host in done.stdout + done.stderr
        assert json.loads(pki("status", "--json").stdout)["phase"] == "trust"
    finally:
        on(host, "systemctl unmask --runtime fleet-door; systemctl start fleet-door")
    assert carried("roll-ca", "--abort").returncode == 0


@pytest.mark.thorough
def test_a_list_that_is_about_to_end_is_signed_again_by_apply() -> None:
    keys = open_keys(folder(INVENTORY))
    keys.signer().sign_list(29)
    found = fleet("plan", "--no-diff", inventory=PLACE["inventory"])
    assert found.returncode == 2
    assert "sign another list: ends " in found.stdout
    assert json.loads(pki("status", "--json").stdout)["code"] == 2
    assert fleet("apply", inventory=PLACE["inventory"]).returncode == 0
    assert differs() == 0
    assert json.loads(pki("status", "--json").stdout)["code"] == 0
    verified()
