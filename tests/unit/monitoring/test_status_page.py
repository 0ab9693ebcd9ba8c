"""The status page, the dashboards beside it and the log of alerts, by HTTP, before a Prometheus of paper."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.model.catalog import CATALOG
from deploy.roles import alert_log, base, door
from tests.unit.monitoring.fleets import FLEET, GROUPS, files, fleet

ROOT = Path(__file__).resolve().parents[3]
NOW = time.time()
DAY = 86400

Values = dict[str, list[tuple[dict[str, str], float]]]


def well() -> Values:
    hosts = [host.name for host in FLEET.hosts]
    return {
        "fleet_host_up": [({"host": name}, 1) for name in hosts],
        'probe_success{job="blackbox"}': [({"host": "app1", "check": "Grader"}, 1)],
        "fleet_restart_owed == 1": [],
        "min by (host) (fleet_certificate_days)": [({"host": name}, 200) for name in hosts],
        "bottomk(5, fleet_certificate_days)": [({"host": "app1", "certificate": "grader", "where": "disk"}, 200)],
        "fleet_files_drifted > 0": [],
        "fleet_apply_time_seconds": [({"host": name}, NOW - 7200) for name in hosts],
        "fleet_logs_age_seconds": [({"host": name}, 60) for name in hosts],
        'redis_instance_info{redis="cache",role="master"}': [({"host": "data1"}, 1)],
        'redis_instance_info{redis="sessions",role="master"}': [({"host": "data2"}, 1)],
        "mysql_global_variables_read_only == 0": [({"host": "data3"}, 0)],
        "rabbitmq_identity_info": [({"host": name}, 1) for name in ("data1", "data2", "data3")],
    }


@dataclass
class Paper:
    """A Prometheus: what it answers, and what it was asked."""

    values: Values = field(default_factory=well)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    broken: bool = False

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        if path == "/api/v1/alerts":
            return {"alerts": self.alerts}
        expression = query["query"][0]
        self.asked.append(expression)
        if path == "/api/v1/query":
            result = [{"metric": labels, "value": [NOW, str(value)]} for labels, value in self.values[expression]]
            return {"result": result}
        begin, end, step = (float(query[name][0]) for name in ("start", "end", "step"))
        times = [begin + number * step for number in range(int((end - begin) / step + 1e-6) + 1)]
        points = [[at, "NaN" if number == 1 else str(number)] for number, at in enumerate(times)]
        return {"result": [{"metric": {"host": "<app1>", "redis": "cache"}, "values": points}]}


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def paper(of: Paper) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            data = None if of.broken else of.answer(path, urllib.parse.parse_qs(query))
            body = json.dumps(
                {"status": "success", "data": data} if data else {"status": "error", "error": "no"}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def module(name: str) -> Any:
    sys.path.insert(0, str(ROOT / "files/monitoring"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "files/monitoring"))


@contextmanager
def page(of: Paper, state: Path) -> Iterator[str]:
    """The program with the configuration that the deployment gives it."""
    with paper(of) as prometheus:
        config = json.loads(files(FLEET, "mon1")[alert_log.CONFIG])
        config |= {"prometheus": prometheus, "state": str(state), "listen": {"host": "127.0.0.1", "port": 0}}
        with running(module("alert_log").serve(config)) as url:
            yield url


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str) -> str:
    with OPENER.open(url, timeout=10) as reply:
        return str(reply.read().decode())


def alert(name: str, severity: str, host: str, summary: str) -> dict[str, Any]:
    return {
        "labels": {"alertname": name, "severity": severity, "host": host}, "state": "firing",
        "annotations": {"summary": summary, "runbook": f"docs/alerts.md#{name.lower()}"},
        "activeAt": "2026-01-31T12:00:00Z",
    }  # fmt: skip


def text(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).split())


def test_all_is_well(tmp_path: Path) -> None:
    with page(Paper(alerts=[alert("Watchdog", "none", "", "always")]), tmp_path) as url:
        html = get(url)
    said = text(html)
    assert "All is well" in said
    for host in FLEET.hosts:
        assert f"<span>{host.name}</span>" in html
    for word in ("redis-cache: data1", "mysql: data3", "200 days grader on app1", "1 of 1 checks are well",
                 "applied 2 h ago", "logs came 1 min ago", "System Overview"):  # fmt: skip
        assert word in said, word
    assert "Restarts owed" not in said
    assert "Watchdog" not in said


def test_what_is_unwell_is_on_top(tmp_path: Path) -> None:
    of = Paper(alerts=[alert("DiskLow", "warning", "web1", "web1: 14% is free"),
                       alert("HostDown", "page", "data1", "data1: nothing on it <answers>")])  # fmt: skip
    of.values["fleet_host_up"] = [({"host": "data1"}, 0), ({"host": "web1"}, 1)]
    of.values["fleet_restart_owed == 1"] = [({"host": "data2", "unit": "redis-cache.service"}, 1)]
    of.values["bottomk(5, fleet_certificate_days)"] = [({"host": "app1", "check": "Grader", "where": "served"}, 1.4)]
    of.values["fleet_logs_age_seconds"] = [({"host": "data1"}, NOW)]
    with page(of, tmp_path) as url:
        html = get(url)
    said = text(html)
    assert said.index("1 page, 1 warning") < said.index("HostDown") < said.index("DiskLow") < said.index("Hosts")
    assert "Restarts owed Paid by fleet roll. data2 redis-cache.service" in said
    assert "1 days Grader on app1 served" in said
    assert "no logs" in said
    assert "<answers>" not in html
    assert "data1 silent" in said


def test_without_prometheus_it_says_so_and_keeps_what_was_told(tmp_path: Path) -> None:
    with page(Paper(broken=True), tmp_path) as url:
        said = text(get(url))
        assert "Prometheus does not answer: nothing is known" in said
        assert "Told lately" in said
        panels = text(get(f"{url}/dashboards/cache"))
        assert "cannot be asked" in panels


def test_what_alertmanager_tells_is_kept(tmp_path: Path) -> None:
    body = {"alerts": [{"status": "firing", "labels": {"alertname": "HostDown", "severity": "page"},
                        "annotations": {"summary": "data1: nothing"}, "startsAt": "x"}]}  # fmt: skip
    with page(Paper(), tmp_path) as url:
        OPENER.open(urllib.request.Request(f"{url}/alerts", json.dumps(body).encode()), timeout=10).close()
        assert [one["name"] for one in json.loads(get(f"{url}/alerts"))] == ["HostDown"]
        assert "HostDown: data1: nothing" in text(get(url))
        assert 'fleet_alerts_told_total{status="firing"} 1' in get(f"{url}/metrics")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            OPENER.open(urllib.request.Request(f"{url}/alerts", b"{}"), timeout=10)


def test_each_dashboard_asks_all_its_questions_and_draws_the_answers(tmp_path: Path) -> None:
    config = json.loads(files(FLEET, "mon1")[alert_log.CONFIG])
    of = Paper()
    with page(of, tmp_path) as url:
        for board in config["dashboards"]:
            of.asked.clear()
            html = get(f"{url}/dashboards/{board['name']}?hours=6")
            assert of.asked == [query["expression"] for panel in board["panels"] for query in panel["queries"]]
            assert html.count("<svg") == sum(not panel["number"] for panel in board["panels"])
            assert html.count('class="big"') == sum(panel["number"] for panel in board["panels"])
            assert "<app1>" not in html
            assert "nan" not in "".join(re.findall(r'points="([^"]*)"', html)).lower()


def test_what_is_no_dashboard(tmp_path: Path) -> None:
    with page(Paper(), tmp_path) as url:
        for path in ("/dashboards/", "/dashboards/../x", "/x"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(url + path)
        assert "<svg" in get(f"{url}/dashboards/cache?hours=999999"), "another span of time is the usual one"


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(0.5, "percentunit", "50 %"), (2048, "bytes", "2 KiB"), (0.0021, "s", "2.1 ms"), (7200, "dtdurations", "2 h"),
     (3, "short", "3"), (1.234, "ops", "1.23/s"), (12.34, "d", "12.3 d"), (float("nan"), "s", "?")],
)  # fmt: skip
def test_values_as_people_read_them(value: float, unit: str, said: str) -> None:
    assert module("boards").shown(value, unit) == said


def test_the_program_starts_as_the_unit_starts_it(tmp_path: Path) -> None:
    """A folder, isolated from everything that the machine's Python may have."""
    rendered = files(FLEET, "mon1")
    program = tmp_path / "program"
    program.mkdir()
    for path, content in rendered.items():
        if path.startswith(f"{alert_log.PROGRAM}/"):
            (program / Path(path).name).write_text(content)
    config = json.loads(rendered[alert_log.CONFIG])
    with paper(Paper()) as prometheus:
        port = int(prometheus.rpartition(":")[2])
        # Bound already by another: it says so and ends, having read everything it needs.
        config |= {"state": str(tmp_path), "listen": {"host": "127.0.0.1", "port": port}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(program), str(tmp_path / "config.json")],
            text=True, capture_output=True, check=False, timeout=30,
        )  # fmt: skip
    assert "Address already in use" in done.stderr


