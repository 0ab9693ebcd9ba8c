"""The same certificates in the eyes of OpenSSL, whose verifier is the one that the fleet's servers use."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile, describe
from tests.unit.trust.keys import Operator, key_pem

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")


def openssl(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=False, timeout=60)


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


@pytest.fixture
def roles(
    tmp_path: Path, signer: Signer, csr: str, leaf_key: rsa.RSAPrivateKey, grader: LeafProfile
) -> dict[str, Pair]:
    profiles = {
        "server": replace(grader, client_auth=False),
        "client": replace(grader, server_auth=False, common_name="frontend", role="frontend"),
        "both": grader,
    }
    key = tmp_path / "leaf.key"
    key.write_bytes(key_pem(leaf_key))
    pairs = {}
    for name, profile in profiles.items():
        certificate = tmp_path / f"{name}.crt"
        certificate.write_text(signer.sign(csr, profile))
        pairs[name] = Pair(certificate, key)
    return pairs


@pytest.mark.parametrize(
    ("role", "purpose", "accepted"),
    [
        ("server", "sslserver", True),
        ("server", "sslclient", False),
        ("client", "sslclient", True),
        ("client", "sslserver", False),
        ("both", "sslserver", True),
        ("both", "sslclient", True),
    ],
)
def test_a_leaf_serves_its_purpose_and_no_other(
    authority: Authority, roles: dict[str, Pair], role: str, purpose: str, accepted: bool
) -> None:
    root = str(authority.directory / "ca.crt")
    result = openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", root, str(roles[role].certificate))
    assert (result.returncode == 0) is accepted, result.stderr.decode()
    if not accepted:
        assert b"unsuitable certificate purpose" in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("-verify_hostname", "grader1.lab.internal", True),
        ("-verify_hostname", "evil.example.org", False),
        ("-verify_ip", "10.0.0.7", True),
        ("-verify_ip", "fd00::7", True),
        ("-verify_ip", "10.0.0.8", False),
    ],
)
def test_names_are_checked(
    authority: Authority, roles: dict[str, Pair], option: str, value: str, accepted: bool
) -> None:
    root = str(authority.directory / "ca.crt")
    result = openssl("verify", "-x509_strict", option, value, "-CAfile", root, str(roles["both"].certificate))
    assert (result.returncode == 0) is accepted


def test_a_leaf_cannot_issue(authority: Authority, roles: dict[str, Pair], tmp_path: Path) -> None:
    pair = roles["both"]
    request, rogue = tmp_path / "rogue.csr", tmp_path / "rogue.crt"
    assert openssl("req", "-new", "-key", str(pair.key), "-subj", "/CN=rogue", "-out", str(request)).returncode == 0
    signed = openssl(
        "x509", "-req", "-in", str(request), "-CA", str(pair.certificate), "-CAkey", str(pair.key),
        "-CAcreateserial", "-out", str(rogue),
    )  # fmt: skip
    assert signed.returncode == 0
    root = str(authority.directory / "ca.crt")
    result = openssl("verify", "-CAfile", root, "-untrusted", str(pair.certificate), str(rogue))
    assert result.returncode != 0


def test_another_root_s_leaf_is_refused(tmp_path: Path, alice: Operator, roles: dict[str, Pair]) -> None:
    other = Authority.create(tmp_path / "other", "lab", [alice.public], key_bits=2048)
    root = str(other.directory / "ca.crt")
    assert openssl("verify", "-CAfile", root, str(roles["both"].certificate)).returncode != 0


def test_description_and_command_line_agree(roles: dict[str, Pair]) -> None:
    path = roles["both"].certificate
    info = describe(path.read_text())
    shown = openssl(
        "x509",
        "-in",
        str(path),
        "-noout",
        "-serial",
        "-subject",
        "-nameopt",
        "compat",
        "-fingerprint",
        "-sha256",
    ).stdout.decode()
    assert f"serial={info.serial}\n" in shown
    assert info.fingerprint in shown.replace(":", "").lower()
    assert info.subject_slash in shown
    rfc2253 = openssl("x509", "-in", str(path), "-noout", "-subject", "-nameopt", "RFC2253").stdout.decode()
    assert rfc2253.strip() == "subject=CN=grader,OU=grader,O=omegaUp"
    public = openssl("x509", "-in", str(path), "-noout", "-pubkey").stdout
    der = openssl("pkey", "-pubin", "-outform", "DER", stdin=public).stdout
    digest = openssl("dgst", "-sha256", "-r", stdin=der).stdout.decode()
    assert digest.split()[0] == info.public_key_sha256


def handshake(authority: Authority, server: Pair, client: Pair | None) -> bool:
    """Whether a TLS server that asks for certificates and a client that checks names come to an agreement."""
    root = str(authority.directory / "ca.crt")
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=root)
    accepting.verify_mode = ssl.CERT_REQUIRED
    accepting.load_cert_chain(server.certificate, server.key)
    calling = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=root)
    if client:
        calling.load_cert_chain(client.certificate, client.key)
    left, right = socket.socketpair()
    left.settimeout(20)
    right.settimeout(20)
    accepted: list[bool] = []

    def serve() -> None:
        try:
            with accepting.wrap_socket(left, server_side=True) as stream:
                accepted.append(stream.recv(4) == b"ping")
                stream.sendall(b"pong")
        except OSError:
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with calling.wrap_socket(right, server_hostname="grader") as stream:
            stream.sendall(b"ping")
            return stream.recv(4) == b"pong" and accepted == [True]
    except OSError:
        return False
    finally:
        right.close()
        thread.join(30)


@pytest.mark.parametrize(
    ("server", "client", "agreed"),
    [
        ("server", "client", True),
        ("both", "both", True),
        ("server", "server", False),
        ("client", "client", False),
        ("server", None, False),
    ],
)
def test_mutual_tls_handshakes(
    authority: Authority, roles: dict[str, Pair], server: str, client: str | None, agreed: bool
) -> None:
    assert handshake(authority, roles[server], roles[client] if client else None) is agreed
