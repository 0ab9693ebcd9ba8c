"""The frontend's neighbours, on loopback: real Redis and MariaDB, a grader behind mutual TLS, a small broker."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import socket
import socketserver
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port} after {seconds} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Authority:
    """A CA of its own, and the files that it issues."""

    def __init__(self, directory: Path, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        certificate = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write(directory / "ca.crt", certificate)
        self.revoke()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def _write(self, path: Path, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def revoke(self, *serials: int) -> None:
        """The list of what counts no more, with these alone."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now)
            .next_update(now + datetime.timedelta(hours=1))
        )  # fmt: skip
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (self.directory / "ca.crl").write_bytes(pem)

    def issue(self, name: str, usage: x509.ObjectIdentifier, address: str = HOST) -> tuple[Path, Path]:
        """`name`.crt and `name`.key in the directory."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            self._builder(subject, key)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        )
        paths = (self.directory / f"{name}.crt", self.directory / f"{name}.key")
        self._write(paths[0], builder)
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def server(self, name: str = "grader", address: str = HOST) -> tuple[Path, Path]:
        return self.issue(name, ExtendedKeyUsageOID.SERVER_AUTH, address)

    def client(self, name: str = "frontend") -> tuple[Path, Path]:
        return self.issue(name, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass
class Seen:
    """One request as the grader got it. `peer`: the common name of the client's certificate."""

    method: str
    path: str
    peer: str
    content_type: str
    body: Any


class FakeGrader:
    """HTTPS that wants a client certificate under `trusted`.

    `answers` maps a path to (status, body), `hooks` to what makes it.
    """

    def __init__(self, pair: tuple[Path, Path], trusted: Path) -> None:
        self.seen: list[Seen] = []
        self.answers: dict[str, tuple[int, Any]] = {"/health": (200, {"status": "ok"})}
        self.hooks: dict[str, Callable[[], tuple[int, Any]]] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, pair))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(trusted))
        grader = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def setup(self) -> None:
                # Here and not on the listening socket: a handshake that fails must not end the accept loop.
                self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                subject = dict(pair[0] for pair in self.connection.getpeercert()["subject"])
                content_type = self.headers.get("Content-Type", "")
                body = json.loads(raw) if content_type == "application/json" else raw.decode() or None
                grader.seen.append(Seen(self.command, self.path, subject["commonName"], content_type, body))
                hook = grader.hooks.get(self.path)
                missing = (404, {"status": "error", "error": "no such thing"})
                status, answer = hook() if hook else grader.answers.get(self.path, missing)
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = _any

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a refused handshake is what some tests want

        self._server = Server((HOST, 0), Handler)
        self.url = f"https://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Published:
    exchange: str
    routing_key: str
    mandatory: bool
    delivery_mode: int | None
    confirms: bool
    body: Any


