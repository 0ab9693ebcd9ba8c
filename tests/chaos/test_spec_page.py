"""The specification's page, section by section: through the web hosts' port 80, and then a look at what is kept where.

Redis: use cases, session storage, caching, invalidation. RabbitMQ: the message, how it is published, the flow of
certificates. Ports, health, metrics and configuration have their own suites (tests/fleet, test_end_to_end).
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deploy.model.catalog import SERVICES
from deploy.roles.rabbitmq_topology import API
from tests.chaos.application import certificate, first, fresh, pdf_about, put_statement, web
from tests.chaos.failover import database, eventually, primary, redis, sql
from tests.chaos.support import SPEC, on

CACHE = SERVICES["redis"].port("cache").number
SESSIONS = SERVICES["redis"].port("sessions").number
HOUR = 3600


def kept(port: int, key: str) -> tuple[Any, int]:
    """The value under a key, and the seconds that it has left."""
    host = primary(port)
    return json.loads("\n".join(redis(host, port, "GET", key))), int(redis(host, port, "TTL", key)[0])


# Use cases: key pattern and TTL of each, after one request that needs it.
USE_CASES = [
    ("Problem statements", "/problem/specpage/statement/es", "problem:specpage:statement:es", HOUR),
    ("Scoreboard cache", "/contest/specpage/scoreboard", "scoreboard:specpage", 30),
    ("School rankings", "/schools/rank?page=1&length=7", "school_rank:1-7", HOUR),
    ("Tags cache", "/tags?prefix=specpage", "tags:specpage", HOUR),
]


@pytest.mark.parametrize(("case", "path", "key", "ttl"), USE_CASES, ids=[case for case, *_ in USE_CASES])
def test_use_cases(case: str, path: str, key: str, ttl: int) -> None:
    put_statement("specpage", "Suma.")
    fresh(key)
    assert web(path)[0] == 200
    value, left = kept(CACHE, key)
    assert "value" in value
    assert ttl - 3 <= left <= ttl, f"{case}: asked at once, and to the second but for the way here"
    # The caching pattern: the next one gets it from there.
    said = on(first("frontend"), f"curl -s -m 10 -o /dev/null -D - 'http://{first('frontend')}{path}'").lower()
    assert "x-cache: hit" in said


def test_rate_limiting() -> None:
    key = f"ratelimit:{SPEC.address(first('frontend'))}:submit"
    fresh("ratelimit:*")
    web("/submit", {"problem": "specpage", "language": "py3", "source": "print(1)"})
    host = primary(CACHE)
    assert redis(host, CACHE, "GET", key) == ["1"]
    assert 57 <= int(redis(host, CACHE, "TTL", key)[0]) <= 60


@contextmanager
def logged_in(identity: int, user: int) -> Iterator[str]:
    host = first("frontend")
    body = json.dumps({"identity_id": identity, "user_id": user})
    said = on(host, f"curl -s -m 10 -o /dev/null -D - -H 'Content-Type: application/json' --data '{body}' "
                    f"http://{host}/login")  # fmt: skip
    token = re.search(r"ouat=([0-9a-f]{64})", said)
    assert token is not None, said
    yield token[1]
    on(host, f"curl -s -m 10 -X POST -H 'Cookie: ouat={token[1]}' http://{host}/logout")


def test_session_storage() -> None:
    with logged_in(12345, 67890) as token:
        session, left = kept(SESSIONS, f"session:{token}")
        assert set(session) == {"identity_id", "user_id", "login_time", "ip_address"}
        assert (session["identity_id"], session["user_id"]) == (12345, 67890)
        assert abs(session["login_time"] - time.time()) < 60
        assert session["ip_address"] == SPEC.address(first("frontend"))
        assert 24 * HOUR - 3 <= left <= 24 * HOUR
        assert redis(primary(CACHE), CACHE, "EXISTS", f"session:{token}") == ["0"]
    # deleteFromCache: the end of a session is the end of its key.
    assert redis(primary(SESSIONS), SESSIONS, "EXISTS", f"session:{token}") == ["0"]


def test_cache_invalidation() -> None:
    """invalidateAllKeys: a new statement in one language takes all of the problem's with it, and no other's."""
    put_statement("specpage", "vieja")
    put_statement("specpage2", "otra")
    aliases, languages = ("specpage", "specpage2"), ("es", "en")
    paths = [f"/problem/{alias}/statement/{language}" for alias in aliases for language in languages]
    assert [web(path)[0] for path in paths] == [200] * 4
    host = first("frontend")
    with logged_in(1, 1) as token:
        said = on(host, f"curl -s -m 10 -X PUT -H 'Cookie: ouat={token}' -H 'Content-Type: text/markdown' "
                        f"--data nueva http://{host}{paths[0]}")  # fmt: skip
    assert json.loads(said) == {"status": "ok", "invalidated": True}
    left = [redis(primary(CACHE), CACHE, "EXISTS", path[1:].replace("/", ":")) for path in paths]
    assert left == [["0"], ["0"], ["1"], ["1"]]
    assert web(paths[0])[1]["statement"] == "nueva"


ORDER = {
    "contest_id": 0, "certificate_cutoff": 2,
    "ranking": [{"username": "user1", "place": 1}, {"username": "محمد", "place": 2}, {"username": "José", "place": 3}],
}  # fmt: skip


@contextmanager
def no_worker() -> Iterator[None]:
    worker = first("worker")
    on(worker, "systemctl stop omegaup-worker@certificates")
    try:
        yield
    finally:
        on(worker, "systemctl start omegaup-worker@certificates")


def test_message_and_publishing_and_the_flow_of_certificates() -> None:
    contest = secrets.randbelow(10**9) + 1
    order = {**ORDER, "contest_id": contest}
    with no_worker():
        assert web("/certificates", order) == (202, {"status": "queued"})
        get = json.dumps({"count": 50, "ackmode": "ack_requeue_true", "encoding": "auto"})
        found = json.loads(on(first("rabbitmq"), f"{API} POST queues/%2F/ContestQueue/get <<'JSON'\n{get}\nJSON"))
        [message] = [one for one in found if json.loads(one["payload"])["contest_id"] == contest]
    assert (message["exchange"], message["routing_key"]) == ("certificates", "ContestQueue")
    assert message["properties"]["delivery_mode"] == 2
    body = json.loads(message["payload"])
    assert abs(body.pop("timestamp") - time.time()) < 120
    assert body == {"type": "generate_certificates", **order}
    rows = f"SELECT username, IFNULL(place, 0), verification_code FROM Certificates WHERE contest_id = {contest}"
    joined = rows.replace("WHERE", "JOIN Certificate_Files USING (certificate_id) WHERE")
    eventually("each has a file", lambda: len(sql(database(), joined)) == 3)
    stored = {tuple(row.split("\t")[:2]): row.split("\t")[2] for row in sql(database(), rows)}
    assert set(stored) == {("user1", "1"), ("محمد", "2"), ("José", "0")}
    for (username, place), code in stored.items():
        about = pdf_about(certificate(code))
        assert re.search(r"^Title:\s+(.*)$", about, re.MULTILINE)[1] == username  # type: ignore[index]
        assert f"contest {contest}, place {place if place != '0' else 'none'}, code {code}" in about


def test_a_submission_while_the_grader_is_away() -> None:
    """SubmissionQueue: taken at once, judged when the grader is back, once."""
    grader = first("grader")
    put_statement("specpage", "Suma.")
    identifier = secrets.token_hex(16)
    on(grader, "systemctl stop omegaup-grader")
    try:
        submission = {"problem": "specpage", "language": "py3", "source": "print(1)", "submission_id": identifier}
        assert web("/submit", submission) == (202, {"status": "queued", "id": identifier})
    finally:
        on(grader, "systemctl start omegaup-grader")
    verdicts = f"SELECT verdict FROM Runs WHERE submission_id = '{identifier}' AND status = 'ready'"
    eventually("a verdict", lambda: sql(database(), verdicts) == ["AC"], 90)


def test_events_through_port_80() -> None:
    """A contestant's browser: the stream of its contest, from a web host."""
    host, said = first("frontend"), "/run/fleet-events80"
    put_statement("specpage", "Suma.")
    stream = f"curl -sN -m 120 'http://{host}/events/?contest=specpage'"
    on(host, f"rm -f {said}; systemd-run --quiet --collect --unit=events80 sh -c {shlex.quote(f'{stream} >{said}')}")
    try:
        eventually("the stream is open", lambda: ": connected" in on(host, f"cat {said}", check=False), 20)
        body = {"problem": "specpage", "language": "py3", "source": "print(2)", "contest": "specpage"}
        code, answer = web("/submit", body)
        assert code == 202, answer
        eventually("the verdict comes", lambda: str(answer["id"]) in on(host, f"cat {said}"), 60)
    finally:
        on(host, f"systemctl stop events80 2>/dev/null || true; rm -f {said}")
