"""The log of alerts, the status page and the dashboards: one small server on the monitoring host's loopback.

Alertmanager posts what fires and what is over to /alerts; each goes to the journal and into a file of bounded length.
`GET /` is the page: how the fleet is, as the Prometheus beside it knows it. Nothing but Python's own library, and no
script in the page, so that it shows on any telephone.

Arguments: the configuration (JSON: listen, prometheus, state, kept, fleet, hosts, dashboards).
"""

from __future__ import annotations

import html
import json
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boards

BODY_MAX = 4 << 20
PROMETHEUS_SECONDS = 5.0
SHOWN = 20
CERTIFICATES = 5
OWED = "fleet_restart_owed == 1"
SEVERITIES = {"page": 0, "warning": 1, "none": 2}


def _whole(lines: Iterable[str]) -> Iterable[str]:
    """Without what a crash has cut short."""
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            continue
        yield line


class Log:
    """What Alertmanager said, the newest last, in a file of at most twice `kept` lines."""

    def __init__(self, path: Path, kept: int) -> None:
        self._path = path
        self._kept = kept
        self._lock = threading.Lock()
        self._lines = list(_whole(path.read_text(encoding="utf-8").splitlines()[-kept:])) if path.exists() else []
        self._appended = kept
        self.received = {"firing": 0, "resolved": 0}

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        with self._lock:
            fresh = [json.dumps(entry, sort_keys=True) for entry in entries]
            for entry in map(json.loads, fresh):
                self.received[entry["status"]] += 1
            self._lines = [*self._lines, *fresh][-self._kept :]
            self._appended += len(fresh)
            if self._appended > self._kept:
                # Made anew, short again; at the first write too, whatever a crash has left of the last line.
                new = self._path.with_suffix(".new")
                new.write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
                new.replace(self._path)
                self._appended = 0
            else:
                with self._path.open("a", encoding="utf-8") as handle:
                    handle.writelines(f"{line}\n" for line in fresh)

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest first."""
        with self._lock:
            return [json.loads(line) for line in reversed(self._lines[-count:])]


def entries(body: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
    """The alerts of one call of Alertmanager. Raises ValueError for a body of another kind."""
    found = []
    for alert in body["alerts"]:
        status = alert["status"]
        if status not in {"firing", "resolved"}:
            raise ValueError(f"status {status!r}")
        labels = {str(key): str(value) for key, value in alert["labels"].items()}
        found.append(
            {
                "time": round(now, 3),
                "status": status,
                "name": labels.get("alertname", ""),
                "severity": labels.get("severity", ""),
                "labels": labels,
                "summary": str(alert.get("annotations", {}).get("summary", "")),
                "starts": alert.get("startsAt", ""),
            }
        )
    return found


class Prometheus:
    """Questions to the Prometheus of this host."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Straight, whatever proxy the environment names.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _get(self, path: str) -> Any:
        with self._opener.open(self._url + path, timeout=PROMETHEUS_SECONDS) as reply:
            said = json.load(reply)
        if said.get("status") != "success":
            raise ValueError(f"Prometheus: {said.get('error', 'no success')}")
        return said["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series now."""
        found = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def range(self, expression: str, begin: float, end: float, step: float) -> list[boards.Series]:
        """Each series from `begin` to `end`, a value each `step` seconds."""
        asked = {"query": expression, "start": f"{begin:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = self._get("/api/v1/query_range?" + urllib.parse.urlencode(asked))
        return [
            (one["metric"], [(float(time), float(value)) for time, value in one["values"]]) for one in found["result"]
        ]

    def alerts(self) -> list[dict[str, Any]]:
        return [one for one in self._get("/api/v1/alerts")["alerts"] if one["state"] == "firing"]


STYLE = """
:root { color-scheme: light dark; --well: #1a7f37; --ill: #b42318; --warn: #8a5a00; --edge: #8884; }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
.verdict { border-radius: .5rem; color: #fff; font-size: 1.15rem; font-weight: 600; padding: .75rem 1rem; }
.verdict.well { background: var(--well); } .verdict.ill { background: var(--ill); }
.verdict.warn { background: var(--warn); }
.hosts { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.host { border: 1px solid var(--edge); border-left: .4rem solid var(--well); border-radius: .4rem;
  padding: .6rem .8rem; }
.host.ill { border-left-color: var(--ill); } .host.warn { border-left-color: var(--warn); }
.host h3 { display: flex; font-size: 1rem; justify-content: space-between; margin: 0 0 .3rem; }
.host p { margin: .15rem 0; overflow-wrap: anywhere; } small, .dim { opacity: .75; }
ul.plain { list-style: none; margin: 0; padding: 0; }
ul.plain li { border-bottom: 1px solid var(--edge); padding: .45rem 0; overflow-wrap: anywhere; }
.tag { border-radius: .3rem; color: #fff; font-size: .8rem; font-weight: 600; padding: .1rem .45rem; }
.tag.page, .tag.firing { background: var(--ill); } .tag.warning { background: var(--warn); }
.tag.resolved { background: var(--well); }
"""


def _shown(text: object) -> str:
    return html.escape(str(text), quote=True)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ago(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(0, seconds):.0f} s"


class Page:
    """The status page. `hosts`: name -> its services, as the inventory has them."""

    def __init__(
        self,
        fleet: str,
        hosts: Mapping[str, Iterable[str]],
        prometheus: Prometheus,
        log: Log,
        shown: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._fleet = fleet
        self._boards = {board["name"]: board for board in shown}
        self._hosts = {name: list(services) for name, services in hosts.items()}
        self._prometheus = prometheus
        self._log = log

    def dashboard(self, name: str, hours: int, now: float) -> str | None:
        """A dashboard over the last hours; None: there is none of this name."""
        board = self._boards.get(name)
        if board is None:
            return None
        body = boards.body(tuple(self._boards.values()), board, self._prometheus.range, now, hours)
        return self._document(board["title"], body, now, refresh=60)

    def _document(self, title: str, body: str, now: float, refresh: int) -> str:
        full = _shown(f"{self._fleet}: {title}")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="refresh" content="{refresh}">'
            f"<title>{full}</title><style>{STYLE}{boards.STYLE}</style></head><body>"
            f'<h1>{full}</h1><p class="dim">As of {_when(now)}; made anew every {refresh} seconds.</p>{body}'
            "</body></html>\n"
        )

    def render(self, now: float) -> str:
        try:
            parts = self._parts(now)
        except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
            parts = [
                '<p class="verdict ill">Prometheus does not answer: nothing is known</p>',
                f"<p>{_shown(error)}</p>",
                self._history(now),
            ]
        return self._document("status", boards.links(tuple(self._boards.values())) + "\n".join(parts), now, refresh=15)

    def _parts(self, now: float) -> list[str]:
        alerts = [one for one in self._prometheus.alerts() if one["labels"].get("alertname") != "Watchdog"]
        alerts.sort(key=lambda one: (SEVERITIES.get(one["labels"].get("severity", ""), 1), one["labels"]["alertname"]))
        pages = [one for one in alerts if one["labels"].get("severity") == "page"]
        if pages:
            others = _count(len(alerts) - len(pages), "warning")
            verdict = f'<p class="verdict ill">{_count(len(pages), "page")}, {others}</p>'
        elif alerts:
            verdict = f'<p class="verdict warn">{_count(len(alerts), "warning")}</p>'
        else:
            verdict = '<p class="verdict well">All is well</p>'
        return [
            verdict, self._alerts(alerts), self._debts(), self._clusters(), self._topology(alerts, now),
            self._certificates(), self._history(now),
        ]  # fmt: skip

    def _debts(self) -> str:
        owed = [(labels.get("host", "?"), labels.get("unit", "?")) for labels, _ in self._prometheus.query(OWED)]
        if not owed:
            return ""
        lines = "".join(f"<li><b>{_shown(host)}</b> {_shown(unit)}</li>" for host, unit in sorted(owed))
        return f'<h2>Restarts owed</h2><p>Paid by fleet roll.</p><ul class="plain">{lines}</ul>'

    def _certificates(self) -> str:
        """The first to end, whether on the disk or served."""
        ask = f"bottomk({CERTIFICATES}, fleet_certificate_days)"
        found = sorted(self._prometheus.query(ask), key=lambda one: one[1])
        lines = []
        for labels, days in found:
            name = labels.get("certificate") or labels.get("check") or "?"
            state = "page" if days < 2 else "warning" if days < 15 else "resolved"
            lines.append(
                f'<li><span class="tag {state}">{days:.0f} days</span> {_shown(name)} on '
                f"{_shown(labels.get('host', '?'))} <small>{_shown(labels.get('where', ''))}</small></li>"
            )
        return f'<h2>Certificates that end first</h2><ul class="plain">{"".join(lines) or "<li>none</li>"}</ul>'

    def _alerts(self, alerts: list[dict[str, Any]]) -> str:
        if not alerts:
            return ""
        lines = []
        for one in alerts:
            labels, notes = one["labels"], one["annotations"]
            tag = f'<span class="tag {_shown(labels.get("severity", ""))}">{_shown(labels["alertname"])}</span>'
            where = f"since {_shown(one['activeAt'][:19])} &middot; {_shown(notes.get('runbook', ''))}"
            lines.append(f"<li>{tag} {_shown(notes.get('summary', ''))} <small>{where}</small></li>")
        return f'<h2>Alerts</h2><ul class="plain">{"".join(lines)}</ul>'

    def _clusters(self) -> str:
        leads: list[str] = []
        for name, expression in (
            ("redis-cache", 'redis_instance_info{redis="cache",role="master"}'),
            ("redis-sessions", 'redis_instance_info{redis="sessions",role="master"}'),
            ("mysql", "mysql_global_variables_read_only == 0"),
        ):
            found = sorted(labels.get("host", "?") for labels, _ in self._prometheus.query(expression))
            leads.append(f"<li>{_shown(name)}: <b>{_shown(', '.join(found) or 'nobody leads')}</b></li>")
        members = sorted(labels.get("host", "?") for labels, _ in self._prometheus.query("rabbitmq_identity_info"))
        leads.append(f"<li>rabbitmq: <b>{_shown(', '.join(dict.fromkeys(members)) or 'no member runs')}</b></li>")
        return f'<h2>Who leads</h2><ul class="plain">{"".join(leads)}</ul>'

    def _topology(self, alerts: list[dict[str, Any]], now: float) -> str:
        ask = self._prometheus.query
        up = {labels["host"]: value for labels, value in ask("fleet_host_up")}
        checks: dict[str, list[tuple[str, bool]]] = {}
        for labels, value in ask('probe_success{job="blackbox"}'):
            checks.setdefault(labels["host"], []).append((labels["check"], value == 1))
        owed: dict[str, list[str]] = {}
        for labels, _ in ask(OWED):
            owed.setdefault(labels["host"], []).append(labels["unit"])
        days = {labels["host"]: value for labels, value in ask("min by (host) (fleet_certificate_days)")}
        drifted = {labels["host"]: value for labels, value in ask("fleet_files_drifted > 0")}
        applied = {labels["host"]: value for labels, value in ask("fleet_apply_time_seconds")}
        logs = {labels["host"]: value for labels, value in ask("fleet_logs_age_seconds")}
        cards = []
        for host, services in self._hosts.items():
            own = [one["labels"].get("severity", "") for one in alerts if one["labels"].get("host") == host]
            unwell = [check for check, well in checks.get(host, []) if not well]
            silent = up.get(host) != 1
            state = "ill" if silent or "page" in own else "warn" if own or unwell else "well"
            word = "silent" if silent else {"ill": "ill", "warn": "warned of", "well": "well"}[state]
            lines = [f"<p><small>{_shown(', '.join(services))}</small></p>"]
            if checks.get(host):
                good = len(checks[host]) - len(unwell)
                lines.append(f"<p>{good} of {len(checks[host])} checks are well</p>")
            lines += [f"<p>unwell: {_shown(check)}</p>" for check in unwell]
            lines += [f"<p>restart owed: {_shown(unit)}</p>" for unit in owed.get(host, [])]
            if host in drifted:
                lines.append(f"<p>{drifted[host]:.0f} files were changed by hand</p>")
            if host in days:
                lines.append(f"<p>certificates: {days[host]:.0f} days left</p>")
            if host in applied:
                lines.append(f"<p>applied {_ago(now - applied[host])} ago</p>")
            if host in logs:
                lines.append(f"<p>logs came {_ago(logs[host])} ago</p>" if logs[host] < now / 2 else "<p>no logs</p>")
            head = f"<h3><span>{_shown(host)}</span><span>{word}</span></h3>"
            cards.append(f'<section class="host {state}">{head}{"".join(lines)}</section>')
        return f'<h2>Hosts</h2><div class="hosts">{"".join(cards)}</div>'

    def _history(self, now: float) -> str:
        lines = [
            f'<li><span class="tag {one["status"]}">{_shown(one["status"])}</span> {_shown(one["name"])}: '
            f"{_shown(one['summary'])} <small>{_ago(now - one['time'])} ago</small></li>"
            for one in self._log.last(SHOWN)
        ]
        return f'<h2>Told lately</h2><ul class="plain">{"".join(lines) or "<li>nothing</li>"}</ul>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class Handler(BaseHTTPRequestHandler):
    """Routes of the server. `page` and `log` are set by `serve`."""

    page: Page
    log: Log
    server_version = "fleet"
    sys_version = ""
    timeout = 15

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/":
            self._send(200, "text/html; charset=utf-8", self.page.render(time.time()))
        elif path.startswith("/dashboards/"):
            asked = urllib.parse.parse_qs(self.path.partition("?")[2]).get("hours", ["1"])[-1]
            hours = int(asked) if asked in {str(span) for span in boards.HOURS} else boards.HOURS[0]
            text = self.page.dashboard(path.removeprefix("/dashboards/"), hours, time.time())
            self._send(200 if text else 404, "text/html; charset=utf-8", text or "no such dashboard\n")
        elif path == "/alerts":
            self._send(200, "application/json", json.dumps(self.log.last(10_000)))
        elif path == "/metrics":
            lines = [
                "# HELP fleet_alerts_told_total Alerts that Alertmanager told of.",
                "# TYPE fleet_alerts_told_total counter",
            ]
            lines += [f'fleet_alerts_told_total{{status="{key}"}} {count}' for key, count in self.log.received.items()]
            self._send(200, "text/plain; version=0.0.4; charset=utf-8", "\n".join(lines) + "\n")
        else:
            self._send(404, "text/plain", "not found\n")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/alerts" or not length.isdigit() or int(length) > BODY_MAX:
            self._send(404 if self.path != "/alerts" else 413, "text/plain", "refused\n")
            return
        try:
            found = entries(json.loads(self.rfile.read(int(length))), time.time())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._send(400, "text/plain", f"not a call of Alertmanager: {error}\n")
            return
        self.log.add(found)
        for one in found:
            # The journal's priorities: 2 critical, 4 warning, 5 notice.
            level = 5 if one["status"] == "resolved" else 2 if one["severity"] == "page" else 4
            print(f"<{level}>{one['status']} {one['name']}: {one['summary']}", flush=True)
        self._send(200, "text/plain", "noted\n")

    def _send(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        )
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Every call in the journal would be noise."""


def serve(config: Mapping[str, Any]) -> ThreadingHTTPServer:
    """A server that is bound and not yet running."""
    log = Log(Path(config["state"]) / "alerts.jsonl", int(config["kept"]))
    page = Page(config["fleet"], config["hosts"], Prometheus(config["prometheus"]), log, config.get("dashboards", ()))
    handler = type("Bound", (Handler,), {"page": page, "log": log})
    server = ThreadingHTTPServer((config["listen"]["host"], int(config["listen"]["port"])), handler)
    server.daemon_threads = True
    return server


def main() -> None:
    serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).serve_forever()
