"""What is read of hosts and their ports, by a real shell and OpenSSL against real servers, and what is made of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.converge import certificates
from deploy.converge.certificates import Canary, Have, Served
from deploy.errors import FleetError
from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Fleet, HostInput, HostSpec, build
from deploy.model.resources import Unit
from deploy.procedures.pki import canaries, status, verify
from deploy.procedures.pki.hosts import Seen
from deploy.trust.authorities import Authorities
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile, describe
from tests.unit.trust.keys import Operator, key_pem
from tests.unit.trust.readers import haproxy, python

FLEET: Fleet = build("test", {"app1": HostInput(frozenset({"gitserver"}), {"ssh_hostname": "10.0.0.31"})})
HOST: HostSpec = FLEET.host("app1")
GIT, DOOR = SERVICES["gitserver"].port("https").number, SERVICES["door"].port("https").number
NONCE = "n0"


@dataclass
class World:
    folder: Path
    authority: Authority
    signer: Signer
    csr: str
    key: bytes

    def issue(self, name: str, *, signer: Signer | None = None, days: int = 300, **more: object) -> str:
        profile = LeafProfile(
            common_name=name, role=name, organization="test", dns_names=("app1", "localhost"), server_auth=True,
            client_auth=True, days=days,
        )  # fmt: skip
        return (signer or self.signer).sign(self.csr, profile, requester="app1", **more)  # type: ignore[arg-type]

    def put(self, name: str, text: str) -> None:
        (self.folder / f"{name}.crt").write_text(text)
        (self.folder / f"{name}.key").write_bytes(self.key)

    def files(self) -> None:
        (self.folder / "ca.crt").write_text(self.authority.certificate_pem)
        (self.folder / "ca.crl").write_text(self.authority.list_pem())


@pytest.fixture
def world(
    tmp_path: Path, authority: Authority, signer: Signer, csr: str, leaf_key: rsa.RSAPrivateKey
) -> World:  # fmt: skip
    folder = tmp_path / "ssl"
    folder.mkdir()
    made = World(folder, authority, signer, csr, key_pem(leaf_key))
    for name in ("gitserver", "door", "log-sender"):
        made.put(name, made.issue(name))
    made.files()
    return made


def run(world: World, script: str, ports: dict[int, int]) -> list[str]:
    """A script of the host on this machine: other addresses, ports and folder."""
    text = script.replace(SSL_DIR, str(world.folder)).replace("/run/fleet-canary", str(world.folder / "fleet-canary"))
    for number, local in ports.items():
        text = text.replace(f"{HOST.address}:{number} ", f"127.0.0.1:{local} ")
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@contextmanager
def serving(world: World, name: str) -> Iterator[int]:
    """A port that serves with the pair of that name as it is now."""
    for end in ("crt", "key"):
        shutil.copy(world.folder / f"{name}.{end}", world.folder / f"server.{end}")
    with python(world.folder) as port:
        for end in ("crt", "key"):
            (world.folder / f"server.{end}").unlink()
        yield port


pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")


def looked(world: World, ports: dict[int, int]) -> tuple[Have, dict[int, Served]]:
    return certificates.parse("app1", run(world, certificates.script(HOST, NONCE, served=True), ports), NONCE)


def test_what_lies_there_and_what_is_served(world: World) -> None:
    with serving(world, "gitserver") as git, serving(world, "door") as door:
        have, served = looked(world, {GIT: git, DOOR: door})
    assert set(have.certificates) == {"gitserver", "door", "log-sender"}
    with serving(world, "door") as door:
        said = "\n".join(run(world, certificates.script(HOST, NONCE, served=True), {GIT: 1, DOOR: door}))
    assert "BEGIN CERTIFICATE" in said
    assert not re.search("PSK|Master-Key|PRIVATE", said), "keys of a session are nobody's business"
    assert have.authority.strip() == world.authority.certificate_pem.strip()
    assert have.revocations.strip() == world.authority.list_pem().strip()
    assert {number: one.verdict for number, one in served.items()} == {GIT: "ok", DOOR: "ok"}
    assert describe(served[GIT].pem) == describe(have.certificates["gitserver"])
    found = judged(world, have, served)
    assert found.well, found.errors
    assert [(one.service, one.port) for one in found.ports] == [("gitserver", GIT), ("door", DOOR)]


def judged(world: World, have: Have, served: dict[int, Served], units: bool = True) -> verify.Verified:
    unit = Unit(name="omegaup-gitserver.service", rolling=True, reload_files=(f"{SSL_DIR}/gitserver.crt",))
    known = {("app1", f"{SSL_DIR}/gitserver.crt"): unit} if units else {}
    return verify.judge(FLEET, Seen({"app1": have}, {"app1": served}), Authorities.only(world.authority), known)


def test_a_port_that_serves_an_old_one_is_named_with_what_to_do(world: World) -> None:
    with serving(world, "gitserver") as git, serving(world, "door") as door:
        world.put("gitserver", world.issue("gitserver"))
        have, served = looked(world, {GIT: git, DOOR: door})
    found = judged(world, have, served)
    (error,) = found.errors
    assert error.subject == f"gitserver, port {GIT}"
    assert "an old one is served" in error.found
    assert error.hint == "fleet apply; if it finds nothing to do: systemctl reload-or-restart omegaup-gitserver.service"


def test_nobody_there_another_name_another_ca_an_altered_list(world: World, tmp_path: Path, alice: Operator) -> None:
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    world.put("door", world.issue("door", signer=other.unlock(alice.identities)))
    with serving(world, "door") as door:
        have, served = looked(world, {GIT: 1, DOOR: door})
    found = judged(world, replace(have, revocations="x"), served)
    texts = {error.subject: error.found for error in found.errors}
    assert texts[f"{SSL_DIR}/ca.crl"] == "another content"
    assert texts[f"gitserver, port {GIT}"] == "nothing served: Connection refused"
    assert "not trusted" in texts[f"door, port {DOOR}"]
    profile = LeafProfile(common_name="door", role="door", organization="test", dns_names=("web1",), server_auth=True)
    world.put("door", world.signer.sign(world.csr, profile))
    with serving(world, "door") as door:
        have, served = looked(world, {GIT: 1, DOOR: door})
    texts = {error.subject: error.found for error in judged(world, have, served, units=False).errors}
    assert "ostname mismatch" in texts[f"door, port {DOOR}"]


def test_revoked_ended_and_missing(world: World) -> None:
    have = Have({"gitserver": world.issue("gitserver")}, world.authority.certificate_pem, world.authority.list_pem())
    pem = have.certificates["gitserver"]
    world.authority.revoke([describe(pem).serial], "key-compromise")
    served = {GIT: Served(pem, "ok"), DOOR: Served("", "connect:errno=111")}
    texts = {error.subject: error.found for error in judged(world, have, served).errors}
    assert texts[f"gitserver, port {GIT}"].startswith("revoked ")
    assert texts[f"door, port {DOOR}"] == "no certificate on the disk"
    later = datetime.now(UTC) + timedelta(days=302)
    fresh = world.issue("gitserver")
    seen = Seen({"app1": Have({"gitserver": fresh}, "", "")}, {"app1": {GIT: Served(fresh, "ok")}})
    found = verify.judge(FLEET, seen, Authorities.only(world.authority), {}, later)
    assert next(one for one in found.ports if one.service == "gitserver").found == "has ended"


@pytest.mark.parametrize("server", [haproxy, python])
def test_canaries_show_what_a_port_accepts(world: World, server: object) -> None:
    if server is haproxy and shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed here")
    good, bad = (canaries.signed(world.signer, FLEET.name, f"a {kind} certificate") for kind in ("good", "revoked"))
    world.authority.revoke([describe(bad.certificate).serial], "superseded")

    def shown() -> list[FleetError]:
        world.put("server", world.issue("door"))
        assert callable(server)
        with server(world.folder) as port:
            script = certificates.shows(HOST, [GIT, DOOR], [good, bad], NONCE)
            said = run(world, script, {GIT: port, DOOR: 1})
        answers = certificates.parse_shown("app1", said, NONCE)
        assert answers["a good certificate", DOOR] is None
        here = {("app1", number, name): taken for (name, number), taken in answers.items() if number == GIT}
        return list(verify.wrongly(FLEET, here, taken=[good.name], revoked=[bad.name]))

    assert [error.found for error in shown()] == ["a revoked certificate: taken"], "the list is not there yet"
    world.signer.sign_list(365)
    world.files()
    assert shown() == []
    assert not list(world.folder.glob("fleet-canary*")), "keys were left"


def test_what_nobody_answers_is_neither_taken_nor_refused() -> None:
    found = list(verify.wrongly(FLEET, {("app1", GIT, "x"): None}, refused=["x"]))
    assert [error.found for error in found] == ["x: no answer"]


def test_keys_of_canaries_do_not_show_themselves(world: World) -> None:
    assert "PRIVATE" not in repr(canaries.signed(world.signer, FLEET.name, "x"))
    assert "secret" not in repr(Canary("x", "secret", "secret"))


@pytest.mark.parametrize("said", [[], ["@@n0 file door", "cut"], ["@@other end"]])
def test_an_answer_that_breaks_off_is_refused(said: list[str]) -> None:
    with pytest.raises(FleetError, match="breaks off"):
        certificates.parse("app1", said, NONCE)
    with pytest.raises(FleetError, match="breaks off"):
        certificates.parse_shown("app1", said, NONCE)


# -- status -----------------------------------------------------------------------------------------------


def test_the_state_of_each_certificate(world: World, tmp_path: Path, alice: Operator) -> None:
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    authorities = Authorities.only(world.authority)
    now = datetime.now(UTC)
    texts = {
        "gitserver": world.issue("gitserver"), "door": world.issue("door", days=20), "stray": world.issue("stray"),
        "foreign": world.issue("foreign", signer=other.unlock(alice.identities)), "damaged": "no certificate",
        "revoked": world.issue("revoked"), "early": world.issue("early", now=now + timedelta(days=2)),
    }  # fmt: skip
    world.authority.revoke([describe(texts["revoked"]).serial], "superseded")
    found = {leaf.name: leaf for leaf in status.leaves(HOST, Have(texts), authorities, now)}
    assert {name: (leaf.state, leaf.why) for name, leaf in found.items()} == {
        "gitserver": ("well", ""), "door": ("due", "to be renewed"), "log-sender": ("bad", "missing"),
        "stray": ("well", "no role of this host asks for it"),
        "foreign": ("bad", "not from an authority that is trusted"),
        "damaged": ("bad", "text that is no PEM certificate"), "revoked": ("bad", f"revoked {now:%Y-%m-%d}"),
        "early": ("bad", "not valid yet: see the clocks"),
    }  # fmt: skip
    git = found["gitserver"]
    assert (git.owner, git.ports, git.days, git.role) == ("omegaup-gitserver", (GIT,), 299, "gitserver")
    assert git.serial == describe(texts["gitserver"]).serial
    assert git.issuer == world.authority.info.common_name
    late = status.judged(
        describe(texts["gitserver"]), texts["gitserver"], authorities, {}, now + timedelta(days=301), 30
    )
    assert late == ("bad", "has ended")


def test_the_state_of_the_ca_and_the_exit_code(world: World) -> None:
    authorities = Authorities.only(world.authority)
    now = datetime.now(UTC)

    def at(days: float) -> tuple[str, str]:
        found = status.root(world.authority, authorities, FLEET, now + timedelta(days=days))
        return found.state, found.why

    assert at(0) == ("well", "")
    assert at(340) == ("due", "fleet pki roll-ca")
    assert at(366) == ("bad", "has ended: fleet pki roll-ca")
    trust = {"trust": {"permitted": ["app1", "10.0.0.0/24"]}}
    input_ = HostInput(frozenset({"gitserver"}), {"ssh_hostname": "10.0.0.31", **trust})
    found = status.root(world.authority, authorities, build("test", {"app1": input_}), now)
    assert (found.state, found.why.split(":")[0]) == ("due", "trust.permitted is another than when it was made")
    world.signer.sign_list(40, now)
    assert at(20)[1].startswith("revocation list: ends ")
    assert at(41)[0] == "bad"
    well = status.Report((), (), "", ())
    assert well.code == 0
    assert replace(well, phase="trust").code == 2
    assert replace(well, untold=("app1: silent",)).code == 1
    assert replace(well, leaves=(status.Leaf("a", "b", state="due"),)).code == 2
    assert replace(well, leaves=(status.Leaf("a", "b", state="bad"), status.Leaf("a", "c", state="due"))).code == 1
