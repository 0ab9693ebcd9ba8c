"""A certificate authority, configurations and clients for tests: real files, real handshakes over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from omegaup_services.config import (
    Backoff,
    Broadcaster,
    BroadcasterConfig,
    Events,
    Gitserver,
    GitserverConfig,
    GraderConfig,
    GraderLink,
    Listen,
    Mysql,
    Queue,
    RunnerConfig,
    Tls,
)
from omegaup_services.schema import Secret
from omegaup_services.service import Service

SERVICES = Path(__file__).resolve().parents[3] / "files" / "services"
DAY = dt.timedelta(days=1)
LOOPBACK = Listen(host="127.0.0.1", port=0)
MYSQL = Mysql(host="127.0.0.1", port=1, user="grader", password=Secret("not-used"))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """A root that issues EC certificates for 127.0.0.1 and localhost into its folder."""

    def __init__(self, folder: Path, name: str = "test root") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, role: str | None, file: str = "", *, expired: bool = False) -> Tls:
        """A pair whose OU is `role`, written to FILE.pem and FILE.key (replacing what was there)."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        names = [x509.NameAttribute(NameOID.COMMON_NAME, f"{role or 'nobody'}-1")]
        if role is not None:
            names.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role))
        alternatives: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now - DAY if expired else now + DAY)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        stem = file or role or "nobody"
        pair = Tls(certificate=self.folder / f"{stem}.pem", key=self.folder / f"{stem}.key", ca=self.path)
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(_pem(key))
        return pair

    def revoke(self, *pairs: Tls) -> Path:
        """A revocation list with the certificates of `pairs`."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder()
        builder = builder.issuer_name(self._name).last_update(now - DAY).next_update(now + DAY)
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        path = self.folder / "crl.pem"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def serial_of(pair: Tls) -> str:
    """As OpenSSL shows it: upper-case hex of whole bytes."""
    number = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex().upper()


def context(trusted: Path, pair: Tls | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(trusted))
    if pair is not None:
        made.load_cert_chain(str(pair.certificate), str(pair.key))
    return made


class Client:
    """Calls one port as the holder of one certificate."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self.base = f"https://127.0.0.1:{port}"
        self._tls = tls

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON (or text). On a connection of its own."""
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, self.base + path, ssl=self._tls, **options) as response,
        ):
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: object, **options: Any) -> tuple[int, Any]:
        return await self.call("POST", path, json=body, **options)

    async def put(self, path: str, body: object) -> tuple[int, Any]:
        return await self.call("PUT", path, json=body)


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    await service.start()
    try:
        yield service
    finally:
        if not service.stopping.is_set():  # a test may have stopped it
            await service.stop()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that will happen soon. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def environment(**more: str) -> dict[str, str]:
    """For a service in a process of its own."""
    path = [str(SERVICES), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **more}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def grader_config(ca: Authority, gitserver: int, broadcaster: int, **queue: float) -> GraderConfig:
    return GraderConfig(
        listen=LOOPBACK,
        runners_listen=LOOPBACK,
        tls=ca.issue("grader"),
        mysql=MYSQL,
        gitserver=Gitserver(url=f"https://127.0.0.1:{gitserver}", cache_seconds=0.0),
        broadcaster=Broadcaster(url=f"https://127.0.0.1:{broadcaster}"),
        queue=Queue(**{"poll_seconds": 2.0, **queue}),  # type: ignore[arg-type]
        shutdown_seconds=1.0,
    )


def gitserver_config(ca: Authority, root: Path) -> GitserverConfig:
    return GitserverConfig(listen=LOOPBACK, tls=ca.issue("gitserver"), root=root, shutdown_seconds=1.0)


def broadcaster_config(ca: Authority, **options: Any) -> BroadcasterConfig:
    options = {"events": Events(ping_seconds=0.2), **options}
    return BroadcasterConfig(listen=LOOPBACK, tls=ca.issue("broadcaster"), shutdown_seconds=1.0, **options)


def runner_config(ca: Authority, grader: int, **options: Any) -> RunnerConfig:
    return RunnerConfig(
        listen=LOOPBACK,
        tls=ca.issue("runner"),
        grader=GraderLink(url=f"https://127.0.0.1:{grader}", timeout_seconds=2.0),
        backoff=Backoff(initial_seconds=0.02, max_seconds=0.1),
        shutdown_seconds=1.0,
        **{"name": "runner-1", **options},
    )
