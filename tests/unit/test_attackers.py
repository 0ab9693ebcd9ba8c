"""The attackers of the chaos suites, against a server of this test: what they say came of it is what came of it."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests import attacks
from tests.chaos import attackers


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield "127.0.0.1", server.server_port
    server.shutdown()
    server.server_close()


def closed() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return "127.0.0.1", int(probe.getsockname()[1])


def test_knocking(place: tuple[str, int]) -> None:
    assert attackers.knocked([], [place, closed()]) == {place}


def test_what_is_sent_is_answered(place: tuple[str, int]) -> None:
    requests = {
        "one": attacks.request("GET / HTTP/1.1", "Connection: close"),
        "two": attacks.request("GET / HTTP/1.1") + attacks.INNER,
        "none": b"",
    }
    answers = attackers.sent([], place, requests, patience=0.5)
    assert {name: attackers.codes(answer) for name, answer in answers.items()} == {
        "one": [200],
        "two": [200, 200],
        "none": [],
    }
    assert attackers.sent([], closed(), {"x": b"x"}, patience=0.5) == {"x": b""}


def test_noise_reaches_who_listens(place: tuple[str, int]) -> None:
    assert attackers.noisy([], [place, closed()], seed=1, count=20) == {place}


def test_connections_are_held(place: tuple[str, int]) -> None:
    with attackers.holding([], place, 300, say=b"GET / HTTP/1.1\r\nX: " + b"a" * 50, drip=0.5) as held:
        time.sleep(2)
        assert attackers.knocked([], [place]) == {place}
    assert held.counts["opened"] >= 300
    assert held.counts["ended"] == 0
    with attackers.holding([], closed(), 3) as held:
        time.sleep(1)
    assert held.counts["opened"] == 0
    assert held.counts["refused"] >= 3
