"""Through the front door: a submission and a certificate order, from the web host to the database."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from deploy.model.catalog import SERVICES
from tests.chaos import faults
from tests.chaos.application import FRONTEND, PAIR, first, web
from tests.chaos.failover import database, eventually, sql, the_fleet
from tests.chaos.support import on


@contextmanager
def listening(host: str) -> Iterator[str]:
    """A contestant's stream of events, as the frontend opens it; where it is written down."""
    said = "/run/fleet-events"
    stream = f"curl -sN -m 120 {FRONTEND} https://broadcaster:{SERVICES['broadcaster'].port('https').number}/events/"
    on(host, f"rm -f {said}; systemd-run --quiet --collect --unit=events sh -c {shlex.quote(f'{stream} >{said}')}")
    try:
        eventually("the stream is open", lambda: ": connected" in on(host, f"cat {said}", check=False), 20)
        yield said
    finally:
        on(host, f"systemctl stop events 2>/dev/null || true; rm -f {said}")


def test_a_submission_is_judged_and_announced() -> None:
    host = first("frontend")
    limits = json.dumps({"limits": {"time_ms": 1000, "memory_bytes": 67108864}})
    on(host, f"curl -sf -m 10 {FRONTEND} -X PUT --data '{limits}' -H 'Content-Type: application/json' "
             "https://gitserver:33861/problem/sumas/settings")  # fmt: skip
    source = "print(sum(map(int, input().split())))"
    with listening(host) as events:
        code, answer = web("/submit", {"problem": "sumas", "language": "py3", "source": source})
        assert code == 202, answer
        identifier = str(answer["id"])
        seen: dict[str, object] = {}

        def judged() -> bool:
            code, status = web(f"/submission/{identifier}")
            seen.update(status)
            return code == 200 and "AC" in json.dumps(status)

        eventually("a verdict", judged)
        assert sql(database(), f"SELECT verdict FROM Runs WHERE submission_id = '{identifier}'") == ["AC"], seen
        eventually("the event", lambda: announced(host, events, identifier), 20)


def announced(host: str, events: str, identifier: str) -> bool:
    """The stream has the submission's verdict."""
    data = [line.removeprefix("data: ") for line in on(host, f"cat {events}").splitlines() if line.startswith("data: ")]
    return any(identifier in line and "AC" in line for line in data)


def order(contest: int) -> dict[str, object]:
    return {
        "contest_id": contest, "certificate_cutoff": 10,
        "ranking": [{"username": f"user{n}", "place": n} for n in (1, 2, 3)],
    }  # fmt: skip


def test_certificates_reach_the_database_once() -> None:
    contest = secrets.randbelow(10**6) + 1
    for _ in range(2):
        code, answer = web("/certificates", order(contest))
        assert code == 202, answer
    rows = f"SELECT COUNT(*) FROM Certificates WHERE contest_id = {contest}"
    eventually("three rows", lambda: sql(database(), rows) == ["3"])


def health() -> tuple[int, list[str]]:
    """HTTP code of /health/, and the parts that are unwell."""
    code, answer = web("/health/")
    unwell = answer.get("unwell")
    assert isinstance(unwell, list), answer
    return code, unwell


def test_one_broker_of_three_is_not_missed() -> None:
    """The proxy leads to another, at once or after its check; no client sees the difference."""
    broker = first("rabbitmq")
    on(broker, "systemctl stop rabbitmq-server")
    try:
        eventually("health without one broker", lambda: health() == (200, []), 20)
        code, answer = web("/certificates", order(secrets.randbelow(10**6) + 1))
        assert code == 202, answer
        assert health() == (200, [])
    finally:
        on(broker, "systemctl start rabbitmq-server")
    eventually("the broker is back", lambda: alive(broker), 120)


def alive(broker: str) -> bool:
    port = SERVICES["rabbitmq"].port("amqps").number
    check = f"rabbitmq-diagnostics -q check_port_listener {port} && rabbitmq-diagnostics -q check_local_alarms"
    return "yes" in on(broker, f"{check} >/dev/null 2>&1 && echo yes", check=False)


def no_broker_for(host: str) -> AbstractContextManager[None]:
    """Neither the brokers nor what the proxy asks of them can be reached from this host."""
    rabbitmq = SERVICES["rabbitmq"]
    ports = (rabbitmq.port("amqps").number, rabbitmq.port("management-tls").number)
    return faults.out_of_reach(host, [member.name for member in the_fleet().members("rabbitmq")], ports)


def test_health_names_what_is_unwell() -> None:
    """No broker can be reached: /health/ says 503 and which part, and only that; it comes back by itself."""
    with no_broker_for(first("frontend")):
        eventually("health is red for want of a broker", lambda: health() == (503, ["rabbitmq"]), 30)
        assert web("/health/live")[0] == 200
    eventually("health when the brokers can be reached", lambda: health() == (200, []), 60)


def test_the_grader_reaches_all_it_needs() -> None:
    """With its own certificate: gitserver and broadcaster; with its password: the database; and it has a runner."""
    host, port = first("grader"), SERVICES["grader"].port("https").number
    url = f"https://grader:{port}/health"
    said = json.loads(on(host, f"curl -s -m 10 {PAIR.format('grader')} {url}"))
    checks = said["checks"]
    assert set(checks) >= {"mysql", "gitserver", "broadcaster", "runners", "rabbitmq"}
    assert {name: word for name, word in checks.items() if word != "ok"} == {}


def test_spec_metric_names() -> None:
    text = on(first("monitoring"), f"curl -s -m 10 {PAIR.format('monitoring')} https://grader:21680/metrics")
    for name in ('grader_queue_length{queue="contest"}', "grader_submissions_total", "grader_runners_available"):
        assert name in text
    runners = next(line for line in text.splitlines() if line.startswith("grader_runners_available "))
    assert float(runners.split()[1]) >= 1
