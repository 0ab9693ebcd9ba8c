"""The door of a monitoring host, as HAProxy opens it: who gets in where, with certificates of every kind."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.roles import door, log_store
from tests import attacks
from tests.unit.monitoring.fleets import FLEET, files

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed here")

OUTER = {
    "door": SERVICES["door"].port("https").number,
    "logs": SERVICES["log-store"].port("https").number,
    "page": SERVICES["alert-log"].port("https").number,
}
INNER = {
    "node": SERVICES["node-exporter"].port("exporter").number,
    "alerts": SERVICES["alertmanager"].port("api").number,
    "store": SERVICES["log-store"].port("store").number,
    "page": SERVICES["alert-log"].port("http").number,
}
HOST = FLEET.host("mon1")


class Authority:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
        self._write("ca", self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None), None), None)
        self.revoke()

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, basic: x509.BasicConstraints,
        usages: list[x509.ObjectIdentifier] | None,
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1)).add_extension(basic, critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )  # fmt: skip
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> None:
        (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        if key:
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (self.folder / f"{name}.key").write_bytes(pem)

    def revoke(self, *roles: str) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(now - timedelta(hours=1))
            .next_update(now + timedelta(hours=1))
        )  # fmt: skip
        for role in roles:
            serial = x509.load_pem_x509_certificate((self.folder / f"{role}.crt").read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        (self.folder / "ca.crl").write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def make(self, role: str, usage: x509.ObjectIdentifier) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, role)]
        )
        self._write(role, self._sign(subject, key, x509.BasicConstraints(ca=False, path_length=None), [usage]), key)


class Inside(BaseHTTPRequestHandler):
    """Whatever is behind the door: says who asked, and for what."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        body = f"{self.client_address[0]} {self.command} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, int]]]:
    """The rendered configuration, but for addresses, ports and paths."""
    folder = tmp_path_factory.mktemp("door")
    authority = Authority(folder)
    for role in ("door", "log-store", "alert-log"):
        authority.make(role, ExtendedKeyUsageOID.SERVER_AUTH)
    for role in ("monitoring", "log-sender", "operator", "grader"):
        authority.make(role, ExtendedKeyUsageOID.CLIENT_AUTH)
    servers = {name: ThreadingHTTPServer(("127.0.0.1", 0), Inside) for name in INNER}
    outer = {name: free() for name in OUTER}
    text = files(FLEET, "mon1")[door.CONFIG].replace(SSL_DIR, str(folder)).replace(door.SOCKET, f"{folder}/admin")
    # Nobody but root becomes another.
    text = re.sub(r"^ +(user|group) haproxy\n", "", text, flags=re.M)
    for name, number in OUTER.items():
        text = text.replace(f"{HOST.address}:{number} ", f"127.0.0.1:{outer[name]} ")
    for name, number in INNER.items():
        text = text.replace(f"127.0.0.1:{number}", f"127.0.0.1:{servers[name].server_address[1]}")
    # The caller here is the monitoring host itself.
    text = text.replace(f"{{ src {HOST.address} }}", "{ src 127.0.0.1 }")
    (folder / "door.cfg").write_text(text)
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(folder / "door.cfg")], text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "WARNING" not in checked.stderr
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    running = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "door.cfg")], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while not listens(outer["page"]):
            assert time.monotonic() < until, "HAProxy does not listen"
            time.sleep(0.05)
        yield folder, outer
    finally:
        running.terminate()
        running.wait(10)
        for server in servers.values():
            server.shutdown()
            server.server_close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def call(folder: Path, port: int, role: str) -> Iterator[HTTPSConnection]:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if role:
        context.load_cert_chain(folder / f"{role}.crt", folder / f"{role}.key")
    connection = HTTPSConnection("localhost", port, context=context, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def code(opened: tuple[Path, dict[str, int]], port: str, role: str, path: str, method: str = "GET") -> int:
    """The HTTP code; 0: no connection."""
    try:
        with call(opened[0], opened[1][port], role) as connection:
            connection.request(method, path, body=b"x" if method == "POST" else None)
            return connection.getresponse().status
    except (OSError, ssl.SSLError):
        return 0


FIGURES = "/node-exporter/exporter/metrics"


@pytest.mark.parametrize(
    ("port", "role", "path", "method", "wanted"),
    [
        ("door", "monitoring", FIGURES, "GET", 200), ("door", "monitoring", FIGURES, "POST", 404),
        ("door", "monitoring", f"{FIGURES}x", "GET", 404), ("door", "monitoring", "/", "GET", 404),
        ("door", "monitoring", f"{door.ALERTS}/api/v2/alerts", "POST", 200),
        ("door", "monitoring", f"{door.ALERTS}/api/v2/silences", "POST", 404),
        ("door", "grader", FIGURES, "GET", 403), ("door", "operator", FIGURES, "GET", 403),
        ("door", "log-sender", FIGURES, "GET", 403), ("door", "", FIGURES, "GET", 0),
        # One for servers is none for clients.
        ("door", "door", FIGURES, "GET", 0),
        ("logs", "log-sender", "/upload", "POST", 200), ("logs", "log-sender", "/health", "GET", 200),
        ("logs", "log-sender", "/upload", "GET", 404), ("logs", "log-sender", "/browse", "GET", 404),
        ("logs", "monitoring", "/upload", "POST", 403), ("logs", "operator", "/upload", "POST", 403),
        ("logs", "", "/upload", "POST", 0),
        ("page", "operator", "/", "GET", 200), ("page", "operator", "/dashboards/cache?hours=6", "GET", 200),
        ("page", "operator", "/alerts", "GET", 404), ("page", "operator", "/alerts", "POST", 405),
        ("page", "operator", "/metrics", "GET", 404), ("page", "monitoring", "/", "GET", 403),
        ("page", "log-sender", "/", "GET", 403), ("page", "", "/", "GET", 0),
    ],
)  # fmt: skip
def test_who_gets_in_where(
    opened: tuple[Path, dict[str, int]], port: str, role: str, path: str, method: str, wanted: int
) -> None:
    assert code(opened, port, role, path, method) == wanted


def test_a_sender_is_known_by_its_address(opened: tuple[Path, dict[str, int]]) -> None:
    """The store names the file after it."""
    with call(opened[0], opened[1]["logs"], "log-sender") as connection:
        connection.request("POST", "/upload", body=b"x")
        assert connection.getresponse().read().decode() == f"{log_store.source('mon1')} POST /upload"


def test_lines_wait_until_a_clock_that_is_ahead_is_behind(opened: tuple[Path, dict[str, int]]) -> None:
    """Each request of a connection, not the first alone. The sender asks first, and goes on after a second."""
    with call(opened[0], opened[1]["logs"], "log-sender") as connection:
        for _ in range(2):
            begun = time.monotonic()
            connection.putrequest("POST", "/upload")
            connection.putheader("Expect", "100-continue")
            connection.putheader("Content-Length", "1")
            connection.endheaders()
            assert connection.sock is not None
            connection.sock.settimeout(1.2)
            with pytest.raises(TimeoutError):
                connection.sock.recv(1)
            connection.sock.settimeout(10)
            connection.send(b"x")
            assert connection.getresponse().read()
            assert time.monotonic() - begun < 5
        begun = time.monotonic()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        assert time.monotonic() - begun < 1, "who only asks waits as well"


def test_an_exporters_own_path_is_asked(opened: tuple[Path, dict[str, int]]) -> None:
    with call(opened[0], opened[1]["door"], "monitoring") as connection:
        connection.request("GET", f"{FIGURES}?x=1")
        assert connection.getresponse().read().decode() == "127.0.0.1 GET /metrics?x=1"


def opened_from(address: str, port: int, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    found = []
    for _ in range(count):
        one = socket.socket()
        one.bind((address, 0))
        with suppress(ConnectionError):
            one.connect(("127.0.0.1", port))
        found.append(one)
    return found


def closed(one: socket.socket) -> bool:
    one.settimeout(0.2)
    try:
        return one.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(("port", "share"), [("door", 64), ("logs", 16), ("page", 32)])
def test_who_opens_many_keeps_nobody_else_out(opened: tuple[Path, dict[str, int]], port: str, share: int) -> None:
    silent = opened_from("127.0.0.9", opened[1][port], 300)
    try:
        time.sleep(0.5)
        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(closed, silent)).count(False) == share
        asks = {"door": ("monitoring", FIGURES), "logs": ("log-sender", "/health"), "page": ("operator", "/")}
        for name, (role, path) in asks.items():
            assert code(opened, name, role, path) == 200
    finally:
        for one in silent:
            one.close()


def test_no_request_hides_in_another(opened: tuple[Path, dict[str, int]]) -> None:
    """Between HAProxy and what is behind it: what is refused, or reaches it as one request."""
    context = ssl.create_default_context(cafile=str(opened[0] / "ca.crt"))
    context.load_cert_chain(opened[0] / "monitoring.crt", opened[0] / "monitoring.key")
    for name, data in attacks.smuggling("POST", f"{door.ALERTS}/api/v2/alerts").items():
        with (
            socket.create_connection(("127.0.0.1", opened[1]["door"]), timeout=1) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(data)
            found = b""
            try:
                while piece := connection.recv(65536):
                    found += piece
            except (TimeoutError, ConnectionError):
                pass
        # The inner request, if HAProxy itself read it as the next one, is none of the door's: 404 by HAProxy.
        assert attacks.SMUGGLED.encode() not in found, name
        assert found.count(b"HTTP/1.1 200") <= 1, name
