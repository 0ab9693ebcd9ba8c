"""The authority: what it signs, what it refuses, and what a killed run leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from deploy.errors import FleetError
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile, describe, differences
from deploy.trust.identities import load_identities
from tests.unit.trust.keys import Operator, make_csr

ROOT = Path(__file__).parents[3]


def leaf(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def test_the_defaults_are_the_specification_s(tmp_path: Path, alice: Operator) -> None:
    authority = Authority.create(tmp_path / "pki", "lab", [alice.public])
    root = authority.certificate
    key = root.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 4096
    assert timedelta(days=365) <= root.not_valid_after_utc - root.not_valid_before_utc <= timedelta(days=366)
    assert isinstance(root.signature_hash_algorithm, SHA256)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_the_directory_holds_no_plain_key_and_has_tight_modes(authority: Authority) -> None:
    directory = authority.directory
    modes = {p.name: p.stat().st_mode & 0o777 for p in directory.iterdir()}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert modes == {
        "ca.crt": 0o644,
        "ca.key.age": 0o600,
        "ca.key.recipients": 0o644,
        "ca.crl": 0o644,
        "index.jsonl": 0o644,
        "issued": 0o700,
        ".gitignore": 0o644,
    }
    assert b"PRIVATE KEY" not in b"".join(p.read_bytes() for p in directory.rglob("*") if p.is_file())


def test_the_leaf_says_what_the_profile_says_and_nothing_that_the_request_asked_for(
    signer: Signer, csr: str, leaf_key: rsa.RSAPrivateKey, grader: LeafProfile
) -> None:
    pem = signer.sign(csr, grader)
    certificate = leaf(pem)
    assert "evil" not in str(certificate.subject) + str(list(certificate.extensions))
    assert certificate.version is x509.Version.v3
    assert certificate.public_key() == leaf_key.public_key()
    assert isinstance(certificate.signature_hash_algorithm, SHA256)
    assert certificate.serial_number.bit_length() > 64
    found = {extension.oid: extension for extension in certificate.extensions}
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=False, path_length=None)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment
    assert not usage.value.key_cert_sign
    assert set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert len(found) == 6

    info = describe(pem, signer.authority.certificate_pem)
    assert differences(info, grader) == ()
    assert (info.common_name, info.role, info.organization) == ("grader", "grader", "omegaUp")
    assert info.subject_slash == "/O=omegaUp/OU=grader/CN=grader" == grader.subject_slash
    assert grader.subject_rfc2253 == "CN=grader,OU=grader,O=omegaUp"
    assert info.issuer_key_id == signer.authority.info.key_id
    assert info.issuer_fingerprint == signer.authority.info.fingerprint
    assert not info.is_ca
    assert signer.authority.info.is_ca


def test_the_life_is_backdated_and_never_beyond_the_root_s(
    tmp_path: Path, alice: Operator, csr: str, grader: LeafProfile
) -> None:
    authority = Authority.create(tmp_path / "pki", "lab", [alice.public], key_bits=2048, days=100)
    signer = authority.unlock(alice.identities)
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=10)
    info = describe(signer.sign(csr, grader, now=now))
    assert info.not_before == now - timedelta(minutes=5)
    assert info.not_after == now + timedelta(days=90)
    assert not info.renewal_due(now)
    assert info.renewal_due(now + timedelta(days=61))

    late = now + timedelta(days=50)
    assert describe(signer.sign(csr, grader, now=late)).not_after == authority.info.not_after
    for moment in (now + timedelta(days=101), now - timedelta(days=1)):
        with pytest.raises(FleetError, match=r"certificate authority: found valid from .*Check the controller's clock"):
            signer.sign(csr, grader, now=moment)


def test_an_elliptic_curve_leaf_signs_only(signer: Signer, grader: LeafProfile) -> None:
    certificate = leaf(signer.sign(make_csr(ec.generate_private_key(ec.SECP256R1())), grader))
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_encipherment


def test_a_client_needs_no_names(signer: Signer, csr: str) -> None:
    profile = LeafProfile(common_name="backup", role="backup", organization="omegaUp", client_auth=True)
    info = describe(signer.sign(csr, profile))
    assert info.dns_names == info.ip_addresses == ()
    assert (info.server_auth, info.client_auth) == (False, True)


def _forged() -> str:
    """A request for somebody else's key: its signature no longer fits what it says."""
    csr = x509.load_pem_x509_csr(make_csr(ec.generate_private_key(ec.SECP256R1())).encode())
    other = x509.load_pem_x509_csr(make_csr(ec.generate_private_key(ec.SECP256R1())).encode())
    der = csr.public_bytes(Encoding.DER)
    swapped = der.replace(_point(csr), _point(other))
    assert swapped != der
    return x509.load_der_x509_csr(swapped).public_bytes(Encoding.PEM).decode()


