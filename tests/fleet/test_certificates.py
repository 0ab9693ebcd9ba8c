"""Certificates: what each TLS port serves, and what lies on disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from testinfra.host import Host

from deploy.model.catalog import SSL_DIR, Port, Service
from deploy.model.fleet import HostSpec
from deploy.roles.rabbitmq_ask import ENV
from tests.fleet.conftest import connection, loaded

PORTS = [
    (host, service, port)
    for host in loaded()[1].hosts
    for service in host.services
    for port in service.ports
    if host.mutual(port)
]
PAIRS = [(host, service) for host in loaded()[1].hosts for service in host.services if service.identity]


def read(host: Host, path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(host.file(path).content_string.encode())


def served(host: Host, address: str, port: Port, pair: str) -> x509.Certificate:
    begun = f"-starttls {port.starttls} " if port.starttls else ""
    said = host.check_output(
        f"openssl s_client -connect {address}:{port.number} {begun}-CAfile {SSL_DIR}/ca.crt -cert {pair}.crt "
        f"-key {pair}.key -verify_return_error </dev/null 2>/dev/null | openssl x509"
    )
    return x509.load_pem_x509_certificate(said.encode())


@pytest.mark.parametrize(
    ("place", "service", "port"), PORTS, ids=[f"{p[1].name}-{p[2].name}-{p[0].name}" for p in PORTS]
)
def test_what_is_served_is_what_is_on_disk(place: HostSpec, service: Service, port: Port) -> None:
    host = connection(place.name)
    pair = f"{SSL_DIR}/{service.name}"
    if port.owed and host.run(f"grep -qs inet_tls {ENV}").rc != 0:
        pytest.skip("members have not all been stopped since TLS came (docs/certificates.md)")
    assert served(host, place.address, port, pair) == read(host, f"{pair}.crt")


@pytest.mark.parametrize(("place", "service"), PAIRS, ids=[f"{s.name}-{h.name}" for h, s in PAIRS])
def test_properties(place: HostSpec, service: Service) -> None:
    host = connection(place.name)
    found = read(host, f"{SSL_DIR}/{service.name}.crt")
    authority = read(host, f"{SSL_DIR}/ca.crt")
    found.verify_directly_issued_by(authority)
    assert service.identity is not None
    assert found.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value == service.name
    usages = set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) == service.identity.server
    assert (ExtendedKeyUsageOID.CLIENT_AUTH in usages) == service.identity.client
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {place.name, *service.names} <= set(names.get_values_for_type(x509.DNSName))
    if place.settings.trust.key_type == "rsa2048":
        key = found.public_key()
        assert isinstance(key, RSAPublicKey)
        assert key.key_size == 2048
    life = found.not_valid_after_utc - found.not_valid_before_utc
    assert life.days <= place.settings.trust.leaf_days


@pytest.mark.parametrize(("place", "service"), PAIRS, ids=[f"{s.name}-{h.name}" for h, s in PAIRS])
def test_key_is_the_services_alone(place: HostSpec, service: Service) -> None:
    key = connection(place.name).file(f"{SSL_DIR}/{service.name}.key")
    assert service.identity is not None
    assert (key.user, key.group, key.mode) == (service.identity.owner, service.identity.owner, 0o400)


def test_authority(host: Host, spec: HostSpec) -> None:
    found = read(host, f"{SSL_DIR}/ca.crt")
    key = found.public_key()
    assert isinstance(key, RSAPublicKey)
    assert key.key_size == spec.settings.trust.authority_bits
    life = found.not_valid_after_utc - found.not_valid_before_utc
    assert life.days == spec.settings.trust.authority_days
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert host.run(f"ls {SSL_DIR}/ca.key").rc != 0


def test_revocation_list(host: Host) -> None:
    """Good under the CA, of a week more at least: one that has ended shuts everybody out."""
    text = host.file(f"{SSL_DIR}/ca.crl").content_string
    roots = x509.load_pem_x509_certificates(host.file(f"{SSL_DIR}/ca.crt").content_string.encode())
    assert text.count("BEGIN X509 CRL") == len(roots)
    for root, part in zip(roots, text.split("-----END X509 CRL-----\n"), strict=False):
        found = x509.load_pem_x509_crl(f"{part}-----END X509 CRL-----\n".encode())
        key = root.public_key()
        assert isinstance(key, RSAPublicKey)
        assert found.is_signature_valid(key)
        assert found.next_update_utc is not None
        assert found.next_update_utc > datetime.now(UTC) + timedelta(days=7)
