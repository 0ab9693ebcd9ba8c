"""Keys and requests for the tests of trust, made with the tools that people use."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.trust.identities import Identity, load_identities

LeafKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Operator:
    """A key pair on disk, as an operator has it."""

    path: Path
    public: str

    @property
    def identities(self) -> tuple[Identity, ...]:
        return load_identities(self.path)


def ssh_key(path: Path, *options: str, passphrase: str = "") -> Operator:
    subprocess.run(
        ["ssh-keygen", "-q", "-N", passphrase, "-C", f"{path.name}@example.org", "-f", str(path), *options],
        check=True,
    )
    return Operator(path, path.with_name(f"{path.name}.pub").read_text().strip())


def key_pem(key: LeafKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_csr(key: LeafKey) -> str:
    """A request that asks for more than anybody should get: to be an authority, for another name."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil.example.org")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("evil.example.org")]), critical=False)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
