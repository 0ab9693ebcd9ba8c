"""A CA that may sign for the fleet's own names alone: it refuses others, and where it did not, verifiers would."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from deploy.errors import FleetError
from deploy.model.permitted import outside
from deploy.trust import signing
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile
from tests.unit.trust.keys import Operator

PERMITTED = ("grader", "lab.internal", "10.0.0.0/24", "127.0.0.1/32")
INSIDE = LeafProfile(
    common_name="grader", role="grader", organization="omegaUp", dns_names=("grader", "grader1.lab.internal"),
    ip_addresses=("10.0.0.7", "127.0.0.1"), server_auth=True, client_auth=True, days=90,
)  # fmt: skip
PERSON = replace(INSIDE, common_name="ana", role="operator", dns_names=(), ip_addresses=(), server_auth=False)
OUTSIDE = {
    "another name": (replace(INSIDE, dns_names=("grader", "bank.example")), "bank.example"),
    "a name that only ends alike": (replace(INSIDE, dns_names=("othergrader",)), "othergrader"),
    "another network": (replace(INSIDE, ip_addresses=("10.0.1.7",)), "10.0.1.7"),
    "the other family": (replace(INSIDE, ip_addresses=("fd00::7",)), "fd00::7"),
    "a subject that is a name": (replace(PERSON, common_name="bank.example"), "bank.example"),
}


@pytest.fixture
def constrained(tmp_path: Path, alice: Operator) -> Authority:
    return Authority.create(tmp_path / "pki", "lab", [alice.public], key_bits=2048, permitted=PERMITTED)


@pytest.fixture
def hand(constrained: Authority, alice: Operator) -> Signer:
    return constrained.unlock(alice.identities)


def openssl(root: Path, leaf: Path) -> bool:
    words = ["openssl", "verify", "-x509_strict", "-CAfile", str(root), str(leaf)]
    return subprocess.run(words, text=True, capture_output=True, check=False, timeout=60).returncode == 0


def erlang(root: Path, leaf: Path) -> bool:
    """As a broker does it: it reads no constraints of a root, and has to take such a root all the same."""
    read = "fun(F) -> {ok, P} = file:read_file(F), [{_, D, _} | _] = public_key:pem_decode(P), D end"
    path = f'public_key:pkix_path_validation(R("{root}"), [R("{leaf}")], [])'
    words = ["erl", "-noshell", "-eval", f"R = {read}, {{ok, _}} = {path}, halt()."]
    return subprocess.run(words, text=True, capture_output=True, check=False, timeout=60).returncode == 0


def test_the_root_says_it_critically(constrained: Authority, authority: Authority) -> None:
    extension = constrained.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert signing.constraints(constrained.certificate) == PERMITTED
    assert signing.constraints(authority.certificate) == ()
    assert Authority.load(constrained.directory).certificate == constrained.certificate


@pytest.mark.parametrize("profile", [INSIDE, PERSON], ids=["a service", "a person"])
def test_its_own_names_are_signed(hand: Signer, csr: str, profile: LeafProfile) -> None:
    hand.sign(csr, profile)


@pytest.mark.parametrize("case", OUTSIDE)
def test_any_other_is_refused_and_not_recorded(constrained: Authority, hand: Signer, csr: str, case: str) -> None:
    profile, name = OUTSIDE[case]
    with pytest.raises(FleetError) as caught:
        hand.sign(csr, profile)
    assert caught.value.found.startswith(f"{name}: not among")
    assert "trust.permitted" in caught.value.hint
    assert constrained.journal() == ()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
@pytest.mark.parametrize("case", OUTSIDE)
def test_openssl_refuses_what_a_thief_of_the_key_signs(
    constrained: Authority, hand: Signer, csr: str, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "refuse_names", lambda *_: None)
    leaf = tmp_path / "leaf.crt"
    leaf.write_text(hand.sign(csr, OUTSIDE[case][0]))
    assert not openssl(constrained.directory / "ca.crt", leaf)


@pytest.mark.parametrize(("tool", "accepts"), [("openssl", openssl), ("erl", erlang)])
@pytest.mark.parametrize("profile", [INSIDE, PERSON], ids=["a service", "a person"])
def test_verifiers_take_what_it_signs(
    constrained: Authority, hand: Signer, csr: str, tmp_path: Path, profile: LeafProfile, tool: str,
    accepts: Callable[[Path, Path], bool],
) -> None:  # fmt: skip
    if shutil.which(tool) is None:
        pytest.skip("not installed")
    leaf = tmp_path / "leaf.crt"
    leaf.write_text(hand.sign(csr, profile))
    assert accepts(constrained.directory / "ca.crt", leaf)


@pytest.mark.parametrize(
    ("names", "addresses", "found"),
    [
        (["grader"], ["10.0.0.255"], ()),
        (["a.grader", "lab.internal", "x.y.lab.internal"], [], ()),
        (["lab", "internal", "Xlab.internal"], ["10.0.1.0"], ("lab", "internal", "Xlab.internal", "10.0.1.0")),
    ],
)
def test_what_is_outside(names: list[str], addresses: list[str], found: tuple[str, ...]) -> None:
    assert outside(PERMITTED, names, addresses) == found
    assert outside((), names, addresses) == ()
