"""The web server's own defences, on nginx itself where it is installed: what it does not even hand to PHP."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.roles import frontend, nginx, php
from tests import attacks
from tests.unit.frontend.fakes import free_port, stop, wait_for_port
from tests.unit.roles.test_frontend import by_key, content, context

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or shutil.which("nginx")
FPM = next(iter(sorted(Path("/usr/sbin").glob("php-fpm8*"))), None)
pytestmark = pytest.mark.skipif(NGINX is None or FPM is None, reason="nginx or PHP-FPM is not installed here")
OF_ONE = 20
SCRIPT = (
    "<?php echo json_encode([$_SERVER['REQUEST_METHOD'], $_SERVER['REQUEST_URI'], "
    "strlen(file_get_contents('php://input'))]);"
)
ATTACKER, VISITOR = "127.0.0.9", "127.0.0.8"


class Events(BaseHTTPRequestHandler):
    """The broadcaster's place: a stream without an end; says what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f": {self.headers.get('Content-Length')} {self.headers.get('Transfer-Encoding')}\n\n".encode())
        with contextlib.suppress(OSError):
            while self.connection.recv(1):
                pass

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nginx with the rendered configuration, but for addresses and paths, and PHP-FPM behind it."""
    root = tmp_path_factory.mktemp("nginx")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)
    (root / "www").mkdir()
    (root / "www/index.php").write_text(SCRIPT)
    broadcaster = ThreadingHTTPServer(("127.0.0.1", 0), Events)
    threading.Thread(target=broadcaster.serve_forever, daemon=True).start()
    port, fpm = free_port(), root / "fpm.sock"
    wanted = by_key(frontend.desired(context("web1", frontend={"address_requests": OF_ONE})))
    text = content(wanted, nginx.CONFIG)
    for old, new in (
        ("user www-data;", "user root;"), ("/run/nginx.pid", f"{root}/nginx.pid"), ("/var/log/nginx", str(root)),
        (frontend.ROOT, f"{root}/www"), ("listen 80 ", f"listen {port} "), (f"unix:{php.SOCKET}", f"unix:{fpm}"),
        ("https://broadcaster:32672", f"http://127.0.0.1:{broadcaster.server_port}"),
        ("worker_processes auto", "worker_processes 1"),
        ("client_header_timeout 10s", "client_header_timeout 1s"),
        ("client_body_timeout 15s", "client_body_timeout 1s"),
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    text = "\n".join(line for line in text.splitlines() if "proxy_ssl_" not in line)
    # Its working folders are built into it, and are not the test's.
    bodies = "".join(f"{one}_temp_path {root}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (root / "nginx.conf").write_text(text.replace("http {", f"http {{ {bodies}", 1))
    (root / "fpm.conf").write_text(
        f"[global]\nerror_log={root}/fpm.log\n[www]\nuser=root\ngroup=root\nlisten={fpm}\npm=static\npm.max_children=2\n"
    )
    assert NGINX is not None
    checked = subprocess.run([NGINX, "-t", "-c", f"{root}/nginx.conf"], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    running = [
        subprocess.Popen([str(FPM), "-R", "-F", "-n", "-y", f"{root}/fpm.conf"], stderr=subprocess.DEVNULL),
        subprocess.Popen([NGINX, "-c", f"{root}/nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL),
    ]
    wait_for_port(port, running[1])
    for _ in range(100):
        if fpm.exists():
            break
        time.sleep(0.1)
    yield port
    for process in running:
        stop(process)
    broadcaster.shutdown()
    broadcaster.server_close()


def connected(port: int, source: str) -> socket.socket:
    one = socket.socket()
    one.settimeout(5)
    one.bind((source, 0))
    one.connect(("127.0.0.1", port))
    return one


def sent(port: int, data: bytes, patience: float = 3, source: str = VISITOR) -> bytes:
    """All that comes back until nginx closes, or until the patience (seconds) ends."""
    found = b""
    with connected(port, source) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(data)
        one.settimeout(patience)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := one.recv(65536):
                found += piece
    return found


def codes(answer: bytes) -> list[int]:
    return [int(part[2:5]) for part in answer.split(b"HTTP/1.")[1:] if part[2:5].isdigit()]


def visited(port: int, path: str = "/") -> tuple[list[int], bytes]:
    found = sent(port, attacks.request(f"GET {path} HTTP/1.1", "Connection: close"))
    return codes(found), found.partition(b"\r\n\r\n")[2]


def test_no_request_hides_in_another(site: int) -> None:
    twin = attacks.request("POST / HTTP/1.1", "Content-Length: 0") + attacks.INNER
    assert attacks.SMUGGLED.replace("/", "\\/").encode() in sent(site, twin, 1), "the probe would see one"
    for name, data in attacks.smuggling("POST", "/submit").items():
        found = sent(site, data, 1.5)
        if name not in attacks.LENIENT:
            assert attacks.SMUGGLED.replace("/", "\\/").encode() not in found, (name, found)
            assert len(codes(found)) <= 1, (name, found)


def test_what_is_too_large_is_refused(site: int) -> None:
    for name, data in attacks.oversize_headers("/").items():
        found = codes(sent(site, data))
        assert found in ([400], [414], [431], []), (name, found)
    assert codes(sent(site, attacks.request("POST /submit HTTP/1.1", f"Content-Length: {101 << 20}"))) == [413]
    assert visited(site)[0] == [200]


def test_heads_and_bodies_that_do_not_come_are_not_waited_for(site: int) -> None:
    for data in (b"", b"GET / HTT", attacks.request("POST /submit HTTP/1.1", "Content-Length: 10", body=b"a")):
        begun = time.monotonic()
        assert codes(sent(site, data, 10, ATTACKER)) in ([], [408])
        assert time.monotonic() - begun < 5


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(site: int) -> None:
    """The time is for the whole head, not from one byte to the next."""
    begun = time.monotonic()
    with connected(site, ATTACKER) as one, contextlib.suppress(OSError):
        for byte in attacks.request("GET / HTTP/1.1", "X: " + "a" * 100):
            one.sendall(bytes([byte]))
            time.sleep(0.2)
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                if one.recv(100) == b"":
                    break
            one.settimeout(5)
    assert time.monotonic() - begun < 5


def test_streams_of_one_address_leave_room(site: int) -> None:
    stream = attacks.request("GET /events/?contest=a HTTP/1.1")
    held = []
    try:
        answers = []
        for _ in range(OF_ONE + 5):
            one = connected(site, ATTACKER)
            held.append(one)
            one.sendall(stream)
            answers.append(one.recv(12)[-3:])
        assert answers == [b"200"] * OF_ONE + [b"429"] * 5
        assert visited(site)[0] == [200]
        assert codes(sent(site, stream, 0.5)) == [200]
    finally:
        for one in held:
            one.close()


def test_slow_bodies_of_one_address_leave_room(site: int) -> None:
    held = []
    try:
        for _ in range(OF_ONE):
            one = connected(site, ATTACKER)
            held.append(one)
            one.sendall(attacks.request("POST /submit HTTP/1.1", "Content-Length: 10"))
        time.sleep(0.2)
        assert codes(sent(site, attacks.request("GET / HTTP/1.1", "Connection: close"), 3, ATTACKER)) == [429]
        assert visited(site)[0] == [200]
    finally:
        for one in held:
            one.close()


def test_a_stream_is_asked_for_without_a_body(site: int) -> None:
    request = "GET /events/?contest=a HTTP/1.1"
    for data in (
        attacks.request(request, "Content-Length: 5", body=b"hello"),
        attacks.request(request, "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    ):
        found = sent(site, data, 0.7)
        assert codes(found) == [200]
        assert b": None None" in found, "what the broadcaster was sent"
    assert codes(sent(site, attacks.request(request, "Content-Length: 100000"), 1)) == [413]
    assert codes(sent(site, attacks.request("POST /events/ HTTP/1.1", "Content-Length: 0"), 1)) == [403]


def test_noise(site: int) -> None:
    for data in attacks.noise(seed=11, count=80):
        found = codes(sent(site, data, 0.05, ATTACKER))
        assert all(code in {200, 400, 404, 405, 408, 414, 429, 505} for code in found), (data[:40], found)
    time.sleep(1.5)
    assert visited(site)[0] == [200]
