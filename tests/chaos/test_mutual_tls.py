"""Every TLS port against every kind of certificate, tried from a host that the firewall lets through."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.converge.inventory import folder, load, open_keys
from deploy.model.catalog import Port, Service
from deploy.model.fleet import Fleet, HostSpec
from deploy.model.permitted import permitted
from tests.chaos.support import INVENTORY, SPEC, altered, apply, fleet, on

PROBES = {
    # (service, port): who may call, and a path that answers 200 to that role.
    ("gitserver", "https"): ("monitoring", "/health"),
    ("broadcaster", "https"): ("monitoring", "/health"),
    ("grader", "https"): ("frontend", "/health"),
    ("grader", "runners"): ("runner", "/health"),
    ("runner", "https"): ("monitoring", "/health"),
    ("mysql", "seed"): ("mysql", "/health"),
    ("door", "https"): ("monitoring", "/node-exporter/exporter/metrics"),
    ("log-store", "https"): ("log-sender", "/health"),
}
BROKER = {("rabbitmq", name) for name in ("amqps", "management-tls", "distribution")}
"""Erlang's TLS asks for no role: what is let in is then asked for a password, or for the members' cookie."""
ELSEWHERE = {("alertmanager", "gossip"), ("alert-log", "https"), *BROKER}
"""The first speaks a protocol of its own, to its like alone, which the firewall sees to; the second is for people, who
are no host. tests/fleet asks both."""
REDIS = {"cache": "frontend", "sessions": "frontend", "sentinel": "sentinel"}
"""Ports of Redis and Sentinel, which speak no HTTP -> on whose hosts somebody dials them."""
WRONG_ROLE = "worker"
FOREIGN = "another name"
"""What nobody can have signed whose CA is for the fleet's own names: who has its key."""
KINDS = (
    "none", "self-signed", "other CA", "expired", "not yet valid", "server only", "wrong role", "right",
    *((FOREIGN,) if permitted(load(folder(INVENTORY))[1]) else ()),
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    certificate: str
    key: str


@cache
def _fleet() -> Fleet:
    return load(folder(INVENTORY))[1]


def targets() -> list[tuple[HostSpec, Service, Port]]:
    return [
        (host, service, port)
        for host in _fleet().hosts
        for service in host.services
        for port in service.ports
        if host.mutual(port)
        and not port.starttls
        and (service.name, port.name) not in ELSEWHERE
        and port.name not in REDIS
    ]


def redis_targets() -> list[tuple[HostSpec, Service, Port]]:
    return [
        (host, service, port)
        for host in _fleet().hosts
        for service in host.services
        for port in service.ports
        if host.mutual(port) and port.name in REDIS
    ]


def _name(role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _fleet().name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, role),
        ]
    )