def _point(csr: x509.CertificateSigningRequest) -> bytes:
    key = csr.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _ed25519() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, None).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: "", "no PEM request"),
        (
            lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "no PEM request",
        ),
        (_forged, "a signature that its own key did not make"),
        (
            lambda: make_csr(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
            "an RSA key of 1024 bits",
        ),
        (lambda: make_csr(ec.generate_private_key(ec.SECP384R1())), "an elliptic-curve key on secp384r1"),
        (_ed25519, "a key of type Ed25519PublicKey"),
    ],
)
def test_unsound_requests_are_refused_and_not_recorded(
    signer: Signer, grader: LeafProfile, make: Callable[[], str], found: str
) -> None:
    with pytest.raises(FleetError, match=f"certificate request: found .*{found}"):
        signer.sign(make(), grader)
    assert signer.authority.journal() == ()
    assert list((signer.authority.directory / "issued").iterdir()) == []


def test_the_authority_s_own_key_is_not_certified_as_a_leaf(signer: Signer, grader: LeafProfile) -> None:
    with pytest.raises(FleetError, match="the authority's own key"):
        signer.sign(make_csr(signer._key), grader)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"common_name": ""}, "CN ''"),
        ({"common_name": "grader/CN=root"}, "CN 'grader/CN=root'"),
        ({"role": "grader,CN=root"}, "OU"),
        ({"organization": "x" * 65}, "O 'x"),
        ({"role": "grader\n"}, "OU"),
        ({"dns_names": ("*.lab.internal",)}, "DNS name"),
        ({"dns_names": ("Grader",)}, "DNS name"),
        ({"dns_names": ("a..b",)}, "DNS name"),
        ({"dns_names": ("grader\n",)}, "DNS name"),
        ({"ip_addresses": ("10.0.0.0/8",)}, "IP address"),
        ({"ip_addresses": ("grader",)}, "IP address"),
        ({"server_auth": False, "client_auth": False}, "no usage"),
        ({"dns_names": (), "ip_addresses": ()}, "a server without names"),
        ({"days": 0}, "a life of 0 days"),
    ],
)
def test_impossible_profiles_are_refused(grader: LeafProfile, change: dict[str, object], found: str) -> None:
    with pytest.raises(FleetError, match=found):
        replace(grader, **change)  # type: ignore[arg-type]


