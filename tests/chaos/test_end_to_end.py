"""Through the front door: a submission and a certificate order, from the web host to the database."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from functools import cache

from deploy.converge.inventory import folder, load
from deploy.model.fleet import Fleet
from tests.chaos.support import INVENTORY, on


@cache
def fleet() -> Fleet:
    return load(folder(INVENTORY))[1]


def eventually(what: str, true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition; fail with its name."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def web(path: str, data: dict[str, object] | None = None) -> tuple[int, dict[str, object]]:
    """Ask a web host by HTTP, from itself."""
    host = fleet().members("frontend")[0].name
    body = f"-H 'Content-Type: application/json' --data '{json.dumps(data)}'" if data is not None else ""
    said = on(host, f"curl -s -m 20 -w '\\n%{{http_code}}' {body} http://{host}{path}")
    text, _, code = said.rpartition("\n")
    try:
        answer: dict[str, object] = json.loads(text)
    except ValueError:
        answer = {"text": text}
    return int(code), answer


def sql(statement: str) -> str:
    for member in fleet().members("mysql"):
        if on(member.name, "mariadb -NB -e 'SELECT @@GLOBAL.read_only'").strip() == "0":
            return on(member.name, f'mariadb -NB omegaup -e "{statement}"').strip()
    raise AssertionError("no member of mysql is writable")


def test_a_submission_is_judged() -> None:
    host = fleet().members("frontend")[0].name
    pair = "--cert /etc/omegaup/ssl/frontend.crt --key /etc/omegaup/ssl/frontend.key --cacert /etc/omegaup/ssl/ca.crt"
    settings = json.dumps({"limits": {"time_ms": 1000, "memory_bytes": 67108864}})
    on(host, f"curl -sf -m 10 {pair} -X PUT --data '{settings}' -H 'Content-Type: application/json' "
             "https://gitserver:33861/problem/sumas/settings")  # fmt: skip
    source = "print(sum(map(int, input().split())))"
    code, answer = web("/submit", {"problem": "sumas", "language": "py3", "source": source})
    assert code == 202, answer
    identifier = answer["id"]
    seen: dict[str, object] = {}

    def judged() -> bool:
        code, status = web(f"/submission/{identifier}")
        seen.update(status)
        return code == 200 and "AC" in json.dumps(status)

    eventually("a verdict", judged)
    assert sql(f"SELECT verdict FROM Runs WHERE submission_id = '{identifier}'") == "AC", seen


def test_certificates_reach_the_database_once() -> None:
    contest = secrets.randbelow(10**6) + 1
    order = {
        "contest_id": contest, "certificate_cutoff": 10,
        "ranking": [{"username": f"user{n}", "place": n} for n in (1, 2, 3)],
    }  # fmt: skip
    for _ in range(2):
        code, answer = web("/certificates", dict(order))
        assert code == 202, answer
    eventually("three rows", lambda: sql(f"SELECT COUNT(*) FROM Certificates WHERE contest_id = {contest}") == "3")


def test_health_names_what_is_unwell() -> None:
    """The broker stops: /health/ says 503 and which part; it comes back by itself when the broker does."""
    broker = fleet().members("rabbitmq")[0].name
    on(broker, "systemctl stop rabbitmq-server")
    try:
        code, answer = web("/health/")
        assert code == 503
        assert "rabbitmq" in json.dumps(answer.get("unwell"))
        assert web("/health/live")[0] == 200
    finally:
        on(broker, "systemctl start rabbitmq-server")
    eventually("health after the broker is back", lambda: web("/health/")[0] == 200, 60)


def test_spec_metric_names() -> None:
    host = fleet().members("monitoring")[0].name
    pair = "--cert /etc/omegaup/ssl/monitoring.crt --key /etc/omegaup/ssl/monitoring.key"
    text = on(host, f"curl -s -m 10 --cacert /etc/omegaup/ssl/ca.crt {pair} https://grader:21680/metrics")
    for name in ('grader_queue_length{queue="contest"}', "grader_submissions_total", "grader_runners_available"):
        assert name in text
    runners = next(line for line in text.splitlines() if line.startswith("grader_runners_available "))
    assert float(runners.split()[1]) >= 1
