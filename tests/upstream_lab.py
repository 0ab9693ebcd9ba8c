"""The upstream profile on a lab of its own, with stand-ins for the real programs alone.

    .venv/bin/python -m tests.upstream_lab FOLDER

writes an inventory into FOLDER: a lab, and releases whose programs are a few lines of Python each. They read
the configuration that is rendered for the real ones, listen on its ports (with the certificate bundles, where the real
ones do) and tell systemd when they are ready. MySQL has no stand-in: its host is in the inventory, but there is none in
the lab; leave it out with --limit (docs/upstream.md has the commands).
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from deploy.converge.desired import ROOT

HOSTS = {"data1": 11, "data2": 12, "data3": 13, "web1": 21, "web2": 22, "app1": 31, "mon1": 51}
NETWORK = "10.76.0"
LIMIT = ",".join(HOSTS)
"""All but the host of MySQL, which is not there."""
TOML = f"""\
bridge = "lab76"
network = "{NETWORK}.0/24"
suite = "bookworm"

[hosts]
""" + "".join(f'{name} = "{NETWORK}.{number}"\n' for name, number in HOSTS.items())

PROGRAM = '''\
#!/usr/bin/python3
"""A stand-in for %s: listens where its configuration says, and answers 200 to everything."""
import json, os, socket, ssl, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

config = json.load(open(sys.argv[sys.argv.index("-config") + 1]))


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        text = b'build_info{version="stand-in"} 1\\n' if self.path.startswith("/metrics") else b"{}\\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def listen(port, tls=None):
    server = ThreadingHTTPServer(("0.0.0.0", port), Answer)
    if tls:
        # One file is what is shown and what others are judged by.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls["CertFile"], tls["KeyFile"])
        context.load_verify_locations(tls["CertFile"])
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever).start()


%s
if "Metrics" in config:
    listen(config["Metrics"]["Port"])
notify = os.environ.get("NOTIFY_SOCKET")
if notify:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.connect(notify.replace("@", "\\0", 1))
        to.send(b"READY=1")
'''
LISTENS = {
    "omegaup-grader": (
        'listen(config["Grader"]["Port"], config["TLS"])\nlisten(config["Grader"]["V1"]["Port"], config["TLS"])\n'
        'listen(config["Grader"]["Ephemeral"]["Port"])\nopen("benchmark.txt", "a").close()'
    ),
    "omegaup-broadcaster": (
        'own = config["Broadcaster"]\nlisten(own["Port"], own["TLS"])\nlisten(own["EventsPort"])'
    ),
    "omegaup-gitserver": 'listen(config["Gitserver"]["Port"])\nos.listdir(config["Gitserver"]["RootPath"])',
    # Its pair has to be one, though it serves nobody with it.
    "omegaup-runner": 'ssl.create_default_context(cafile=config["TLS"]["CertFile"]).load_cert_chain('
    'config["TLS"]["CertFile"], config["TLS"]["KeyFile"])',
}  # fmt: skip

SITE = {
    "frontend/server/bootstrap.php": (
        "<?php\nrequire __DIR__ . '/config.php';\n"
        "foreach (['certificate', 'key'] as $name) {\n"
        '    is_readable("/etc/omegaup/frontend/$name.pem") || http_response_code(500);\n}\n'
    ),
    "frontend/server/nginx.rewrites": (
        "location /api/ {\n    rewrite ^/api/(.*)$ /api/ApiEntryPoint.php last;\n}\n"
        "rewrite ^/metrics/?$ /metrics.php last;\n"
    ),
    "frontend/www/index.php": "<?php require __DIR__ . '/../server/bootstrap.php'; echo 'omegaUp, a stand-in';\n",
    "frontend/www/metrics.php": '<?php echo "frontend_api_request_total{api=\\"stand-in\\"} 1\\n";\n',
    "frontend/www/api/ApiEntryPoint.php": (
        "<?php require __DIR__ . '/../../server/bootstrap.php'; echo json_encode(['status' => 'ok', "
        "'url' => OMEGAUP_URL]);\n"
    ),
    "frontend/database/00001_initial.sql": "SELECT 1;\n",
    "stuff/db-migrate.py": "raise SystemExit('a stand-in')\n",
    "stuff/pipelines/client_contest.py": "import signal\nimport pika\nsignal.pause()\n",
    **{f"stuff/cron/{name}.py": "" for name in ("update_ranks", "assign_badges", "aggregate_feedback")},
}


def archive(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), 0o755
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def programs(*names: str, note: str = "") -> bytes:
    return archive({f"usr/bin/{name}": PROGRAM % (f"{name} {note}", LISTENS[name]) for name in names})


def releases(version: str) -> dict[str, tuple[str, bytes]]:
    """Setting -> (name of the file, its content). version: of the gitserver's."""
    return {
        "backend": ("backend.tar.xz", programs("omegaup-grader", "omegaup-broadcaster")),
        "runner": ("runner.tar.xz", programs("omegaup-runner")),
        "gitserver": ("gitserver.tar.xz", programs("omegaup-gitserver", note=version)),
        "frontend": ("frontend.tar.xz", archive(SITE)),
        "python": ("python.tar.xz", archive({"pika/__init__.py": ""})),
        "libinteractive": ("libinteractive.jar", b"a stand-in"),
    }


INVENTORY = '''\
"""Written by tests/upstream_lab.py: the upstream profile on a lab of its own."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAB = Path(os.environ.get("FLEET_LAB_STATE", "/var/lib/fleet-lab")) / HERE.name

all = (
    [(name, {{"ssh_hostname": address}}) for name, address in {addresses!r}.items()],
    {{
        "inventory": str(HERE),
        "ssh_user": "root",
        "ssh_key": str(LAB / "ssh/id_ed25519"),
        "ssh_known_hosts_file": str(LAB / "ssh/known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    }},
)

redis = sentinel = rabbitmq = ["data1", "data2", "data3"]
mysql = ["db1"]
gitserver = broadcaster = grader = worker = runner = ["app1"]
frontend = ["web1", "web2"]
monitoring = ["mon1"]
'''


def write(folder: Path, version: str = "1") -> None:
    """The inventory and its releases; what is there of them already is written anew. version: of the gitserver."""
    (folder / "releases").mkdir(parents=True, exist_ok=True)
    (folder / "group_data").mkdir(exist_ok=True)
    settings: dict[str, object] = {"url": "http://judge.example"}
    for name, (file, data) in releases(version).items():
        (folder / "releases" / file).write_bytes(data)
        settings[name] = {"source": f"releases/{file}", "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "lab.toml").write_text(TOML)
    # Nobody is at the last one: see above.
    addresses = {name: f"{NETWORK}.{number}" for name, number in (HOSTS | {"db1": 15}).items()}
    (folder / "inventory.py").write_text(INVENTORY.format(addresses=addresses))
    lab = (ROOT / "inventories/lab/group_data/all.py").read_text()
    (folder / "group_data/all.py").write_text(
        # Its hosts are others than the lab's.
        f"{lab}\ntrust = {{}}\nprofile = 'upstream'\nupstream = {settings!r}\n"
        "redis = {**redis, 'maxmemory_policy': 'volatile-lru'}\nrunner = {'judge': 'noop'}\n"
    )
    (folder / "identity").write_text((ROOT / "inventories/lab/identity").read_text())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {__spec__.name if __spec__ else 'tests.upstream_lab'} FOLDER")
    write(Path(sys.argv[1]))
    print(f"fleet lab up {sys.argv[1]}; fleet secrets init {sys.argv[1]}; fleet apply {sys.argv[1]} --limit {LIMIT}")
