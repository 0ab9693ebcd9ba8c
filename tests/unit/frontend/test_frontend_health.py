"""GET /health/ names what is unwell, soon, and says nothing that is not the reader's business."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tests.unit.frontend.fakes import HOST, Mariadb, Redis
from tests.unit.frontend.support import World

PARTS = {"mysql", "redis_cache", "redis_sessions", "rabbitmq", "grader"}
SECRETS = (Redis.PASSWORD, Mariadb.PASSWORD, "broker-secret", HOST)


def complete(world: World, mariadb: Mariadb) -> None:
    world.redis()
    world.redis(Redis.SESSION_KEYS)
    world.broker()
    world.grader()
    world.constants["OMEGAUP_DB_HOST"] = f"{HOST}:{mariadb.port}"


def test_all_well(world: World, mariadb: Mariadb) -> None:
    complete(world, mariadb)
    site = world.site()
    for path in ("/health/", "/health"):
        answer = site.get(path)
        assert (answer.status, answer.json["status"], answer.json["unwell"]) == (200, "ok", [])
        assert set(answer.json["checks"]) == PARTS
        for check in answer.json["checks"].values():
            assert (check["ok"], check["error"], check["ms"] > 0) == (True, None, True)


@pytest.mark.parametrize(
    ("constant", "part"),
    [
        ("OMEGAUP_DB_HOST", "mysql"),
        ("REDIS_PORT", "redis_cache"),
        ("REDIS_SESSIONS_PORT", "redis_sessions"),
        ("OMEGAUP_RABBITMQ_PORT", "rabbitmq"),
        ("OMEGAUP_GRADER_URL", "grader"),
    ],
)
def test_one_unwell(world: World, mariadb: Mariadb, constant: str, part: str) -> None:
    nowhere = world.constants[constant]
    complete(world, mariadb)
    answer = world.site(**{constant: nowhere}).get("/health/")
    assert (answer.status, answer.json["status"], answer.json["unwell"]) == (503, "error", [part])
    assert answer.json["checks"][part]["error"].endswith("connection refused")


def test_a_part_that_is_not_needed(world: World, mariadb: Mariadb) -> None:
    nowhere = world.constants["REDIS_PORT"]
    complete(world, mariadb)
    needed = sorted(PARTS - {"redis_cache"})
    answer = world.site(REDIS_PORT=nowhere, OMEGAUP_HEALTH_REQUIRED=needed).get("/health/")
    assert (answer.status, answer.json["status"], answer.json["unwell"]) == (200, "degraded", ["redis_cache"])


def test_all_unwell(world: World) -> None:
    site = world.site()
    answer = site.get("/health/")
    assert answer.status == 503
    assert set(answer.json["unwell"]) == PARTS
    assert not [secret for secret in SECRETS if secret in answer.text]
    assert site.get("/health/live").json == {"status": "ok"}


def test_wrong_passwords(world: World, mariadb: Mariadb) -> None:
    complete(world, mariadb)
    names = ["REDIS_PASS", "REDIS_SESSIONS_PASS", "OMEGAUP_DB_PASS", "OMEGAUP_RABBITMQ_PASSWORD"]
    wrong: dict[str, Any] = dict.fromkeys(names, "not-this-one")
    site = world.site(**wrong)
    answer = site.get("/health/")
    assert answer.status == 503
    errors = {part: check["error"] for part, check in answer.json["checks"].items()}
    assert errors == {**dict.fromkeys(PARTS, "access refused"), "grader": None}
    assert "not-this-one" not in answer.text + site.log.read_text()


def test_silence_is_bounded(world: World) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        ports = dict.fromkeys(("REDIS_PORT", "REDIS_SESSIONS_PORT", "OMEGAUP_RABBITMQ_PORT"), port)
        site = world.site(**ports, OMEGAUP_DB_HOST=f"{HOST}:{port}", OMEGAUP_GRADER_URL=f"https://{HOST}:{port}")
        started = time.monotonic()
        answer = site.get("/health/")
        assert time.monotonic() - started < 9
    assert set(answer.json["unwell"]) == PARTS
    errors = {part: check["error"] for part, check in answer.json["checks"].items()}
    assert (errors["rabbitmq"], errors["grader"]) == ("timeout", "grader: timeout")
    assert all(check["ms"] < 2500 for check in answer.json["checks"].values())


def test_exchange_is_part_of_health(world: World) -> None:
    world.broker(exchanges=frozenset())
    assert world.site().get("/health/").json["checks"]["rabbitmq"]["error"] == "not declared"


def test_unwell_grader(world: World) -> None:
    world.grader().answers["/health"] = (503, {"status": "error", "checks": {"mysql": "down"}})
    check = world.site().get("/health/").json["checks"]["grader"]
    assert (check["ok"], check["error"]) == (False, "grader: not ready")
