"""The authority that follows one whose key is elsewhere: asked for, made there, taken here, and shown by canaries."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.errors import FleetError
from deploy.procedures.pki import canaries, succession
from deploy.trust import exchange, following
from deploy.trust.authorities import Authorities, Phase
from deploy.trust.authority import KEY, Authority, Signer
from deploy.trust.certificates import describe
from deploy.trust.following import Following, Wanted
from tests.unit.trust.keys import Operator


@pytest.fixture
def controller(here: Authority) -> Authorities:
    return Authorities.load(here.directory)


def wanted(controller: Authorities) -> Wanted:
    key, csr = canaries.pair()
    canaries.keep(controller.directory, key, {})
    return Wanted("ca-2", "lab", 2048, 100, ("app1", "10.0.0.0/24"), csr, canaries.profile("test", 9))


@pytest.fixture
def answered(tmp_path: Path, controller: Authorities, signer: Signer, alice: Operator) -> Following:
    """There and back by the file, twice: who is interrupted there runs it again."""
    exchange.ask(tmp_path / "stick", controller.issuer, (), 365, wanted(controller))
    for _ in range(2):
        authority = exchange.asked_of(tmp_path / "stick", signer.authority.directory)
        assert authority.directory == signer.authority.directory
        exchange.sign(tmp_path / "stick", signer, exchange.asked(tmp_path / "stick", authority), alice.identities)
    found = exchange.answered(tmp_path / "stick", controller.issuer).following
    assert found is not None
    return found


def test_it_is_made_there_once_and_its_public_half_comes_here(
    controller: Authorities, answered: Following, authority: Authority, alice: Operator, tmp_path: Path
) -> None:
    there = Authority.load(authority.directory / "ca-2")
    assert there.info.common_name != authority.info.common_name
    there.unlock(alice.identities)
    with pytest.raises(FleetError, match="a key that is on another machine"):
        succession.begin(SimpleNamespace(fleet=SimpleNamespace(hosts=[SimpleNamespace(settings=SimpleNamespace(
            trust=None))]), keys=SimpleNamespace(authorities=controller)), lambda _: None)  # type: ignore[arg-type]  # fmt: skip
    for _ in range(2):
        made = following.take(controller.issuer, answered)
        canaries.take(controller.directory, answered.canaries)
    assert (made.offline, made.info.fingerprint) == (True, there.info.fingerprint)
    assert not list((controller.directory / "ca-2").glob(f"{KEY}*"))
    controller.begin("ca-2")
    assert controller.state.phase is Phase.TRUST
    run: Any = SimpleNamespace(keys=SimpleNamespace(authorities=controller), fleet=SimpleNamespace(name="test"))
    for one in controller.trusted:
        shown = canaries.of(run, one, "x")
        info = describe(shown.certificate, one.certificate_pem)
        assert (info.role, info.dns_names) == (canaries.ROLE, ())
        assert "PRIVATE KEY" in shown.key
    # The next time, the new one is asked, wherever it lies.
    exchange.ask(tmp_path / "next", made, (), 365)
    assert exchange.asked_of(tmp_path / "next", authority.directory).directory == there.directory
    assert (controller.directory / canaries.KEPT).stat().st_mode & 0o777 == 0o600
    canaries.forget(controller.directory)
    with pytest.raises(FleetError, match="no certificate of it"):
        canaries.of(run, made, "x")


def test_a_canary_that_has_ended_is_not_shown(controller: Authorities, answered: Following, monkeypatch: Any) -> None:
    made = following.take(controller.issuer, answered)
    canaries.take(controller.directory, answered.canaries)
    end = describe(answered.canaries[made.info.fingerprint]).not_after
    monkeypatch.setattr(canaries, "datetime", SimpleNamespace(now=lambda _: end))
    run: Any = SimpleNamespace(keys=SimpleNamespace(authorities=controller))
    with pytest.raises(FleetError, match="no certificate of it"):
        canaries.of(run, made, "x")
    assert end > datetime.now(UTC)


def test_what_was_tampered_with_is_not_taken(
    controller: Authorities, answered: Following, tmp_path: Path, alice: Operator
) -> None:
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    leaf = next(iter(answered.canaries.values()))
    for bad, words in (
        (replace(answered, folder="../ca-2"), "not a self-signed authority"),
        (replace(answered, certificate=leaf), "not a self-signed authority"),
        (replace(answered, certificate="x"), "no PEM certificate"),
        (replace(answered, list=other.list_pem()), "not a list that this CA signed"),
        (replace(answered, certificate=other.certificate_pem, list=other.list_pem()), "no PEM certificate"),
        (replace(answered, canaries={}), "no PEM certificate"),
        (replace(answered, canaries=dict.fromkeys(answered.canaries, leaf)), "another authority|issued by"),
    ):
        with pytest.raises(FleetError, match=words):
            following.take(controller.issuer, bad)
    assert not (controller.directory / "ca-2").exists()
    following.take(controller.issuer, answered)
    (controller.directory / "ca-2" / "ca.crt").write_text(other.certificate_pem)
    with pytest.raises(FleetError, match="none there, or the same"):
        following.take(controller.issuer, answered)


def test_canaries_for_another_key_are_not_taken(controller: Authorities, answered: Following) -> None:
    wanted(controller)
    with pytest.raises(FleetError, match="asked for again since"):
        canaries.take(controller.directory, answered.canaries)
    canaries.forget(controller.directory)
    with pytest.raises(FleetError, match="asked for again since"):
        canaries.take(controller.directory, answered.canaries)


@pytest.mark.parametrize("folder", ["", ".", "../x", "ca-", "ca-2/..", "pki"])
def test_a_folder_that_is_none_is_damage(
    controller: Authorities, authority: Authority, tmp_path: Path, folder: str
) -> None:
    path = exchange.ask(tmp_path, controller.issuer, (), 365, wanted(controller))
    document = json.loads(path.read_text())
    assert document["following"]["folder"] == "ca-2"
    document["following"]["folder"] = folder
    path.write_text(json.dumps(document))
    with pytest.raises(FleetError, match="a damaged file"):
        exchange.asked(tmp_path, authority)
