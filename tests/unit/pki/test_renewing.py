"""What is renewed and signed again, in which order it is taken back, and what an interruption leaves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import compare, issue, remote
from deploy.converge.engine import Keys, Run
from deploy.converge.remote import Reply
from deploy.converge.step import Step
from deploy.errors import FleetError, FleetErrors
from deploy.model import resources as want
from deploy.model.catalog import SSL_DIR
from deploy.model.fleet import HostInput, build
from deploy.model.observed import CertificateState, FileState, HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import Certificate, File, HostState, Parameter, Query, Revocations, StepClass, Unit
from deploy.model.secrets import Credential
from deploy.procedures.apply import Outcome
from deploy.procedures.pki import revoke as module
from deploy.procedures.pki import verify
from deploy.procedures.pki.renew import Renewed, of_trust
from deploy.procedures.pki.verify import Verified
from deploy.roles import node_exporter
from deploy.trust.authorities import STATE, Authorities
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile, describe
from deploy.trust.secret import Secret
from tests.unit.trust.keys import Operator

FLEET = build(
    "test",
    {name: HostInput(frozenset({"gitserver"}), {"ssh_hostname": f"10.0.0.3{number}"})
     for number, name in enumerate(("app1", "app2"))},
)  # fmt: skip
CRL = f"{SSL_DIR}/ca.crl"
FACTS = HostFactsSeen("debian", "12", 2**33, 2**33)
LIST = Revocations(path=CRL, content="list\n")
READER = Unit(name="door.service", reload_files=(CRL,))


def seen(**parts: object) -> Snapshot:
    return Snapshot("app1", FACTS, **parts)  # type: ignore[arg-type]


def loaded(digest: str) -> dict[str, UnitState]:
    return {"door.service": UnitState("loaded", "active", "running", "enabled", False, 1, 1, {CRL: digest})}


def the_steps(item: Revocations, found: Snapshot) -> list[tuple[str, str]]:
    return [(step.key, step.summary) for step in compare.steps(HostState("app1", (item, READER)), found, "")]


def test_a_list_that_is_due_is_signed_first_and_then_loaded() -> None:
    there = {CRL: FileState("file", "root", "root", 0o644, LIST.sha256)}
    now = seen(files=there, units=loaded(LIST.sha256))
    assert the_steps(LIST, now) == []
    assert the_steps(replace(LIST, due="1 revoked since"), now) == [
        (f"file:{CRL}", "sign another list: 1 revoked since"), ("unit:door.service", f"to load {CRL}"),
    ]  # fmt: skip
    assert the_steps(replace(LIST, content="next\n"), now) == [
        (f"file:{CRL}", "content"), ("unit:door.service", f"to load {CRL}"),
    ]  # fmt: skip
    (step, *_) = compare.steps(HostState("app1", (replace(LIST, due="none yet"),)), seen(), "")
    assert (step.step, step.script) == (StepClass.CREATE, "")


ITEM = Certificate(
    name="gitserver", directory=SSL_DIR, common_name="gitserver", role_name="gitserver", dns_names=("gitserver",),
    ip_addresses=(), server_auth=True, client_auth=True, owner="git", group="git",
)  # fmt: skip
PROFILE = LeafProfile(
    common_name="gitserver", role="gitserver", organization="test", dns_names=("gitserver",), server_auth=True,
    client_auth=True,
)  # fmt: skip


def test_a_certificate_is_made_anew_when_it_was_revoked_or_asked_for(
    authority: Authority, signer: Signer, csr: str
) -> None:
    pem = signer.sign(csr, PROFILE)
    info = describe(pem)
    state = HostState("app1", (ITEM,))
    files = {
        ITEM.key_path: FileState("file", "git", "git", 0o400, ""),
        ITEM.certificate_path: FileState("file", "root", "root", 0o644, ""),
    }
    now = seen(files=files, certificates={ITEM.certificate_path: CertificateState(pem, info.public_key_sha256)})
    authorities = Authorities.only(authority)

    def summaries() -> list[str]:
        return [step.summary for step in compare.steps(state, now, authority.certificate_pem, authorities.reissue())]

    assert summaries() == []
    authorities.ask([info.serial])
    authorities.ask([info.serial])
    assert summaries() == ["issue again: asked for"]
    assert Authorities.load(authority.directory).state.renew == (info.serial,), "any later apply goes on with it"
    authorities.ask(["01"])
    authorities.settle(iter(["00", info.serial, "01"]))
    assert Authorities.load(authority.directory).state.renew == (info.serial, "01"), "both are there still"
    authorities.settle([info.serial, "00"])
    assert summaries() == ["issue again: asked for"], "it is still there"
    authorities.settle(["00"])
    assert summaries() == []
    assert Authorities.load(authority.directory).state.renew == ()
    authority.revoke([info.serial], "key-compromise")
    assert summaries()[0].startswith("issue again: revoked ")


def test_a_host_that_the_authority_may_not_sign_for_is_refused_before_anything_is_changed(
    tmp_path: Path, alice: Operator
) -> None:
    narrow = Authority.create(tmp_path / "pki", "lab", [alice.public], key_bits=2048, permitted=["gitserver"])
    assert [step.summary for step in compare.steps(HostState("app1", (ITEM,)), seen(), narrow.certificate_pem)] == [
        "issue for gitserver, role gitserver"
    ]
    state = HostState("app1", (replace(ITEM, dns_names=("gitserver", "app9")),))
    with pytest.raises(FleetError) as caught:
        compare.steps(state, seen(), narrow.certificate_pem)
    assert (caught.value.host, caught.value.subject) == ("app1", "certificate for gitserver")
    assert caught.value.found.startswith("app9: not among")


def test_asking_for_nothing_writes_nothing(authority: Authority) -> None:
    authorities = Authorities.only(authority)
    authorities.ask([])
    authorities.settle(["00"])
    assert not (authority.directory / STATE).exists()


class Vault:
    def values(self) -> list[Secret]:
        return []

    def get(self, name: str) -> Secret:
        return Secret(f"secret of {name}")

    def accepted(self, name: str) -> tuple[Credential, ...]:
        return (Credential(f"secret of {name}"),)


@pytest.fixture
def run(authority: Authority, signer: Signer, tmp_path: Path) -> Run:
    keys = Keys(Vault(), Authorities.only(authority), lambda _: signer)  # type: ignore[arg-type]
    return Run(FLEET, tmp_path, keys, {}, frozenset({"app1", "app2"}))


def test_a_host_without_certificates_that_nobody_here_signs_is_left_as_it_is(
    run: Run, here: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is known of it is asked for before it is forgotten: what is done next is looked at afterwards."""
    step = Step(host="app1", resource=ITEM, step=StepClass.CREATE, summary="issue", pending=True)
    other = Step(host="app1", resource=READER, step=StepClass.WRITE, summary="enable", script="true")
    forgotten: list[bool] = []
    asked: list[str] = []

    def steps(one: Run, name: str) -> list[Step]:
        forgotten.append(name in one._stale)
        return [step]

    monkeypatch.setattr(Run, "steps", steps)
    monkeypatch.setattr(remote, "run", lambda *_, **__: asked.append("asked"))
    run.keys = replace(run.keys, authorities=Authorities.only(here))
    with pytest.raises(FleetError) as caught:
        run.act("app1", [other])
    assert (caught.value.subject, caught.value.found) == ("certificates", "none for gitserver")
    assert (forgotten, asked) == ([False], [])
    assert "app1" in run._stale


