"""Real keys, made once: nothing in these tests is mocked but the clock."""

from __future__ import annotations

from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile
from tests.unit.trust.keys import Operator, make_csr, ssh_key


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="session")
def alice(keys: Path) -> Operator:
    return ssh_key(keys / "alice", "-t", "ed25519")


@pytest.fixture(scope="session")
def bob(keys: Path) -> Operator:
    return ssh_key(keys / "bob", "-t", "rsa", "-b", "2048")


@pytest.fixture(scope="session")
def carol(keys: Path) -> Operator:
    """An age identity file, as age-keygen writes it."""
    key = pyrage.x25519.Identity.generate()
    path = keys / "carol.txt"
    path.write_text(f"# created: 2024-01-01T00:00:00Z\n# public key: {key.to_public()}\n{key}\n")
    path.chmod(0o600)
    return Operator(path, str(key.to_public()))


@pytest.fixture(scope="session")
def locked_key(keys: Path) -> Operator:
    """The passphrase is ``correct horse``."""
    return ssh_key(keys / "locked", "-t", "ed25519", passphrase="correct horse")


@pytest.fixture(scope="session")
def leaf_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def csr(leaf_key: rsa.RSAPrivateKey) -> str:
    return make_csr(leaf_key)


@pytest.fixture
def authority(tmp_path: Path, alice: Operator) -> Authority:
    return Authority.create(tmp_path / "lab" / "pki", "lab", [alice.public], key_bits=2048)


@pytest.fixture
def signer(authority: Authority, alice: Operator) -> Signer:
    return authority.unlock(alice.identities)


@pytest.fixture
def grader() -> LeafProfile:
    return LeafProfile(
        common_name="grader",
        role="grader",
        organization="omegaUp",
        dns_names=("grader", "grader1.lab.internal"),
        ip_addresses=("10.0.0.7", "fd00::7"),
        server_auth=True,
        client_auth=True,
        days=90,
    )
