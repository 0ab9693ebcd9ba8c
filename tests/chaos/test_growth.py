"""From everything on one host to three data hosts, to four and back: each an edit of the inventory and an `apply`.

Somebody writes all the while; nothing that was acknowledged is missing at any stage, and the newcomers have it too.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

import lab
from deploy.converge import inventory
from deploy.model.catalog import SERVICES
from deploy.roles.redis_cli import client
from lab import LabSpec, inside
from tests.chaos import load as writers
from tests.chaos import results
from tests.chaos.failover import eventually, taken_out, the_fleet
from tests.chaos.load import QUEUE, TABLE
from tests.chaos.support import ROOT, fleet

FIRST, SECOND, THIRD, FOURTH = "all1", "data2", "data3", "data4"
ALERTS = f"http://127.0.0.1:{SERVICES['monitoring'].port('prometheus').number}/api/v1/alerts"
WORKER = "omegaup-worker@analytics.service"
WAIVED = f"""
waivers.append({{"what": "unit:{WORKER}", "why": "stopped while somebody writes messages that it can only put aside"}})
"""


class Growing:
    """A copy of the `single` inventory, in whose lab more and more hosts are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "single"
        shutil.copytree(inventory.folder("single"), self.folder, ignore=shutil.ignore_patterns("secrets.*", "pki"))
        self._original = (self.folder / "inventory.py").read_text()
        text = (self.folder / "lab.toml").read_text()
        more = "".join(f'{name} = "10.78.0.{n}"\n' for n, name in enumerate((SECOND, THIRD, FOURTH), 12))
        (self.folder / "lab.toml").write_text(text + more)
        self.spec = LabSpec.load(self.folder)
        self.taken: set[str] = set()
        self.written: dict[str, set[str]] = {"sessions": set(), "messages": set(), "rows": set()}

    def members(self, *names: str) -> None:
        """Edit the inventory: these hosts have the data; the application stays where it is."""
        own = f"redis = rabbitmq = mysql = {list(names)!r}"
        sentinels = f"sentinel = {list(names[:3])!r}" if len(names) > 1 else ""
        hosts = f"ADDRESSES = {self._addresses(names)!r}"
        text = self._original.replace('redis = rabbitmq = mysql = ["all1"]', f"{own}\n{sentinels}")
        assert text != self._original or names == (FIRST,)
        lines = [hosts if line.startswith("ADDRESSES") else line for line in text.splitlines()]
        (self.folder / "inventory.py").write_text("\n".join(lines) + "\n")

    def _addresses(self, names: tuple[str, ...]) -> dict[str, str]:
        return {name: self.spec.address(name) for name in names}

    def fleet(self, *words: str, code: int = 0) -> str:
        done = fleet(*words, inventory=self.folder, timeout=900)
        said = done.stdout + done.stderr
        assert done.returncode == code, said[-4000:]
        return said

    def on(self, host: str, script: str) -> str:
        done = lab.exec_(self.spec, host, ["sh", "-euc", script], timeout=120)
        assert done.returncode == 0, f"{host}: {script!r}: {done.stdout[-500:]}{done.stderr[-500:]}"
        return str(done.stdout)

    def sql(self, host: str, statement: str) -> list[str]:
        return self.on(host, f"mariadb -NB omegaup -e {shlex.quote(statement)}").splitlines()

    def redis(self, host: str, *words: str) -> list[str]:
        return self.on(host, f"{client(the_fleet().hosts[0], 'sessions')} {' '.join(words)}").splitlines()

    def sentinel(self, host: str, *words: str) -> str:
        return self.on(host, f"{client(the_fleet().hosts[0], 'sentinel')} SENTINEL {' '.join(words)}")

    def worker_stops(self) -> None:
        """Nobody takes what is written from now on, and no apply starts who would."""
        if WAIVED not in (text := self._settings.read_text()):
            self._settings.write_text(text + WAIVED)
        self.on(FIRST, f"systemctl stop {WORKER}")

    @contextmanager
    def without_worker(self) -> Iterator[None]:
        """It is away while the block runs, and afterwards nobody is alarmed: three starts are no alarm."""
        self.worker_stops()
        try:
            yield
        finally:
            self._settings.write_text(self._settings.read_text().replace(WAIVED, ""))
            self.on(FIRST, f"systemctl start {WORKER}")
        with suppress(AssertionError):
            eventually("nobody is alarmed", lambda: not self._firing(), 180)
        assert not self._firing()

    @property
    def _settings(self) -> Path:
        return self.folder / "group_data/all.py"

    def _firing(self) -> list[str]:
        alerts = json.loads(self.on(FIRST, f"curl -sf -m 10 --noproxy '*' {ALERTS}"))["data"]["alerts"]
        firing = [one for one in alerts if one["state"] == "firing" and one["labels"]["alertname"] != "Watchdog"]
        return [f"{one['labels']['alertname']}: {one['annotations']['summary']}" for one in firing]

    @contextmanager
    def writing(self, stage: str) -> Iterator[None]:
        """Writers on the first host, through its own proxy, while the block runs."""
        pid = inside.pid(self.spec, FIRST)
        assert pid is not None
        secret = inventory.open_keys(self.folder).secret
        with writers.load(pid, secret, stage, tuple(self.written)) as running:
            yield
        for kind, ledger in running.end().items():
            results.note(f"growing, {stage}: {kind}", seconds_without_writes=ledger.gap())
            self.written[kind] |= ledger.ids()

    def standing(self) -> dict[str, list[tuple[str, str]]]:
        """Cluster -> (host, role), as `fleet status` shows them; all well."""
        seen = json.loads(self.fleet("status", "--wait", "60", "--json"))["members"]
        assert all(one["well"] for one in seen), seen
        found: dict[str, list[tuple[str, str]]] = {}
        for one in seen:
            found.setdefault(one["cluster"], []).append((one["host"], one["role"]))
        return found

    def all_there(self, *members: str) -> None:
        """On every member: rows, sessions and a copy of each queue."""
        rows = self.written["rows"]
        for host in members:
            eventually(f"rows on {host}", partial(self._has_rows, host, rows), 30)
            eventually(f"sessions on {host}", partial(self._has_sessions, host), 30)
        self.taken |= set(taken_out(partial(self.on, FIRST), QUEUE))
        assert self.written["messages"] <= self.taken

    def _has_sessions(self, host: str) -> bool:
        found = set(self.redis(host, "--scan", "--pattern", "'session:*'"))
        return {f"session:{name}" for name in self.written["sessions"]} <= found

    def _has_rows(self, host: str, rows: set[str]) -> bool:
        return rows <= set(self.sql(host, f"SELECT id FROM {TABLE}"))


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Growing]:
    fresh = Growing(tmp_path_factory.mktemp("growth"))
    lab.down(fresh.spec)
    yield fresh
    lab.down(fresh.spec)