def test_the_journal_records_what_was_issued(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    first = signer.sign(csr, grader, requester="alice for data1")
    second = signer.sign(csr, grader)
    records = Authority.load(authority.directory).journal()
    assert [r.serial for r in records] == [describe(first).serial, describe(second).serial]
    record, info = records[0], describe(first)
    assert (record.subject, record.role, record.requester) == (
        info.subject_slash,
        "grader",
        "alice for data1",
    )
    assert (record.dns_names, record.ip_addresses) == (info.dns_names, info.ip_addresses)
    assert (record.fingerprint, record.public_key_sha256) == (info.fingerprint, info.public_key_sha256)
    assert datetime.fromisoformat(record.not_after) == info.not_after
    assert records[1].requester
    assert authority.issued_pem(record.serial) == first
    with pytest.raises(FleetError, match="no such file"):
        authority.issued_pem("00")


def test_a_torn_journal_line_is_cut_off_and_other_damage_is_told(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    index = authority.directory / "index.jsonl"
    signer.sign(csr, grader)
    with index.open("ab") as stream:
        stream.write(b'{"serial": "AB')
    assert len(authority.journal()) == 1
    signer.sign(csr, grader)
    assert len(authority.journal()) == 2
    index.write_bytes(index.read_bytes().rstrip(b"\n"))  # as some editors do: the record is whole and stays
    signer.sign(csr, grader)
    assert len(authority.journal()) == 3
    lines = index.read_bytes().split(b"\n")
    index.write_bytes(b"\n".join([lines[0], b"<<<<<<< HEAD", *lines[1:]]))
    with pytest.raises(FleetError, match=r"index.jsonl, line 2: found not an issuance record"):
        authority.journal()


def _sign_some(directory: Path, identity: Path, csr: str, profile: LeafProfile, count: int) -> None:
    signer = Authority.load(directory).unlock(load_identities(identity))
    for _ in range(count):
        signer.sign(csr, profile)


def test_many_signers_at_once_lose_nothing(
    authority: Authority, alice: Operator, csr: str, grader: LeafProfile
) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (authority.directory, alice.path, csr, grader, 10)
    workers = [context.Process(target=_sign_some, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    serials = [record.serial for record in authority.journal()]
    assert len(set(serials)) == len(serials) == 40
    assert sorted(p.stem for p in (authority.directory / "issued").iterdir()) == sorted(serials)


def test_signing_works_on_a_fresh_checkout(
    authority: Authority, alice: Operator, csr: str, grader: LeafProfile
) -> None:
    (authority.directory / "issued").rmdir()  # git keeps no empty directory
    signer = Authority.load(authority.directory).unlock(alice.identities)
    assert differences(describe(signer.sign(csr, grader)), grader) == ()


def test_create_never_replaces(authority: Authority, alice: Operator) -> None:
    before = (authority.directory / "ca.crt").read_bytes()
    with pytest.raises(FleetError, match="a certificate authority already"):
        Authority.create(authority.directory, "lab", [alice.public], key_bits=2048)
    assert (authority.directory / "ca.crt").read_bytes() == before
    (authority.directory / "ca.key.age").unlink()
    with pytest.raises(FleetError, match="files that are no complete authority"):
        Authority.create(authority.directory, "lab", [alice.public], key_bits=2048)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"name": "Lab/x"}, "authority 'Lab/x'"),
        ({"key_bits": 1024}, "key of 1024 bits"),
        ({"days": 0}, "life of 0 days"),
        ({"recipients": []}, "no recipients"),
    ],
)
def test_create_refuses_nonsense_before_it_writes(
    tmp_path: Path, alice: Operator, arguments: dict[str, object], found: str
) -> None:
    defaults: dict[str, object] = {"name": "lab", "recipients": [alice.public], "key_bits": 2048}
    with pytest.raises(FleetError, match=found):
        Authority.create(tmp_path / "pki", **{**defaults, **arguments})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_create_leaves_nothing_that_loads_and_the_next_one_finishes(tmp_path: Path, alice: Operator) -> None:
    directory = tmp_path / "lab" / "pki"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from deploy.trust import files; from deploy.trust.authority import Authority\n"
        "write, count = files.write_atomic, int(sys.argv[3])\n"
        "def dying(path, *rest):\n"
        "    global count\n"
        "    if count == 0: os.kill(os.getpid(), 9)\n"
        "    count -= 1\n"
        "    write(path, *rest)\n"
        "files.write_atomic = dying\n"
        "os.rename = lambda *_: os.kill(os.getpid(), 9)\n"
        "Authority.create(Path(sys.argv[1]), 'lab', [sys.argv[2]], key_bits=2048)\n"
    )
    for writes in range(6):  # before each of the five writes, and before the rename
        killed = subprocess.run(
            [sys.executable, "-c", code, str(directory), alice.public, str(writes)],
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert killed.returncode == -signal.SIGKILL
        with pytest.raises(FleetError, match=r"no such directory.*fleet secrets init lab"):
            Authority.load(directory)
    assert list(directory.parent.glob(".pki.creating-*"))
    created = Authority.create(directory, "lab", [alice.public], key_bits=2048)
    assert Authority.load(directory).info == created.info
    assert not list(directory.parent.glob(".pki.creating-*"))


def test_a_signer_killed_at_any_moment_leaves_a_usable_authority(
    authority: Authority, alice: Operator, csr: str, grader: LeafProfile
) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(6):
        arguments = (authority.directory, alice.path, csr, grader, 10_000)
        worker = context.Process(target=_sign_some, args=arguments)
        worker.start()
        time.sleep(0.25 + 0.007 * attempt)
        worker.kill()
        worker.join(60)
        journal = {record.serial for record in authority.journal()}
        issued = {p.stem for p in (authority.directory / "issued").glob("*.crt") if not p.name.startswith(".")}
        assert issued <= journal  # what is not in the journal was never handed out
    pem = authority.unlock(alice.identities).sign(csr, grader)
    assert authority.journal()[-1].serial == describe(pem).serial


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (shutil.rmtree, "no such directory"),
        (lambda d: (d / "ca.crt").unlink(), "ca.crt: found no such file"),
        (lambda d: (d / "ca.key.age").unlink(), "ca.key.age: found no such file"),
        (lambda d: (d / "index.jsonl").unlink(), "index.jsonl: found no such file"),
        (lambda d: (d / "ca.crt").write_text("hello"), "text that is no PEM certificate"),
        (
            lambda d: (d / "ca.key.age").write_text("-----BEGIN PRIVATE KEY-----"),
            "not encrypted with age.*compromised",
        ),
    ],
)
def test_half_an_authority_does_not_load(authority: Authority, damage: Damage, found: str) -> None:
    damage(authority.directory)
    with pytest.raises(FleetError, match=found):
        Authority.load(authority.directory)


