"""The site's nginx with PHP-FPM behind it, where both are installed; the rest is a few lines of this test."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.roles import php, upstream_frontend
from tests.unit.upstream.fleets import content

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or shutil.which("nginx")
FPM = next(iter(sorted(Path("/usr/sbin").glob("php-fpm8*"))), None)
pytestmark = pytest.mark.skipif(NGINX is None or FPM is None, reason="nginx or PHP-FPM is not installed here")

# In the form of the site's own: a location, and rules of the whole server.
REWRITES = """\
location /api/ {
    rewrite ^/api/(.*)$ /api/ApiEntryPoint.php last;
}
rewrite ^/metrics/?$ /metrics.php last;
rewrite ^/arena/?$ /arena/index.php last;
"""
SCRIPT = "<?php echo json_encode([basename(__FILE__), $_SERVER['PATH_INFO'] ?? '', $_SERVER['HTTP_PROXY'] ?? '']);"


class Behind(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = f"{self.server.server_port} {self.path} {self.headers.get('Upgrade', '-')}".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, int]]:
    """(the site's port, the broadcaster's, the grader's)."""
    root = tmp_path_factory.mktemp("site")
    root.chmod(0o755)
    for parent in root.parents[:2]:
        parent.chmod(0o755)
    release = root / "release"
    www = release / "frontend/www"
    for name in ("index.php", "metrics.php", "arena/index.php", "api/ApiEntryPoint.php"):
        (www / name).parent.mkdir(parents=True, exist_ok=True)
        (www / name).write_text(SCRIPT)
    (www / "grader").mkdir()
    (www / "grader/ide.html").write_text("the web IDE")
    (www / ".git").mkdir()
    (www / ".git/config").write_text("x")
    (root / "current").symlink_to("release")
    (root / "rewrites").write_text(REWRITES)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Behind) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    events, grader = (server.server_port for server in servers)
    port, sock = free(), root / "fpm.sock"
    assert NGINX is not None
    shipped = Path(NGINX).resolve().parents[2] / "etc/nginx"
    text = content("web1", "/etc/nginx/nginx.conf")
    for old, new in (
        ("user www-data;", "user root;"),
        ("/run/nginx.pid", f"{root}/nginx.pid"),
        ("/var/log/nginx", str(root)),
        (upstream_frontend.REWRITES, f"{root}/rewrites"),
        ("/opt/omegaup/frontend/www", f"{root}/current/frontend/www"),
        ("/etc/nginx/", f"{shipped}/"),
        ("broadcaster:22291", f"127.0.0.1:{events}"),
        ("grader:36663", f"127.0.0.1:{grader}"),
        ("listen 80 ", f"listen {port} "),
        (f"unix:{php.SOCKET}", f"unix:{sock}"),
    ):
        assert old in text
        text = text.replace(old, new)
    # Its working folders are built into it, and are not the test's.
    bodies = "".join(f"{one}_temp_path {root}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (root / "nginx.conf").write_text(text.replace("http {", f"http {{ {bodies}", 1))
    (root / "fpm.conf").write_text(
        f"[global]\nerror_log={root}/fpm.log\n[www]\nuser=root\ngroup=root\nlisten={sock}\npm=static\npm.max_children=1\n"
    )
    checked = subprocess.run([NGINX, "-t", "-c", f"{root}/nginx.conf"], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    running = [
        subprocess.Popen([str(FPM), "-R", "-F", "-n", "-y", f"{root}/fpm.conf"], stderr=subprocess.DEVNULL),
        subprocess.Popen([NGINX, "-c", f"{root}/nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL),
    ]
    for _ in range(100):
        if sock.exists() and (root / "nginx.pid").exists():
            break
        time.sleep(0.1)
    yield port, events, grader
    for process in running:
        process.terminate()
        process.wait(20)
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port: int, path: str, *options: str, source: str = "127.0.0.2") -> tuple[int, str]:
    """(code, body), from an address that is not the host's own unless it is said."""
    done = subprocess.run(
        ["curl", "-s", "--noproxy", "*", "--interface", source, "-w", "\n%{http_code}", *options,
         f"http://127.0.0.1:{port}{path}"],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


def test_pages_and_rewrites(site: tuple[int, int, int]) -> None:
    assert ask(site[0], "/") == (200, '["index.php","",""]')
    assert ask(site[0], "/arena/") == (200, '["index.php","",""]')
    assert ask(site[0], "/api/time/get/") == (200, '["ApiEntryPoint.php","",""]')
    assert ask(site[0], "/index.php/a/b", "-H", "Proxy: evil") == (200, '["index.php","\\/a\\/b",""]')
    assert ask(site[0], "/no-such.php")[0] == 404
    assert ask(site[0], "/.git/config")[0] == 404


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "/metrics.php", "/METRICS.php", "/fleet/fpm", "/fleet/build"]
)
def test_figures_are_for_the_host_itself(site: tuple[int, int, int], path: str) -> None:
    assert ask(site[0], path)[0] in {403, 404}
    if path == "/metrics":
        assert ask(site[0], path, source="127.0.0.1") == (200, '["metrics.php","",""]')
    if path == "/fleet/build":
        assert re.fullmatch(r"[0-9a-f]{16}\n", ask(site[0], path, source="127.0.0.1")[1])


def test_events_go_to_the_broadcaster(site: tuple[int, int, int]) -> None:
    port, events, _ = site
    assert ask(port, "/events/?filter=/contest/x") == (200, f"{events} /?filter=/contest/x -")
    upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
    assert ask(port, "/events/", *upgrade) == (200, f"{events} / websocket")


def test_the_web_ide_goes_to_the_grader(site: tuple[int, int, int]) -> None:
    port, _, grader = site
    assert ask(port, "/grader/ide.html") == (200, "the web IDE")
    assert ask(port, "/grader/ephemeral/run/new/") == (200, f"{grader} /ephemeral/run/new/ -")