@pytest.mark.thorough
def test_everything_on_one_host(growing: Growing) -> None:
    """The other inventory as it is, from nothing, by a newcomer's command."""
    growing.members(FIRST)
    done = subprocess.run(
        [str(ROOT / "scripts/up"), str(growing.folder)], cwd=ROOT, text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "checks are well" in done.stdout
    assert "UNWELL" not in done.stdout
    growing.fleet("plan")
    growing.fleet("verify")
    growing.sql(FIRST, f"CREATE TABLE {TABLE} (n INT AUTO_INCREMENT PRIMARY KEY, id VARCHAR(80))")
    growing.worker_stops()
    with growing.writing("alone"):
        time.sleep(3)
    growing.all_there(FIRST)


STAGES = {
    "three data hosts": (FIRST, SECOND, THIRD),
    "four data hosts": (FIRST, SECOND, THIRD, FOURTH),
    "three again": (FIRST, SECOND, THIRD),
}


@pytest.mark.thorough
@pytest.mark.parametrize("stage", STAGES)
def test_to(growing: Growing, stage: str) -> None:
    names = STAGES[stage]
    growing.members(*names)
    with growing.without_worker():
        with growing.writing(stage.replace(" ", "-")):
            growing.fleet("apply")
        growing.all_there(*names)
    growing.fleet("plan")
    standing = growing.standing()
    for cluster in ("redis-cache", "redis-sessions", "rabbitmq", "mysql"):
        assert [host for host, _ in standing[cluster]] == list(names), cluster
        # Whoever led goes on leading.
        assert (FIRST, "primary") in standing[cluster] or cluster == "rabbitmq"
    growing.fleet("verify")


@pytest.mark.thorough
def test_who_left_has_no_part_in_it_any_more(growing: Growing) -> None:
    """Its services still run, as nobody stopped them: nobody listens to it, and it leads nothing."""
    assert growing.redis(FIRST, "INFO", "replication").count("connected_slaves:2") == 1
    for host in STAGES["three again"]:
        for instance in ("cache", "sessions"):
            said = growing.sentinel(host, "REPLICAS", instance)
            assert growing.spec.address(FOURTH) not in said
    assert FOURTH not in growing.on(FIRST, "rabbitmqctl -q list_queues members --no-table-headers")
    assert FOURTH not in growing.on(FIRST, "rabbitmqctl -q cluster_status --formatter json")
    assert growing.spec.address(FOURTH) not in growing.on(FIRST, "mariadb -NB -e 'SHOW PROCESSLIST'")