def test_the_list_is_signed_once_for_all_hosts(run: Run, authority: Authority, signer: Signer, csr: str) -> None:
    serial = describe(signer.sign(csr, PROFILE)).serial
    authority.revoke([serial], "superseded")

    def due(host: str) -> list[Step]:
        items = [item for item in run.state(host).resources if isinstance(item, Revocations)]
        return compare.steps(HostState(host, tuple(items)), Snapshot(host, FACTS), "")

    first, second = due("app1"), due("app2")
    assert [step.summary for step in (*first, *second)] == ["sign another list: 1 revoked since"] * 2
    (signed,) = run._signed("app1", first)
    text = authority.list_pem()
    assert isinstance(signed.resource, File)
    assert signed.resource.content == text
    assert signed.script.startswith(f"put {CRL} ")
    (same,) = run._signed("app2", second)
    assert isinstance(same.resource, File)
    assert (same.resource.content, authority.list_pem()) == (text, text)
    assert authority.revocation_list().serials == {serial}
    assert due("app1")[0].script, "now it is an ordinary file"


def test_while_it_is_held_no_list_is_signed(run: Run, authority: Authority, signer: Signer, csr: str) -> None:
    authority.revoke([describe(signer.sign(csr, PROFILE)).serial], "superseded")
    run.keys.authorities.hold = True
    items = [item for item in run.state("app1").resources if isinstance(item, Revocations)]
    assert [item.due for item in items] == [""]
    assert items[0].content == authority.list_pem()