def _make(
    role: str, issuer: x509.Name | None, signing: rsa.RSAPrivateKey | None, begins: int, ends: int,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH, named: str = "localhost",
) -> Pair:  # fmt: skip
    """A certificate valid from `begins` to `ends` hours from now; without an issuer it signs itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(role))
        .issuer_name(issuer or _name(role))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(hours=begins))
        .not_valid_after(now + timedelta(hours=ends))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(named)]), critical=False)
    )
    certificate = builder.sign(signing or key, hashes.SHA256())
    return Pair(
        certificate.public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


@cache
def pair(kind: str, role: str) -> Pair | None:
    authority = open_keys(folder(INVENTORY))
    signer = authority.signer()
    name = x509.load_pem_x509_certificate(authority.authority.certificate_pem.encode()).subject
    ours = signer._key
    assert isinstance(ours, rsa.RSAPrivateKey)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    made: dict[str, Callable[[], Pair | None]] = {
        "none": lambda: None,
        "self-signed": lambda: _make(role, None, None, -1, 24),
        "other CA": lambda: _make(role, name, other, -1, 24),
        "expired": lambda: _make(role, name, ours, -48, -24),
        "not yet valid": lambda: _make(role, name, ours, 24, 48),
        "server only": lambda: _make(role, name, ours, -1, 24, ExtendedKeyUsageOID.SERVER_AUTH),
        "wrong role": lambda: _make(WRONG_ROLE, name, ours, -1, 24),
        "right": lambda: _make(role, name, ours, -1, 24),
        FOREIGN: lambda: _make(role, name, ours, -1, 24, named="bank.example"),
    }
    return made[kind]()


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    yield
    for host in _fleet().hosts:
        on(host.name, "rm -rf /run/fleet-mtls")


SHOWN = " -cert /run/fleet-mtls/crt -key /run/fleet-mtls/key"
"""How s_client is told of it."""


def put(made: Pair | None) -> str:
    """Shell that puts a pair where the next words look for it, if there is one."""
    script = "rm -rf /run/fleet-mtls\nmkdir -p -m 700 /run/fleet-mtls\n"
    for name, text in (("crt", made.certificate), ("key", made.key)) if made else ():
        encoded = base64.b64encode(text.encode()).decode()
        script += f"echo {encoded} | base64 -d >/run/fleet-mtls/{name}\n"
    return script


def called(client: str, url: str, made: Pair | None, options: str = "") -> str:
    """The HTTP code that a call from this host is answered with; 000: none."""
    script = put(made)
    if made:
        options += " --cert /run/fleet-mtls/crt --key /run/fleet-mtls/key"
    curl = "curl -s -m 10 -o /dev/null -w '%{http_code}' --cacert /etc/omegaup/ssl/ca.crt"
    return on(client, f"{script}{curl} {options} {url} || true").strip()


def dialled(client: str, host: HostSpec, port: Port, made: Pair | None, options: str = "") -> str:
    """What Redis or Sentinel (which knows no QUIT) answers to a PING from here; nothing, where the handshake fails."""
    options += SHOWN if made else ""
    ask = f"openssl s_client -quiet -connect {host.address}:{port.number} -CAfile /etc/omegaup/ssl/ca.crt {options}"
    return on(client, f"{put(made)}printf 'PING\\r\\nQUIT\\r\\n' | timeout 4 {ask} 2>/dev/null || true")


def caller_of(host: HostSpec, port: Port) -> str:
    """A host that the firewall lets through to this port, another one than it."""
    return next(one.name for one in _fleet().hosts if one.has(REDIS[port.name]) and one is not host)


TARGETS = targets()
REDIS_TARGETS = redis_targets()
REDIS_NAMES = [f"{t[1].name}-{t[2].name}-{t[0].name}" for t in REDIS_TARGETS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS, ids=[f"{t[1].name}-{t[2].name}-{t[0].name}" for t in TARGETS])
def test_only_the_right_certificate_is_served(target: tuple[HostSpec, Service, Port], kind: str) -> None:
    host, service, port = target
    role, path = PROBES[service.name, port.name]
    client = next(other for other in _fleet().hosts if other.has(role))
    url = f"https://{host.name}:{port.number}{path}"
    expected = {"right": "200", "wrong role": "403"}.get(kind, "000")
    assert called(client.name, url, pair(kind, role)) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", REDIS_TARGETS, ids=REDIS_NAMES)
def test_redis_speaks_to_the_fleets_certificates_alone(target: tuple[HostSpec, Service, Port], kind: str) -> None:
    """It knows no roles: what may be done is its users' business. It asks for one of them."""
    host, _, port = target
    said = dialled(caller_of(host, port), host, port, pair(kind, REDIS[port.name]))
    assert ("NOAUTH" in said) == (kind in {"right", "wrong role"}), said


@pytest.mark.parametrize("target", REDIS_TARGETS, ids=REDIS_NAMES)
def test_redis_says_nothing_without_tls(target: tuple[HostSpec, Service, Port]) -> None:
    """Not at the port of others, nor at the host's own, which nobody else reaches."""
    host, service, port = target
    client = caller_of(host, port)
    for number in (port.number, host.local(service, port.name)):
        ask = f'exec 3<>/dev/tcp/{host.address}/{number} && printf "PING\\r\\n" >&3 && timeout 3 head -c 7 <&3'
        assert "NOAUTH" not in on(client, f"timeout 5 bash -c '{ask}' 2>/dev/null || true"), number
    own = on(host.name, f"redis-cli -p {host.local(service, port.name)} PING")
    assert "NOAUTH" in own, "the same question is answered on the host itself"


