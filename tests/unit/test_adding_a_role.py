"""docs/adding-a-role.md, done: its blocks applied to a copy of the project, and what follows from them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import json
from deploy.converge import desired
from deploy.converge.health import endpoint
from deploy.converge.inventory import load
from deploy.model.fleet import Live
from pathlib import Path
fleet = load(Path("inventories/lab").resolve())[1]
def state(name):
    ctx = desired.context(fleet, fleet.host(name), Live.first_boot(fleet), "CA", lambda secret: secret)
    return {item.key: getattr(item, "content", "") for item in desired.host_state(ctx).resources}
host = fleet.host("mon1")
service = next(service for service in host.services if service.name == "notice")
print(json.dumps({"mon1": state("mon1"), "web1": state("web1"),
                  "health": endpoint(host, service, service.health[0])}))
"""


def test_what_the_page_says_works(tmp_path: Path) -> None:
    for part in ("deploy", "templates", "inventories", "files", "lab"):
        shutil.copytree(
            ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "pki", "secrets.age", ".lock")
        )
    page = (ROOT / "docs/adding-a-role.md").read_text()
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", page, flags=re.S)
    assert [path for path, _ in blocks] == [
        "deploy/model/catalog.py",
        "deploy/roles/notice.py",
        "templates/notice/notice.service.j2",
        "inventories/lab/inventory.py",
    ]
    for path, text in blocks:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        if path.endswith("catalog.py"):
            marker = '    Service(\n        "monitoring",'
            assert marker in file.read_text()
            file.write_text(file.read_text().replace(marker, text + marker))
        elif path.endswith("inventory.py"):
            file.write_text(file.read_text() + text)
        else:
            file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=tmp_path, text=True, capture_output=True, check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "unit:notice.service" in seen["mon1"]
    assert "8081" in seen["mon1"]["file:/etc/systemd/system/notice.service"]
    assert "unit:notice.service" not in seen["web1"]
    assert "notice" in seen["web1"]["file:/etc/hosts"]
    assert seen["health"] == "http://mon1:8081/"