def test_a_leaf_in_the_root_s_place_does_not_load(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    (authority.directory / "ca.crt").write_text(signer.sign(csr, grader))
    with pytest.raises(FleetError, match="not a self-signed authority"):
        Authority.load(authority.directory)


def test_unlock_tells_a_stranger_and_a_foreign_key_apart(
    authority: Authority, tmp_path: Path, alice: Operator, carol: Operator
) -> None:
    with pytest.raises(FleetError, match=r"carol.txt cannot decrypt.*alice@example.org"):
        authority.unlock(carol.identities)
    other = Authority.create(tmp_path / "other", "other", [alice.public], key_bits=2048)
    shutil.copy(other.directory / "ca.key.age", authority.directory)
    with pytest.raises(FleetError, match=r"ca.key.age: found not the private key of ca.crt"):
        authority.unlock(alice.identities)


def test_rekey_hands_the_key_to_others(authority: Authority, alice: Operator, bob: Operator) -> None:
    authority.rekey(alice.identities, [bob.public])
    assert authority.unlock(bob.identities)
    with pytest.raises(FleetError, match="cannot decrypt"):
        authority.unlock(alice.identities)


def test_two_roots_do_not_share_a_name(authority: Authority, tmp_path: Path, alice: Operator) -> None:
    other = Authority.create(tmp_path / "next", "lab", [alice.public], key_bits=2048)
    assert other.info.subject_slash != authority.info.subject_slash
    assert other.info.subject_slash.startswith("/CN=lab CA ")


def test_another_authority_s_leaf_is_recognised(
    authority: Authority, tmp_path: Path, alice: Operator, csr: str, grader: LeafProfile
) -> None:
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    pem = other.unlock(alice.identities).sign(csr, grader)
    with pytest.raises(FleetError, match="It comes from another authority"):
        describe(pem, authority.certificate_pem)


def test_differences_name_each_departure(signer: Signer, csr: str, grader: LeafProfile) -> None:
    info = describe(signer.sign(csr, grader))
    other = replace(grader, role="runner", dns_names=("grader",), ip_addresses=("10.0.0.8",), client_auth=False)
    assert [text.partition(":")[0] for text in differences(info, other)] == [
        "subject",
        "DNS names",
        "IP addresses",
        "client usage",
    ]
    reordered = replace(grader, dns_names=grader.dns_names[::-1], ip_addresses=("fd00:0::7", "10.0.0.7"))
    assert differences(info, reordered) == ()


def test_a_signer_does_not_show_its_key(signer: Signer) -> None:
    assert "PRIVATE" not in repr(signer).upper() + str(vars(signer)).upper().replace("RSAPRIVATEKEY", "")