def test_people_reach_it_from_where_the_inventory_says_and_with_a_certificate() -> None:
    opened = fleet(GROUPS, page_from=["192.0.2.0/24"])
    rule = 'ip saddr { 192.0.2.0/24 } tcp dport 9097 accept comment "alert-log https"'
    assert rule in files(opened, "mon1")[base.NFT_FILE]
    assert "9097" not in files(FLEET, "mon1")[base.NFT_FILE]
    assert "9097" not in files(opened, "web1")[base.NFT_FILE]
    for of in (opened, FLEET):
        config = files(of, "mon1")[door.CONFIG]
        assert re.search(r"bind \S+:9097 .* verify required", config)
        assert f"unless {{ ssl_c_s_dn(OU) -m str {door.OPERATOR} }}" in config
    assert "frontend page" not in files(FLEET, "web1")[door.CONFIG]
    assert door.OPERATOR not in {service.name for service in CATALOG}, "a role that a host could have"


CHROMIUM = shutil.which("chromium")
BUILD = os.environ.get("FLEET_BUILD", "")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed here")
@pytest.mark.parametrize(("kind", "size"), [("desktop", "1280,900"), ("phone", "390,844")])
@pytest.mark.parametrize("path", ["/", "/dashboards/overview"])
def test_a_browser_shows_it(tmp_path: Path, kind: str, size: str, path: str) -> None:
    """Screenshots are kept in the folder FLEET_BUILD, if it is set."""
    assert CHROMIUM is not None
    shots = Path(BUILD or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    with page(Paper(alerts=[alert("HostDown", "page", "data1", "data1: nothing on it answers")]), tmp_path) as url:
        shot = shots / f"status{path.replace('/', '-')}-{kind}.png"
        subprocess.run(
            [CHROMIUM, *options, f"--window-size={size}", f"--screenshot={shot}", url + path],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        seen = subprocess.run(
            [CHROMIUM, *options, f"--window-size={size}", "--dump-dom", url + path],
            check=True, capture_output=True, text=True, timeout=120,
        ).stdout  # fmt: skip
    assert shot.stat().st_size > 10_000
    said = text(seen)
    assert ("1 page, 0 warnings" if path == "/" else "Hosts up") in said
    assert "Certificates" in said
