"""Revocation lists in the eyes of OpenSSL, HAProxy and Python, and what becomes of damaged, old and lost ones."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.errors import FleetError
from deploy.trust import signing
from deploy.trust.authority import LIST, REVOKED, Authority, Signer
from deploy.trust.certificates import LeafProfile, describe
from deploy.trust.revocation import REASONS, sign_list
from tests.unit.trust.keys import Operator, key_pem
from tests.unit.trust.readers import haproxy, python

openssl_only = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")


def judged(folder: Path, certificate: str, *authorities: Authority) -> str:
    """OpenSSL's word on a certificate under these authorities and their lists: empty if it is good."""
    (folder / "leaf").write_text(certificate)
    (folder / "roots").write_text("".join(one.certificate_pem for one in authorities))
    (folder / "lists").write_text("".join(one.list_pem() for one in authorities))
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", str(folder / "roots"), "-CRLfile",
         str(folder / "lists"), str(folder / "leaf")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


@openssl_only
def test_there_is_an_empty_list_from_the_beginning(
    tmp_path: Path, authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    assert authority.list_due(datetime.now(UTC), 30) == ""
    assert authority.revocation_list().serials == frozenset()
    assert judged(tmp_path, signer.sign(csr, grader), authority) == ""


@openssl_only
def test_what_is_revoked_is_refused_and_nothing_else(
    tmp_path: Path, authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    good, bad = signer.sign(csr, grader), signer.sign(csr, grader)
    before = authority.revocation_list().number
    (made,) = authority.revoke([describe(bad).serial], "key-compromise", "ana")
    assert (made.reason, made.by) == ("key-compromise", "ana")
    assert authority.list_due(datetime.now(UTC), 30) == "1 revoked since"
    assert judged(tmp_path, bad, authority) == "", "what is recorded counts once it is listed"
    signer.sign_list(365)
    assert authority.list_due(datetime.now(UTC), 30) == ""
    assert "certificate revoked" in judged(tmp_path, bad, authority)
    assert judged(tmp_path, good, authority) == ""
    assert authority.revocation_list().number > before
    listed = x509.load_pem_x509_crl(authority.list_pem().encode())
    (entry,) = listed
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.key_compromise


@openssl_only
def test_lists_of_two_authorities_count_side_by_side(
    tmp_path: Path, authority: Authority, signer: Signer, alice: Operator, csr: str, grader: LeafProfile
) -> None:
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    second = other.unlock(alice.identities)
    pairs = [(one.sign(csr, grader), one.sign(csr, grader)) for one in (signer, second)]
    for one, (_, bad) in zip((signer, second), pairs, strict=True):
        one.authority.revoke([describe(bad).serial], "superseded")
        one.sign_list(365)
    for good, bad in pairs:
        assert judged(tmp_path, good, authority, other) == ""
        assert "certificate revoked" in judged(tmp_path, bad, authority, other)
    assert "self-signed" in judged(tmp_path, pairs[1][0], authority) or judged(tmp_path, pairs[1][0], authority)


def test_revoking_twice_and_what_was_never_issued(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    serial = describe(signer.sign(csr, grader)).serial
    assert len(authority.revoke([serial, serial], "unspecified")) == 1
    assert authority.revoke([serial], "key-compromise") == ()
    assert authority.revocations()[serial].reason == "unspecified"
    with pytest.raises(FleetError, match="no such serial in the journal"):
        authority.revoke([serial, "0BADCAFE"], "unspecified")
    with pytest.raises(FleetError, match=r"reason: found 'because', expected one of unspecified"):
        authority.revoke([serial], "because")
    assert len(authority.revocations()) == 1


def test_a_torn_line_is_passed_over_and_a_damaged_journal_refused(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    first, second = (describe(signer.sign(csr, grader)).serial for _ in range(2))
    authority.revoke([first], "unspecified")
    path = authority.directory / REVOKED
    path.write_bytes(path.read_bytes() + b'{"serial": "0')
    assert list(authority.revocations()) == [first]
    authority.revoke([second], "unspecified")
    assert list(authority.revocations()) == [first, second]
    path.write_bytes(b"x\n" + path.read_bytes())
    with pytest.raises(FleetError, match=r"revoked.jsonl, line 1: found not a revocation"):
        authority.revocations()


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "altered", "another's", "text"])
def test_a_list_that_is_no_good_is_signed_again_from_the_journal(
    tmp_path: Path, authority: Authority, signer: Signer, alice: Operator, csr: str, grader: LeafProfile, damage: str
) -> None:
    serial = describe(signer.sign(csr, grader)).serial
    authority.revoke([serial], "unspecified")
    signer.sign_list(365)
    path = authority.directory / LIST
    whole, number = path.read_text(), authority.revocation_list().number
    if damage == "absent":
        path.unlink()
    elif damage == "another's":
        path.write_text(Authority.create(tmp_path / "o", "lab", [alice.public], key_bits=2048).list_pem())
    else:
        middle = len(whole) // 2
        other = "A" if whole[middle] != "A" else "B"
        path.write_text(
            {"empty": "", "cut": whole[:middle], "altered": whole[:middle] + other + whole[middle + 1 :], "text": "no"}[
                damage
            ]
        )
    due = authority.list_due(datetime.now(UTC), 30)
    assert due in {"there is none yet", "not a list that this CA signed, or a damaged one"}
    signer.sign_list(365)
    assert authority.list_due(datetime.now(UTC), 30) == ""
    have = authority.revocation_list()
    assert have.serials == {serial}
    assert have.number >= number


def test_a_list_is_renewed_before_it_ends_and_does_not_outlive_its_ca(authority: Authority, signer: Signer) -> None:
    now = datetime.now(UTC)
    signer.sign_list(60, now)
    assert authority.list_due(now + timedelta(days=29), 30) == ""
    assert authority.list_due(now + timedelta(days=31), 30).startswith("ends ")
    signer.sign_list(800, now)
    have = authority.revocation_list()
    assert have.next_update == authority.info.not_after
    assert have.this_update < now
    assert authority.list_due(authority.info.not_after - timedelta(days=1), 30) == "", "a longer one cannot be had"


def test_what_has_ended_by_itself_leaves_the_list(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    now = datetime.now(UTC)
    short, long = signer.sign(csr, replace(grader, days=1)), signer.sign(csr, grader)
    authority.revoke([describe(short).serial, describe(long).serial], "unspecified")
    signer.sign_list(365, now)
    assert len(authority.revocation_list().serials) == 2
    later = now + timedelta(days=3)
    assert authority.list_due(later, 30) == "", "that alone is no reason to sign"
    signer.sign_list(365, later)
    assert authority.revocation_list().serials == {describe(long).serial}


def test_a_list_cannot_be_signed_by_who_cannot_open_the_key(authority: Authority, carol: Operator) -> None:
    with pytest.raises(FleetError, match="cannot decrypt"):
        authority.unlock(carol.identities)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(sorted(REASONS)), st.booleans()), max_size=8))
