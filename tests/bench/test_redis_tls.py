"""What TLS costs Redis: the same commands at the same server, without and with it, and what a new connection takes."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.roles.common import CIPHERS
from deploy.roles.redis_listeners import PROTOCOLS
from tests.unit.roles.test_redis_transport import free, issue

REQUESTS, CLIENTS, CONNECTIONS, TRIES = 100_000, 50, 200, 3
SLOWER = 5.0
"""Times at most that commands may take with TLS."""

pytestmark = pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="no redis-benchmark here")


@dataclass(frozen=True)
class Server:
    folder: Path
    plain: int
    secure: int

    @property
    def tls(self) -> list[str]:
        return ["--tls", "--cacert", f"{self.folder}/ca.crt", "--cert", f"{self.folder}/redis.crt", "--key",
                f"{self.folder}/redis.key"]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("redis")
    issue(folder, "redis", "rsa:2048")
    made = Server(folder, free(), free())
    process = subprocess.Popen(
        ["redis-server", "--bind", "127.0.0.1", "--port", str(made.plain), "--tls-port", str(made.secure),
         "--tls-cert-file", f"{folder}/redis.crt", "--tls-key-file", f"{folder}/redis.key", "--tls-ca-cert-file",
         f"{folder}/ca.crt", "--tls-protocols", PROTOCOLS, "--tls-ciphers", CIPHERS, "--save", "", "--dir",
         str(folder)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", made.secure)):
                    break
            time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        process.wait()


def rates(port: int, *more: str) -> dict[str, float]:
    """Command -> how many of them a second, at the best of some tries: others use this machine as well."""
    words = ["-t", "get,set", "-n", str(REQUESTS), "-c", str(CLIENTS), "-d", "512", "--csv"]
    best: dict[str, float] = {}
    for _ in range(TRIES):
        done = subprocess.run(
            ["redis-benchmark", "-p", str(port), *words, *more], text=True, capture_output=True, check=True
        )
        for name, rate in re.findall(r'^"(SET|GET)","([\d.]+)"', done.stdout, flags=re.M):
            best[name] = max(best.get(name, 0.0), float(rate))
    return best


def test_commands(server: Server) -> None:
    plain, secure = rates(server.plain), rates(server.secure, *server.tls)
    assert set(plain) == set(secure) == {"SET", "GET"}
    for name in plain:
        ratio = plain[name] / secure[name]
        print(f"\n{name}: {plain[name]:.0f}/s plain, {secure[name]:.0f}/s with TLS: {ratio:.2f} times slower")
        assert ratio < SLOWER


def test_new_connections(server: Server) -> None:
    """As a health check of a proxy makes one, twice a second each: the whole handshake, certificates on both sides."""
    context = ssl.create_default_context(cafile=f"{server.folder}/ca.crt")
    context.load_cert_chain(f"{server.folder}/redis.crt", f"{server.folder}/redis.key")

    def each(port: int, *, tls: bool) -> float:
        begun = time.perf_counter()
        for _ in range(CONNECTIONS):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                if tls:
                    with context.wrap_socket(raw, server_hostname="data1") as client:
                        client.sendall(b"PING\r\n")
                        assert client.recv(64)
                else:
                    raw.sendall(b"PING\r\n")
                    assert raw.recv(64)
        return (time.perf_counter() - begun) / CONNECTIONS

    plain, secure = each(server.plain, tls=False), each(server.secure, tls=True)
    print(f"\na new connection: {plain * 1e3:.2f} ms plain, {secure * 1e3:.2f} ms with TLS")
    assert secure < 0.1
