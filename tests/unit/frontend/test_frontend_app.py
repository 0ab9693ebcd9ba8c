"""Routes, the school rank with its cache in front of a real database, and failures that must not show their insides."""

from __future__ import annotations

import pytest

from tests.unit.frontend.fakes import HOST, Mariadb
from tests.unit.frontend.support import Shared, World


def test_home(shared: Shared) -> None:
    answer = shared.site.get("/?x=1")
    assert answer.status == 200
    assert '<form method="post" action="/submit">' in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "//health/", 404),
        ("GET", "/../src/Config.php", 404),
        ("GET", "/submission/a%2Fb", 404),
        ("GET", "/submission/a/b", 404),
        ("GET", "/submit", 405),
        ("POST", "/health/", 405),
        ("DELETE", "/submission/a", 405),
        ("HEAD", "/health/live", 200),
    ],
)
def test_routes(shared: Shared, method: str, path: str, status: int) -> None:
    answer = shared.site.request(method, path)
    assert answer.status == status
    assert ("Allow" in answer.headers) == (status == 405)
    assert "X-Powered-By" not in answer.headers


def test_school_rank(world: World, mariadb: Mariadb) -> None:
    redis = world.redis()
    site = world.site(OMEGAUP_DB_HOST=f"{HOST}:{mariadb.port}")
    first = site.get("/schools/rank?page=1&length=2")
    assert (first.status, first.headers["X-Cache"]) == (200, "miss")
    assert [school["name"] for school in first.json["rank"]] == ["Ñandú", "Sur"]
    second = site.get("/schools/rank?page=1&length=2")
    assert (second.headers["X-Cache"], second.json) == ("hit", first.json)
    assert 3590 <= int(redis.cli("ttl", "school_rank:1-2")) <= 3600
    assert site.get("/schools/rank?page=2&length=2").json["rank"][0]["name"] == "Norte"
    assert [site.get(f"/schools/rank?{q}").status for q in ("page=0", "length=101", "page[]=1", "page=1;")] == [422] * 4


def test_school_rank_degrades(world: World, mariadb: Mariadb) -> None:
    redis = world.redis()
    site = world.site(OMEGAUP_DB_HOST=f"{HOST}:{mariadb.port}")
    assert site.get("/schools/rank").status == 200
    redis.stop()
    without = site.get("/schools/rank")
    assert (without.status, without.headers["X-Cache"]) == (200, "miss")


def test_school_rank_without_a_database(world: World) -> None:
    redis = world.redis()
    site = world.site()
    answer = site.get("/schools/rank")
    assert (answer.status, answer.json["error"]) == (503, "mysql: connection refused")
    redis.cli("set", "school_rank:1-100", '{"value": []}')
    assert site.get("/schools/rank").json["rank"] == []


def test_database_connection_persists_and_is_renewed(world: World, mariadb: Mariadb) -> None:
    site = world.site(OMEGAUP_DB_HOST=f"{HOST}:{mariadb.port}")
    ours = "SELECT id FROM information_schema.processlist WHERE user = 'frontend'"
    before = set(mariadb.sql(ours).split())
    for _ in range(4):
        assert site.get("/schools/rank").status == 200
    [kept] = set(mariadb.sql(ours).split()) - before
    mariadb.sql(f"KILL {kept}")
    assert site.get("/schools/rank").status == 200
    [renewed] = set(mariadb.sql(ours).split()) - before
    assert renewed != kept


def test_missing_constants_are_named_in_the_log_only(world: World) -> None:
    del world.constants["OMEGAUP_DB_PASS"]
    site = world.site()
    answer = site.get("/health/")
    assert (answer.status, answer.json) == (500, {"status": "error", "error": "internal error"})
    assert "not defined: OMEGAUP_DB_PASS" in site.log.read_text()
    assert site.get("/health/live").status == 200


def test_plain_http_to_the_grader_is_refused(world: World) -> None:
    site = world.site(OMEGAUP_GRADER_URL=f"http://{HOST}")
    assert site.get("/submission/a").status == 500
    assert "must begin with https://" in site.log.read_text()


def test_unreadable_configuration(world: World) -> None:
    site = world.site()
    site.config.unlink()
    assert site.get("/").status == 500
    assert "missing, or not readable" in site.log.read_text()