def test_a_part_of_a_run_hides_nothing_from_what_is_owed(run: Run) -> None:
    """What an apply forgets of a way back is by all steps, not by those that are its business."""
    for name in run.targets:
        run.snapshots[name] = Snapshot(name, FACTS)
    everything = run.plan()["app1"]
    run.only = of_trust
    chosen = run.plan()["app1"]
    assert 0 < len(chosen) < len(everything)
    assert all(SSL_DIR in step.key for step in chosen)
    assert [step.key for step in run.steps("app1")] == [step.key for step in everything]
    assert run.todo("app1", "gitserver", want.Phase.FILES) == [
        step for step in chosen if step.role == "gitserver" and step.phase is want.Phase.FILES
    ]


QUERY = Query("nginx", "true")


@pytest.mark.parametrize(
    ("resource", "summary", "ours"),
    [
        (ITEM, "x", True), (LIST, "x", True), (File(path=f"{SSL_DIR}/ca.crt"), "x", True),
        (File(path="/etc/nginx/nginx.conf"), "content", False), (READER, f"to load {CRL}", True),
        (READER, "to load /etc/haproxy/door.cfg", False), (READER, "enabled -> disabled", False),
        (Parameter(query=QUERY, name="files", want="loaded"), "stale -> loaded", True),
        (Parameter(query=QUERY, name="build", want="1"), "0 -> 1", False), (want.Package(name="nginx"), "x", False),
    ],
)  # fmt: skip
def test_what_is_the_business_of_trust(resource: want.Resource, summary: str, ours: bool) -> None:
    step = Step(host="app1", resource=resource, step=StepClass.WRITE, summary=summary)
    assert of_trust(step) is ours


# -- revoke -----------------------------------------------------------------------------------------------