def test_after_signing_the_list_is_the_journal(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile, revoked: Sequence[tuple[int, str, bool]]
) -> None:
    serials = [describe(signer.sign(csr, grader)).serial for _ in range(6)]
    earlier = set(authority.revocations())
    for index, reason, then_sign in revoked:
        authority.revoke([serials[index]], reason)
        if then_sign:
            signer.sign_list(365)
    due = authority.list_due(datetime.now(UTC), 30)
    wanted = earlier | {serials[index] for index, _, _ in revoked}
    assert bool(due) == (authority.revocation_list().serials != wanted)
    number = authority.revocation_list().number
    signer.sign_list(365)
    have = authority.revocation_list()
    assert have.serials == wanted
    assert authority.list_due(datetime.now(UTC), 30) == ""
    assert have.number > number


# -- those who read it ------------------------------------------------------------------------------------


def taken(folder: Path, port: int, name: str) -> bool:
    """Whether a call with this pair is answered, by the curl of a host, which reads lists as PHP's does."""
    done = subprocess.run(
        ["curl", "-s", "-m", "10", "-o", "/dev/null", "--noproxy", "*", "--cacert", f"{folder}/ca.crt", "--crlfile",
         f"{folder}/ca.crl", "--cert", f"{folder}/{name}.crt", "--key", f"{folder}/{name}.key",
         f"https://localhost:{port}/"],
        check=False,
    )  # fmt: skip
    return done.returncode == 0


