"""Signing where no network reaches: out as requests, back as certificates, and nothing that was not asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import compare, issue, remote
from deploy.converge.remote import Reply
from deploy.errors import FleetError
from deploy.model.observed import CertificateState, FileState, HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import Certificate, HostState, Revocations, Unit
from deploy.procedures.pki import offline as module
from deploy.procedures.pki.renew import Renewed
from deploy.trust import exchange
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile, describe
from deploy.trust.exchange import Request
from tests.unit.trust.keys import Operator

PROFILE = LeafProfile(common_name="git", role="git", organization="test", dns_names=("git",), server_auth=True)


def test_without_its_key_an_authority_is_asked_not_used(here: Authority, alice: Operator) -> None:
    assert here.offline
    with pytest.raises(FleetError, match=r"on another machine.*fleet pki requests"):
        here.unlock(alice.identities)


def test_there_and_back(
    tmp_path: Path, authority: Authority, signer: Signer, here: Authority, csr: str
) -> None:  # fmt: skip
    folder = tmp_path / "stick"
    before = here.revocation_list().number
    exchange.ask(folder, here, [Request("app1", "certificate:x", csr, PROFILE)], 365)
    wanted = exchange.asked(folder, authority)
    assert wanted.requests[0].line == "app1: /O=test/OU=git/CN=git (server, 365 days) for git"
    exchange.sign(folder, signer, wanted)
    found = exchange.answered(folder, here)
    answers, text = found.certificates, found.list
    ((answer,), serial) = answers, describe(answers[0].pem).serial
    assert (answer.host, answer.name) == ("app1", "certificate:x")
    for _ in range(2):
        exchange.adopt(here, answers, text)
        assert [one.serial for one in here.journal()] == [serial]
        assert here.journal() == authority.journal()
        assert here.issued_pem(serial) == answer.pem
        assert here.revocation_list().number > before
    # What is revoked here goes there, and comes back on the list.
    here.revoke([serial], "key-compromise", "ana")
    exchange.ask(folder, here, [], 365)
    exchange.sign(folder, signer, exchange.asked(folder, authority))
    newer = exchange.answered(folder, here).list
    exchange.adopt(here, [], newer)
    exchange.adopt(here, [], text)
    assert here.revocation_list().serials == {serial}, "an older list does not replace a newer one"
    assert authority.revocations() == here.revocations()


def test_what_was_tampered_with_is_refused(
    tmp_path: Path, authority: Authority, signer: Signer, here: Authority, csr: str, alice: Operator
) -> None:
    folder = tmp_path / "stick"
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    with pytest.raises(FleetError, match="no such file"):
        exchange.asked(folder, authority)
    path = exchange.ask(folder, here, [Request("app1", "x", csr, PROFILE)], 365)
    whole = path.read_text()
    with pytest.raises(FleetError, match="for lab CA"):
        exchange.asked(folder, other)
    for text in ("", "[]", "{}", whole[:-20], whole.replace('"days"', '"Days"'), whole.replace('"csr"', '"csrs"')):
        path.write_text(text)
        with pytest.raises(FleetError, match="a damaged file"):
            exchange.asked(folder, authority)
    path.write_text(whole.replace('"OU', "x").replace('"role": "git"', '"role": "git/CN=root"'))
    with pytest.raises(FleetError, match="certificate profile"):
        exchange.asked(folder, authority)
    path.write_text(whole)
    path = exchange.sign(folder, signer, exchange.asked(folder, authority))
    document = json.loads(path.read_text())
    document["certificates"][0]["pem"] = other.unlock(alice.identities).sign(csr, PROFILE)
    path.write_text(json.dumps(document))
    with pytest.raises(FleetError, match="another authority"):
        exchange.answered(folder, here)
    document["certificates"][0]["pem"] = signer.sign(csr, PROFILE)
    path.write_text(json.dumps(document))
    with pytest.raises(FleetError, match="a damaged file"):
        exchange.answered(folder, here)
    document["certificates"], document["list"] = [], other.list_pem()
    path.write_text(json.dumps(document))
    with pytest.raises(FleetError, match="not a list that this CA signed"):
        exchange.answered(folder, here)


def test_nothing_is_signed_that_was_not_agreed_to(
    tmp_path: Path, authority: Authority, here: Authority, csr: str, alice: Operator
) -> None:
    folder = tmp_path / "stick"
    exchange.ask(folder, here, [Request("app1", "x", csr, PROFILE)], 365)

    class No(Exception):
        pass

    def refuse(found: exchange.Asked) -> None:
        assert len(found.requests) == 1
        raise No

    with pytest.raises(No):
        module.sign(authority.directory, folder, refuse, alice.path)
    assert authority.journal() == ()
    module.sign(authority.directory, folder, lambda _: None, alice.path)
    assert len(authority.journal()) == 1


ITEM = Certificate(
    name="git", directory="/s", common_name="git", role_name="git", dns_names=("git",), ip_addresses=(),
    server_auth=True, client_auth=False, owner="root", group="root",
)  # fmt: skip


def test_what_it_would_have_to_sign_waits_and_nothing_is_reloaded_for_it(authority: Authority) -> None:
    unit = Unit(name="git.service", reload_files=("/s/git.crt", "/s/ca.crl"))
    state = HostState("app1", (Revocations(path="/s/ca.crl", due="1 revoked since"), ITEM, unit))
    files = {path: FileState("file", "root", "root", 0o644, "1") for path in ("/s/git.crt", "/s/ca.crl")}
    stamps = {"/s/git.crt": "1", "/s/ca.crl": "1"}
    seen = Snapshot(
        "app1", HostFactsSeen("debian", "12", 1, 1), files=files, certificates={"/s/git.crt": CertificateState("", "")},
        units={"git.service": UnitState("loaded", "active", "running", "enabled", False, 1, 1, stamps)},
    )  # fmt: skip
    found = compare.steps(state, seen, authority.certificate_pem, offline=True)
    assert [(step.key, step.pending, step.waits) for step in found] == [
        ("file:/s/ca.crl", True, "signature pending"), ("certificate:/s/git.crt", True, "signature pending"),
    ]  # fmt: skip
    assert all("fleet pki requests" in step.summary for step in found)
    found = compare.steps(state, seen, authority.certificate_pem)
    assert [step.pending for step in found] == [False, False, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners take root")
def test_keys_stay_on_their_host_and_certificates_find_them(
    tmp_path: Path, authority: Authority, signer: Signer, here: Authority, alice: Operator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole way with a real shell; what a session and an apply are is imitated."""
    host, folder = tmp_path / "host", tmp_path / "stick"
    host.mkdir()
    item = Certificate(**{**vars(ITEM), "directory": str(host)})
    said: list[str] = []

    def run_here(_: object, script: str, seconds: int = 0) -> Reply:
        done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=False)
        said.extend((script, done.stdout))
        return Reply(done.returncode == 0, done.stdout.splitlines(), done.stderr.splitlines())

    monkeypatch.setattr(remote, "run", run_here)
    wanted = HostState("app1", (item,))
    run: Any = SimpleNamespace(
        fleet=SimpleNamespace(name="test", hosts=[SimpleNamespace(settings=SimpleNamespace(trust=SimpleNamespace(
            crl_days=365)))]),
        hosts={"app1": SimpleNamespace(name="app1")}, targets={"app1"}, keys=SimpleNamespace(authority=here),
        state=lambda _: wanted, rethink=lambda: None, look_all=lambda: None,
    )  # fmt: skip
    run.plan = lambda: {"app1": compare.steps(
        wanted, Snapshot("app1", HostFactsSeen("debian", "12", 1, 1)), here.certificate_pem, offline=True
    )}  # fmt: skip

    class Opened:
        def __enter__(self) -> Any:
            return SimpleNamespace(run=run)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(module, "session", lambda *_, **__: Opened())
    done = Renewed((), SimpleNamespace(errors=(), pending=()), SimpleNamespace(errors=[]))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "converge", lambda _: done)

    _, found, _ = module.request("x", folder)
    assert [(one.host, one.name) for one in found] == [("app1", item.key)]
    module.sign(authority.directory, folder, lambda _: None, alice.path)
    for _ in range(2):  # what is in its place stays so
        accepted = module.accept("x", folder)
        assert accepted.placed == (("app1", "git"),)
        assert accepted.renewed is not None
        assert accepted.renewed.certificates == (("app1", "git"),)
        assert sorted(path.name for path in host.iterdir()) == ["git.crt", "git.key"]
        info = describe((host / "git.crt").read_text(), here.certificate_pem)
        assert info.serial == here.journal()[-1].serial
    assert not any("PRIVATE KEY" in text for text in said)
    # Asked for again: the certificate of before finds its key in use, and the new key is not touched.
    module.request("x", folder)
    shutil.copytree(folder, tmp_path / "old")
    module.request("x", folder)
    module.sign(authority.directory, tmp_path / "old", lambda _: None, alice.path)
    with pytest.raises(FleetError, match="asked for again since, or never"):
        module.accept("x", tmp_path / "old")
    document = json.loads((tmp_path / "old" / exchange.CERTIFICATES).read_text())
    document["certificates"][0]["host"] = "app9"
    (tmp_path / "old" / exchange.CERTIFICATES).write_text(json.dumps(document))
    with pytest.raises(FleetError, match="a host that the inventory has"):
        module.accept("x", tmp_path / "old")


def test_no_key_is_made_that_nobody_could_sign_for(monkeypatch: pytest.MonkeyPatch, here: Authority) -> None:
    """Else an apply would overwrite the keys whose requests are under way."""
    asked: list[str] = []
    monkeypatch.setattr(remote, "run", lambda *_, **__: asked.append("asked"))

    def signer() -> Signer:
        return here.unlock(())

    with pytest.raises(FleetError, match="on another machine"):
        issue.issue(SimpleNamespace(name="a"), "x", [ITEM], SimpleNamespace(signer=signer))  # type: ignore[arg-type]
    assert asked == []
