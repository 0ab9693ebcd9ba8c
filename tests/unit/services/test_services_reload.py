"""A certificate is replaced under a running service: new handshakes see it, nobody is disconnected, nobody refused."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from omegaup_services.config import Tls
from omegaup_services.gitserver import Gitserver

from tests.unit.services.support import (
    Authority,
    Client,
    context,
    environment,
    free_port,
    gitserver_config,
    running,
    serial_of,
)


def served_serial(port: int, tls: ssl.SSLContext) -> str:
    """Of the certificate that a new handshake sees."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        tls.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])


def request(connection: ssl.SSLSocket) -> int:
    """GET /health on a connection that is kept open; the status."""
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while b'"checks"' not in answer:
        piece = connection.recv(65536)
        assert piece, "the connection was closed"
        answer += piece
    return int(answer.split()[1])


@dataclass
class Daemon:
    """A service as systemd would start it, with the notification socket it talks to."""

    process: subprocess.Popen[str]
    notifications: socket.socket
    port: int
    pair: Tls

    def heard(self, word: str, seconds: float = 10.0) -> list[str]:
        """Read notifications up to one that has `word`."""
        self.notifications.settimeout(seconds)
        lines: list[str] = []
        while word not in lines:
            lines += self.notifications.recv(4096).decode().splitlines()
        return lines


@pytest.fixture
def daemon(ca: Authority, tmp_path: Path) -> Iterator[Daemon]:
    pair, port = ca.issue("gitserver"), free_port()
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "tls": {"certificate": str(pair.certificate), "key": str(pair.key), "ca": str(pair.ca)},
        "root": str(tmp_path),
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notifications.bind(str(tmp_path / "notify"))
    process = subprocess.Popen(
        [sys.executable, "-c", "from omegaup_services.gitserver import main; main()", "--config", str(file)],
        env=environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000"),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Daemon(process, notifications, port, pair)
    finally:
        process.kill()
        process.communicate()
        notifications.close()


def test_hangup_serves_the_new_certificate_and_keeps_old_connections(ca: Authority, daemon: Daemon) -> None:
    daemon.heard("READY=1")
    tls = context(ca.path, ca.issue("monitoring"))
    first = serial_of(daemon.pair)
    assert served_serial(daemon.port, tls) == first
    raw = socket.create_connection(("127.0.0.1", daemon.port), timeout=5)
    with tls.wrap_socket(raw, server_hostname="localhost") as kept:
        assert request(kept) == 200
        second = serial_of(ca.issue("gitserver"))
        daemon.process.send_signal(signal.SIGHUP)
        assert "RELOADING=1" in daemon.heard("READY=1")
        assert served_serial(daemon.port, tls) == second != first
        assert request(kept) == 200, "a connection made before the reload did not survive it"
    daemon.heard("WATCHDOG=1")


def test_hangup_with_a_bad_pair_goes_on_with_the_old_one(ca: Authority, daemon: Daemon) -> None:
    daemon.heard("READY=1")
    tls = context(ca.path, ca.issue("monitoring"))
    first = serial_of(daemon.pair)
    ca.issue("gitserver", expired=True)
    daemon.process.send_signal(signal.SIGHUP)
    lines = daemon.heard("READY=1")
    assert any("reload refused" in line for line in lines)
    assert served_serial(daemon.port, tls) == first


def test_terminate_stops_cleanly(daemon: Daemon) -> None:
    daemon.heard("READY=1")
    daemon.process.send_signal(signal.SIGTERM)
    assert "STOPPING=1" in daemon.heard("STOPPING=1")
    _, log = daemon.process.communicate(timeout=10)
    assert daemon.process.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["message"] for event in events] == ["ready", "stopping", "stopped"]


def test_no_connection_is_refused_while_reloading(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with running(Gitserver(gitserver_config(ca, tmp_path))) as service:
            client = Client(service.ports[0], context(ca.path, ca.issue("monitoring")))
            asked = reloads = 0

            def enough() -> bool:
                return asked > 40 and reloads > 10

            async def ask() -> None:
                nonlocal asked
                while not enough():
                    assert (await client.get("/health"))[0] == 200
                    asked += 1

            async def reload() -> None:
                nonlocal reloads
                while not enough():
                    reloads += await service.reload()
                    await asyncio.sleep(0.02)

            await asyncio.wait_for(asyncio.gather(ask(), ask(), reload()), 60)

    asyncio.run(go())


def test_a_root_that_is_gone_is_no_longer_trusted(ca: Authority, tmp_path: Path) -> None:
    """Also not by resuming a session: a client that offers its old ticket has to authenticate anew."""
    old_root = ca.path.read_bytes()
    other = Authority(tmp_path / "other", "next root")
    both = tmp_path / "both.pem"
    both.write_bytes(old_root + other.path.read_bytes())
    old_client = context(both, ca.issue("monitoring"))
    new_client = context(both, other.issue("monitoring"))

    async def go() -> None:
        ca.path.write_bytes(both.read_bytes())
        async with running(Gitserver(gitserver_config(ca, tmp_path))) as service:
            port = service.ports[0]
            assert (await Client(port, old_client).get("/health"))[0] == 200
            assert (await Client(port, new_client).get("/health"))[0] == 200
            pair = other.issue("gitserver")
            (ca.folder / "gitserver.pem").write_bytes(pair.certificate.read_bytes())
            (ca.folder / "gitserver.key").write_bytes(pair.key.read_bytes())
            ca.path.write_bytes(other.path.read_bytes())
            assert await service.reload()
            assert (await Client(port, new_client).get("/health"))[0] == 200
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await Client(port, old_client).get("/health")

    asyncio.run(go())