@pytest.mark.parametrize("target", REDIS_TARGETS, ids=REDIS_NAMES)
def test_redis_refuses_old_protocols(target: tuple[HostSpec, Service, Port]) -> None:
    host, _, port = target
    client, made = caller_of(host, port), pair("right", REDIS[port.name])
    able = "-cipher DEFAULT@SECLEVEL=0"
    answered = {
        version: "NOAUTH" in dialled(client, host, port, made, f"-{version} {able}")
        for version in ("tls1", "tls1_1", "tls1_2", "tls1_3")
    }
    assert answered == {"tls1": False, "tls1_1": False, "tls1_2": True, "tls1_3": True}


BROKERS = [
    (host, port)
    for host in _fleet().hosts
    for service in host.services
    for port in service.ports
    if (service.name, port.name) in BROKER and host.mutual(port)
]


def shaken(client: str, host: HostSpec, port: Port, made: Pair | None, options: str = "") -> bool:
    """Whether a broker's port takes this certificate. By TLS 1.2: there its answer ends the handshake."""
    options += SHOWN if made else ""
    ask = f"timeout 10 openssl s_client -connect {host.name}:{port.number} -CAfile /etc/omegaup/ssl/ca.crt"
    return on(client, f"{put(made)}{ask} {options} </dev/null >/dev/null 2>&1 && echo yes || true") == "yes\n"


def client_of_the_broker(host: HostSpec, port: Port) -> str:
    """A host that the firewall lets through to this port of it."""
    service = host.own("rabbitmq")
    addresses = _fleet().sources(service, port, host) or ()
    return next(other.name for other in _fleet().hosts if other.address in addresses)


@pytest.mark.skipif(len(_fleet().hosts) == 1, reason="a fleet of one host has no flows between hosts")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"wrong role", FOREIGN}])
@pytest.mark.parametrize("target", BROKERS, ids=[f"{port.name}-{host.name}" for host, port in BROKERS])
def test_a_broker_takes_a_good_certificate_alone(target: tuple[HostSpec, Port], kind: str) -> None:
    host, port = target
    client = client_of_the_broker(host, port)
    made = pair(kind, "rabbitmq" if port.name == "distribution" else "proxy")
    assert shaken(client, host, port, made, "-tls1_2") == (kind == "right")


@pytest.mark.skipif(len(_fleet().hosts) == 1, reason="a fleet of one host has no flows between hosts")
@pytest.mark.parametrize("target", BROKERS, ids=[f"{port.name}-{host.name}" for host, port in BROKERS])
def test_a_broker_refuses_old_protocols(target: tuple[HostSpec, Port]) -> None:
    host, port = target
    client, made = client_of_the_broker(host, port), pair("right", "proxy")
    able = "-cipher DEFAULT@SECLEVEL=0"
    taken = {
        version: shaken(client, host, port, made, f"{able} -{version}")
        for version in ("tls1", "tls1_1", "tls1_2", "tls1_3")
    }
    assert taken == {"tls1": False, "tls1_1": False, "tls1_2": True, "tls1_3": True}