class World:
    """The procedure with real files of the CA; hosts and what they answer are imitated."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.done, self.differs = run, list[str](), False
        self.unreachable: FleetError | None = None
        self.obeyed = True
        authority = run.keys.authority
        monkeypatch.setattr(module, "folder", Path)
        monkeypatch.setattr(module, "load", lambda path: (None, FLEET))
        monkeypatch.setattr(module, "open_keys", lambda *_: run.keys)
        monkeypatch.setattr(module, "session", self.session)
        monkeypatch.setattr(module, "converge", self.converge)
        monkeypatch.setattr(verify, "show", self.show)
        monkeypatch.setattr(verify, "PATIENCE", 0)
        monkeypatch.setattr(run, "plan", lambda: {"app1": [1] if self.differs else []})
        self.authority: Authority = authority

    @contextmanager
    def session(self, name: str, **options: object) -> Iterator[Any]:
        if self.unreachable:
            raise self.unreachable
        self.run.keys.authorities.hold = False
        self.run.rethink()
        self.run.state("app1")  # as the look does, before anything is decided
        yield SimpleNamespace(run=self.run)

    def converge(self, opened: Any, but: object = None) -> Renewed:
        held = opened.run.keys.authorities.hold
        (item,) = (item for item in self.run.state("app1").resources if isinstance(item, Revocations))
        assert bool(item.due) is not held, "the list goes out in the second part alone"
        self.done.append("replace" if held else "list")
        made = (("app1", "gitserver"),) if held else ()
        return Renewed(made, Outcome((), (), ()), Verified(()))

    def show(self, run: Run, canaries: Any) -> dict[tuple[str, int, str], bool | None]:
        self.done.append("show")
        return {("app1", 9443, one.name): "good" in one.name or not self.obeyed for one in canaries}

    def has(self, pem: str) -> None:
        self.run.snapshots["app1"] = seen(certificates={ITEM.certificate_path: CertificateState(pem, "")})


@pytest.fixture
def world(run: Run, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(run, monkeypatch)


def test_what_a_host_uses_is_replaced_before_the_list_goes_out(world: World, signer: Signer, csr: str) -> None:
    pem = signer.sign(csr, PROFILE, requester="app1")
    world.has(pem)
    found = module.revoke("x", describe(pem).serial, "key-compromise")
    assert world.done == ["replace", "list", "show"]
    assert (found.errors, found.proven, found.renewed) == ((), 1, (("app1", "gitserver"),))
    assert [one.fresh for one in found.taken] == [True]
    # Again: what is revoked is revoked, and where nothing differs nothing is done.
    world.has(signer.sign(csr, PROFILE, requester="app1"))
    world.done.clear()
    again = module.revoke("x", describe(pem).serial, "key-compromise")
    assert [one.fresh for one in again.taken] == [False]
    assert (world.done, again.proven) == ([], 0)


def test_what_no_host_uses_goes_on_the_list_at_once(world: World, signer: Signer, csr: str) -> None:
    serial = describe(signer.sign(csr, PROFILE, requester="gone")).serial
    module.revoke("x", "gone", "cessation-of-operation")
    assert world.done == ["list", "show"]
    assert serial in world.authority.revocations()


def test_a_port_that_goes_on_taking_what_is_revoked_is_an_error(world: World, signer: Signer, csr: str) -> None:
    signer.sign(csr, PROFILE, requester="gone")
    world.obeyed = False
    found = module.revoke("x", "gone", "unspecified")
    assert [error.found for error in found.errors] == ["a revoked certificate: taken"]
    assert found.proven == 0


def test_a_host_in_the_way_does_not_undo_it_and_it_is_said(world: World, signer: Signer, csr: str) -> None:
    serial = describe(signer.sign(csr, PROFILE, requester="app1")).serial
    world.unreachable = FleetError(host="app1", subject="SSH", found="nothing", expected="an answer", hint="wake it")
    with pytest.raises(FleetErrors, match=r"wake it\.\n.*1 certificates recorded as revoked"):
        module.revoke("x", "app1", "key-compromise")
    assert serial in world.authority.revocations()
    assert world.authority.list_due(datetime.now(UTC), 30) == "1 revoked since", "any apply goes on"


def test_who_is_meant(authority: Authority, signer: Signer, csr: str) -> None:
    authorities = Authorities.only(authority)
    person = LeafProfile(common_name="ana", role="operator", organization="test", client_auth=True)

    def serial(profile: LeafProfile, requester: str) -> str:
        return describe(signer.sign(csr, profile, requester=requester)).serial

    git, door = serial(PROFILE, "app1"), serial(replace(PROFILE, role="door", common_name="door"), "app1")
    ana, other = serial(person, "operator ana"), serial(PROFILE, "app2")

    def meant(what: str) -> list[str]:
        return [record.serial for _, records in module.resolve(authorities, FLEET, what) for record in records]

    assert meant("app1") == [git, door]
    assert meant("app1/door") == [door]
    assert meant("ana") == [ana]
    assert meant(other) == [other]
    assert meant(other.lower()) == [other]
    assert meant(":".join(other[index : index + 2] for index in range(0, len(other), 2))) == [other]
    for what in ("app3", "app1/nginx", "an", "", "00FF", "canary", "/", "app1/"):
        if what == "app1/":
            assert meant(what) == [git, door]
            continue
        with pytest.raises(FleetError, match="no certificate that is in force"):
            meant(what)
    serial(replace(person, common_name="app2"), "operator app2")
    with pytest.raises(FleetError, match="a host and a person of that name"):
        meant("app2")


# -- by a real shell --------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners take root")
def test_a_pair_is_made_on_the_host_and_put_in_its_place_as_one(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = replace(ITEM, directory=str(tmp_path), owner="root", group="root")
    scripts: list[str] = []

    def here(host: object, script: str, seconds: int = 0) -> Reply:
        scripts.append(script)
        done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=False)
        return Reply(done.returncode == 0, done.stdout.splitlines(), done.stderr.splitlines())

    monkeypatch.setattr(remote, "run", here)
    issue.issue(SimpleNamespace(name="app1"), "test", [item], run.keys)  # type: ignore[arg-type]
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file() and "ca." not in path.name)
    assert names == ["gitserver.crt", "gitserver.key"]
    assert (tmp_path / "gitserver.key").stat().st_mode & 0o777 == 0o400
    info = describe((tmp_path / "gitserver.crt").read_text(), run.keys.authority.certificate_pem)
    public = subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "gitserver.key"), "-pubout", "-outform", "DER"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    digest = subprocess.run(["sha256sum"], input=public, capture_output=True, check=True).stdout.decode().split()[0]
    assert digest == info.public_key_sha256
    assert not any("PRIVATE KEY" in script for script in scripts), "the key never leaves its host"
    staged = (".gitserver.key.fleet-new ", ".gitserver.key.fleet-new.crt")
    first, second = (scripts[1].index(f"mv -fT -- {tmp_path}/{name}") for name in staged)
    assert "put" not in scripts[1][first:second], "nothing is between the two"


def test_the_manifest_learns_what_a_part_of_a_run_wrote(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    path.write_text(f"{'0' * 64}  /etc/a\n{'1' * 64}  {CRL}\n{'2' * 64}  {CRL}.other\n")
    script = node_exporter.rewritten([LIST]).replace(node_exporter.MANIFEST, str(path))
    subprocess.run(["sh", "-euc", script], check=True)
    assert sorted(path.read_text().splitlines()) == sorted(
        [f"{'0' * 64}  /etc/a", f"{LIST.sha256}  {CRL}", f"{'2' * 64}  {CRL}.other"]
    )
    path.unlink()
    subprocess.run(["sh", "-euc", script], check=True)
    assert not path.exists()