@pytest.fixture
def two(
    tmp_path: Path, authority: Authority, signer: Signer, alice: Operator, csr: str, leaf_key: rsa.RSAPrivateKey
) -> Path:
    """A folder with the files of a host while the CA changes: a server, good and revoked clients of both."""
    other = Authority.create(tmp_path / "pki2", "lab", [alice.public], key_bits=2048)
    second = other.unlock(alice.identities)
    folder = tmp_path / "host"
    folder.mkdir()
    server = LeafProfile(common_name="door", role="door", organization="x", dns_names=("localhost",), server_auth=True)
    client = LeafProfile(common_name="c", role="c", organization="x", client_auth=True)

    def put(name: str, text: str) -> str:
        (folder / f"{name}.crt").write_text(text)
        (folder / f"{name}.key").write_bytes(key_pem(leaf_key))
        return describe(text).serial

    for name, one in (("old", signer), ("new", second)):
        put(f"{name}-good", one.sign(csr, client))
        one.authority.revoke([put(f"{name}-bad", one.sign(csr, client))], "key-compromise")
        one.authority.revoke([put(f"{name}-server", one.sign(csr, server))], "superseded")
        one.sign_list(365)
    put("server", second.sign(csr, server))
    (folder / "ca.crt").write_text(authority.certificate_pem + other.certificate_pem)
    (folder / "ca.crl").write_text(authority.list_pem() + other.list_pem())
    return folder


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("server", [haproxy, python])
def test_each_verifier_reads_both_lists(two: Path, server: object) -> None:
    if server is haproxy and shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed here")
    assert callable(server)
    with server(two) as port:
        answers = {name: taken(two, port, name) for name in ("old-good", "old-bad", "new-good", "new-bad")}
    assert answers == {"old-good": True, "old-bad": False, "new-good": True, "new-bad": False}
    # And the other way: what calls refuses a server whose certificate was revoked.
    for name in ("crt", "key"):
        shutil.copy(two / f"new-server.{name}", two / f"server.{name}")
    with server(two) as port:
        assert not taken(two, port, "new-good")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("server", [haproxy, python])
def test_a_list_that_has_ended_shuts_everybody_out(
    two: Path, authority: Authority, signer: Signer, server: object
) -> None:
    """Why it lives as long as certificates do, is renewed with them, and is watched by the same alerts."""
    if server is haproxy and shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed here")
    assert callable(server)
    long_ago = datetime.now(UTC) - timedelta(days=3)
    ended = signing_of(signer, long_ago)
    (two / "ca.crl").write_text(ended + (two / "ca.crl").read_text().split("-----END X509 CRL-----\n", 1)[1])
    with server(two) as port:
        plain = subprocess.run(
            ["curl", "-s", "-m", "10", "-o", "/dev/null", "--noproxy", "*", "--cacert", f"{two}/ca.crt", "--cert",
             f"{two}/old-good.crt", "--key", f"{two}/old-good.key", f"https://localhost:{port}/"],
            check=False,
        )  # fmt: skip
        assert plain.returncode != 0


def signing_of(signer: Signer, moment: datetime) -> str:
    """A list that was good for one day from that moment."""
    return sign_list((), 1, signer.authority.certificate, signer._key, moment, 1)


def test_serials_are_long_and_random(signer: Signer, csr: str, grader: LeafProfile) -> None:
    """The profile of modern verifiers: 64 bits of randomness at least, SHA-256, no path below the CA."""
    serials = [int(describe(signer.sign(csr, grader)).serial, 16) for _ in range(20)]
    assert min(serials) > 2**80
    root = signer.authority.certificate
    assert root.signature_hash_algorithm is not None
    assert root.signature_hash_algorithm.name == "sha256"
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert root.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    assert signing.MINIMUM_RSA_BITS == 2048