def test_plain_http_is_refused() -> None:
    for host, service, port in TARGETS:
        role, path = PROBES[service.name, port.name]
        client = next(other for other in _fleet().hosts if other.has(role))
        url = f"http://{host.name}:{port.number}{path}"
        code = on(client.name, f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' {url} || true").strip()
        assert code != "200"


@pytest.mark.parametrize("target", TARGETS, ids=[f"{t[1].name}-{t[2].name}-{t[0].name}" for t in TARGETS])
def test_old_protocols_are_refused(target: tuple[HostSpec, Service, Port]) -> None:
    """The same call with the right certificate, once by each version: only the version makes the difference."""
    host, service, port = target
    role, path = PROBES[service.name, port.name]
    client = next(other for other in _fleet().hosts if other.has(role))
    url = f"https://{host.name}:{port.number}{path}"
    # At this level the client's own library still speaks the old versions.
    able = "--ciphers DEFAULT@SECLEVEL=0"
    codes = {
        version: called(client.name, url, pair("right", role), f"--tlsv{lowest} --tls-max {version} {able}")
        for lowest, version in (("1.0", "1.0"), ("1.0", "1.1"), ("1.2", "1.2"), ("1.2", "1.3"))
    }
    assert codes == {"1.0": "000", "1.1": "000", "1.2": "200", "1.3": "200"}


@pytest.mark.thorough
def test_keys_of_the_other_kind(tmp_path: Path) -> None:
    """ECDSA on one host by the setting: served, accepted by the others; and RSA again."""
    served = "echo | openssl s_client -connect {}:6060 2>/dev/null | openssl x509 -noout -text | grep 'Public Key Algo'"
    ask = served.format(SPEC.address("run1"))
    changed = altered(tmp_path, "trust = trust | {'key_type': 'p256'}")
    try:
        assert fleet("apply", "--limit", "run1", inventory=changed).returncode == 0
        assert "id-ecPublicKey" in on("run1", ask)
        done = fleet("status", "--wait", "30")
        assert done.returncode == 0, done.stdout
    finally:
        apply("run1")
    assert "rsaEncryption" in on("run1", ask)


DATABASES = tuple(host for host in _fleet().members("mysql") if host.settings.mysql.tls)
PLAIN = "plain text"
LOG_IN = r"""
require "/etc/omegaup/frontend/config.php";
mysqli_report(MYSQLI_REPORT_OFF);
$link = mysqli_init();
$pair = is_file("/run/fleet-mtls/crt") ? ["/run/fleet-mtls/key", "/run/fleet-mtls/crt"] : [null, null];
$flags = 0;
if ($argv[2] !== "plain text") {
    $link->options(MYSQLI_OPT_SSL_VERIFY_SERVER_CERT, true);
    $link->ssl_set(...$pair, ...["/etc/omegaup/ssl/ca.crt", null, null]);
    $flags = MYSQLI_CLIENT_SSL;
}
$in = @$link->real_connect(
    $argv[1], OMEGAUP_DB_USER, OMEGAUP_DB_PASS, OMEGAUP_DB_NAME, (int)explode(":", OMEGAUP_DB_HOST)[1], null, $flags
);
echo $in ? "in" : $link->connect_errno;
"""


def logged_in(client: str, host: str, kind: str, made: Pair | None) -> str:
    """With the application's own password, as PHP does it: `in`, or the error's number."""
    code = base64.b64encode(f"<?php {LOG_IN}".encode()).decode()
    script = f"{put(made)}echo {code} | base64 -d >/run/fleet-mtls/php\n"
    return on(client, f"{script}php /run/fleet-mtls/php {host} '{kind}'").strip()


@pytest.mark.parametrize("kind", [*KINDS, PLAIN])
@pytest.mark.parametrize("host", DATABASES, ids=lambda host: host.name)
def test_the_database_takes_a_password_with_its_roles_certificate_only(host: HostSpec, kind: str) -> None:
    client = _fleet().members("frontend")[0].name
    said = logged_in(client, host.name, kind, None if kind == PLAIN else pair(kind, "frontend"))
    if kind in {"none", "wrong role", PLAIN}:
        assert said == "1045", "the account refuses"
    else:
        assert (said == "in") == (kind == "right"), said


@pytest.mark.parametrize("host", DATABASES, ids=lambda host: host.name)
def test_the_database_refuses_old_protocols(host: HostSpec) -> None:
    client = _fleet().members("frontend")[0].name
    number = next(port.number for service in host.services for port in service.ports if port.starttls == "mysql")
    ask = f"openssl s_client -starttls mysql -connect {host.name}:{number} -cipher DEFAULT@SECLEVEL=0"
    script = "".join(
        f"timeout 10 {ask} -{version} </dev/null >/dev/null 2>&1 && echo {version} yes || echo {version} no\n"
        for version in ("tls1", "tls1_1", "tls1_2", "tls1_3")
    )
    assert on(client, script).splitlines() == ["tls1 no", "tls1_1 no", "tls1_2 yes", "tls1_3 yes"]
