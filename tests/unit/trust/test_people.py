"""A person's certificate: made in one file, for the page alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.converge.engine import Keys
from deploy.converge.inventory import folder
from deploy.errors import FleetError
from deploy.procedures import people
from deploy.roles.door import OPERATOR
from deploy.trust.authorities import Authorities
from deploy.trust.authority import Authority, Signer


@pytest.fixture
def opened(authority: Authority, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Authority:
    keys = Keys(None, Authorities.only(authority), lambda _: signer)  # type: ignore[arg-type]
    monkeypatch.setattr(people, "open_keys", lambda *_, **__: keys)
    return authority


def test_a_persons_certificate(tmp_path: Path, opened: Authority) -> None:
    out = tmp_path / "ana.p12"
    made = people.operator(folder("lab"), "ana", out, 30)
    assert out.stat().st_mode & 0o777 == 0o600
    key, certificate, others = pkcs12.load_key_and_certificates(out.read_bytes(), made.password.encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert certificate is not None
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(others[0])
    subject = certificate.subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "ana"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value == OPERATOR
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert made.ends == certificate.not_valid_after_utc.date().isoformat()
    assert opened.journal()[-1].requester == "operator ana"
    with pytest.raises(FleetError, match="never written over"):
        people.operator(folder("lab"), "ana", out, 30)


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("name", ["", "a/OU=grader", "x" * 65, "a\nb"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetError):
        people.operator(folder("lab"), name, tmp_path / "x.p12", 30)
    assert not (tmp_path / "x.p12").exists()