@dataclass
class Broker:
    """As much of AMQP 0-9-1 as publishing with confirms needs. `mode`: ack, nack, return or silent."""

    user: str = "frontend"
    password: str = "broker-secret"
    exchanges: frozenset[str] = frozenset({"certificates", "submissions"})
    mode: str = "ack"
    published: list[Published] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        broker = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                broker.connections += 1
                self.request.settimeout(5)
                with contextlib.suppress(OSError, EOFError):
                    _Peer(broker, self.request).serve()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server((HOST, 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _take_short(data: bytes) -> tuple[str, bytes]:
    return data[1 : 1 + data[0]].decode(), data[1 + data[0] :]


class _Peer:
    REPLIES: ClassVar[dict[tuple[int, int], tuple[int, int, bytes]]] = {
        (10, 40): (10, 41, b"\0"),
        (10, 50): (10, 51, b""),
        (20, 10): (20, 11, _long(b"")),
        (20, 40): (20, 41, b""),
        (85, 10): (85, 11, b""),
    }

    def __init__(self, broker: Broker, peer: socket.socket) -> None:
        self._broker, self._peer, self._tag, self._confirms = broker, peer, 0, False

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._peer.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _frame(self) -> tuple[int, int, bytes]:
        kind, channel, size = struct.unpack(">BHI", self._read(7))
        payload = self._read(size)
        assert self._read(1) == b"\xce"
        return kind, channel, payload

    def _send(self, channel: int, klass: int, method: int, arguments: bytes, kind: int = 1) -> None:
        payload = struct.pack(">HH", klass, method) + arguments if kind == 1 else arguments
        self._peer.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    def serve(self) -> None:
        assert self._read(8) == b"AMQP\0\0\x09\x01"
        self._send(0, 10, 10, bytes([0, 9]) + _long(b"") + _long(b"PLAIN") + _long(b"en_US"))
        while True:
            kind, channel, payload = self._frame()
            if kind != 1:
                continue
            klass, method = struct.unpack(">HH", payload[:4])
            self._answer(channel, (klass, method), payload[4:])

    def _answer(self, channel: int, call: tuple[int, int], arguments: bytes) -> None:
        if call == (10, 11):
            login = f"\0{self._broker.user}\0{self._broker.password}".encode()
            if login in arguments:
                self._send(0, 10, 30, struct.pack(">HIH", 2047, 131072, 60))
            else:
                self._send(0, 10, 50, struct.pack(">H", 403) + _short("ACCESS_REFUSED - Login was refused") + bytes(4))
        elif call == (40, 10):
            name, _ = _take_short(arguments[2:])
            assert _take_short(_take_short(arguments[2:])[1])[1][0] & 1, "the frontend must not create the exchange"
            if name in self._broker.exchanges:
                self._send(channel, 40, 11, b"")
            else:
                self._no_exchange(channel)
        elif call == (60, 40):
            self._publish(channel, arguments)
        elif call in self.REPLIES:
            self._confirms = self._confirms or call == (85, 10)
            self._send(channel, *self.REPLIES[call])

    def _no_exchange(self, channel: int) -> None:
        self._send(
            channel, 20, 40, struct.pack(">H", 404) + _short("NOT_FOUND - no exchange 'certificates'") + bytes(4)
        )

    def _publish(self, channel: int, arguments: bytes) -> None:
        exchange, rest = _take_short(arguments[2:])
        routing_key, bits = _take_short(rest)
        header, body = self._frame()[2], b""
        size, flags = struct.unpack(">QH", header[4:14])
        while len(body) < size:
            body += self._frame()[2]
        if exchange not in self._broker.exchanges:
            self._no_exchange(channel)
            return
        assert flags & 0xF000 == 0x9000, "expected content_type and delivery_mode"
        properties = _take_short(header[14:])[1]
        self._tag += 1
        self._broker.published.append(
            Published(exchange, routing_key, bool(bits[0] & 1), properties[0], self._confirms, json.loads(body))
        )
        mode, tag = self._broker.mode, struct.pack(">Q", self._tag)
        if mode == "return":
            self._send(
                channel, 60, 50, struct.pack(">H", 312) + _short("NO_ROUTE") + _short(exchange) + _short(routing_key)
            )
            self._send(channel, 0, 0, header, kind=2)
            self._send(channel, 0, 0, body, kind=3)
        if mode in ("ack", "return"):
            self._send(channel, 60, 80, tag + b"\0")
        elif mode == "nack":
            self._send(channel, 60, 120, tag + b"\0")


class Redis:
    """A real redis-server whose application user may do just what the frontend needs."""

    PASSWORD = "redis-secret"
    ACL = (
        "user frontend on >redis-secret resetkeys {keys} resetchannels -@all"
        " +get +set +unlink +scan +eval +incr +expire +ttl +ping +echo +wait"
    )
    CACHE_KEYS = "~problem:* ~scoreboard:* ~ratelimit:* ~school_rank:* ~tags:*"
    SESSION_KEYS = "~session:*"

    def __init__(self, directory: Path, keys: str, tls: Authority | None = None) -> None:
        self.directory, self.port, self._tls = directory, free_port(), tls
        directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"bind {HOST}",
            f"dir {directory}",
            "save ''",
            "user default on nopass ~* &* +@all",
            self.ACL.format(keys=keys),
        ]
        if tls is None:
            lines.append(f"port {self.port}")
        else:
            certificate, key = tls.server("redis")
            lines += [
                "port 0",
                f"tls-port {self.port}",
                "tls-auth-clients yes",
                f"tls-ca-cert-file {tls.directory}/ca.crt",
            ]
            lines += [f"tls-cert-file {certificate}", f"tls-key-file {key}"]
        (directory / "redis.conf").write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", str(self.directory / "redis.conf")], stdout=log, stderr=log
            )
        wait_for_port(self.port, self.process)

    def stop(self) -> None:
        stop(self.process)

    def cli(self, *command: str) -> str:
        tls = ["--tls", "--cacert", f"{self._tls.directory}/ca.crt", "--cert", f"{self._tls.directory}/frontend.crt",
               "--key", f"{self._tls.directory}/frontend.key"] if self._tls else []  # fmt: skip
        done = subprocess.run(
            ["redis-cli", "-h", HOST, "-p", str(self.port), *tls, *command], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def clients(self) -> list[str]:
        """The ids of the connections of the application's user."""
        return [line.split()[0] for line in self.cli("client", "list").splitlines() if "user=frontend" in line]


@contextlib.contextmanager
def whole_mariadb(prefix: str) -> Iterator[Mariadb]:
    """One with all tables of services and frontend. prefix: of its folder: a Unix socket's name may not be long."""
    files = Path(__file__).resolve().parents[3] / "files"
    schema = [path for part in ("services", "frontend") for path in sorted((files / part / "sql").glob("*.sql"))]
    with tempfile.TemporaryDirectory(prefix=prefix) as directory:
        server = Mariadb(Path(directory), schema, os.geteuid() == 0)
        yield server
        server.stop()


class Mariadb:
    """A real server in a directory of its own, with an account that may only read."""

    PASSWORD = "db-secret"

    def __init__(self, directory: Path, schema: list[Path], root: bool) -> None:
        data, self.socket, self.port = directory / "data", str(directory / "s"), free_port()
        user = ["--user=root"] if root else []
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", *user, f"--datadir={data}", "--skip-test-db",
             "--auth-root-authentication-method=socket", "--innodb-log-file-size=4M"],
            check=True, capture_output=True,
        )  # fmt: skip
        self._command = [
            "mariadbd", "--no-defaults", *user, f"--datadir={data}", f"--socket={self.socket}",
            f"--bind-address={HOST}", f"--port={self.port}", "--innodb-log-file-size=4M", "--skip-name-resolve",
            f"--pid-file={directory}/pid", f"--tmpdir={directory}",
        ]  # fmt: skip
        self._directory = directory
        self.options: tuple[str, ...] = ()
        """Of the next start."""
        self.start()
        tables = "".join(file.read_text() for file in schema)
        self.sql(f"CREATE DATABASE omegaup; USE omegaup; {tables}")
        self.sql(
            f"CREATE USER frontend@'{HOST}' IDENTIFIED BY '{self.PASSWORD}';"
            f"GRANT SELECT ON omegaup.* TO frontend@'{HOST}';"
            "INSERT INTO omegaup.Schools (name, score) VALUES ('Norte', 10), ('Ñandú', 30), ('Sur', 20)"
        )

    def start(self) -> None:
        with (self._directory / "mariadb.log").open("ab") as log:
            self.process = subprocess.Popen([*self._command, *self.options], stdout=log, stderr=log)
        wait_for_port(self.port, self.process, 20)

    def kill(self) -> None:
        """As by kill -9."""
        self.process.kill()
        self.process.wait()

    def restart(self, *options: str) -> None:
        """In order, with these options beside its own."""
        stop(self.process)
        self.options = options
        self.start()

    def plain(self, user: str) -> None:
        """Without TLS, and an account that wants none."""
        if self.options:
            self.restart()
            self.sql(f"ALTER USER {user}@'{HOST}' REQUIRE NONE")

    def sql(self, text: str) -> str:
        done = subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={self.socket}", "-N"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def stop(self) -> None:
        stop(self.process)
