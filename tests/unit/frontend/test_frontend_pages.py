"""Each page that is cached: what it asks, under which key and for how long its answer lives, and what ends it early."""

from __future__ import annotations

import pytest

from tests.unit.frontend.fakes import HOST, Mariadb, Redis
from tests.unit.frontend.support import Shared, Site, World

STATEMENT = "/problem/sumas/statement/es"


def cached(redis: Redis, site: Site, path: str, key: str, ttl: int) -> None:
    """The page is computed once, then it comes from the key, which lives for `ttl` seconds."""
    first, second = site.get(path), site.get(path)
    assert [answer.status for answer in (first, second)] == [200, 200], first.text
    assert [answer.headers["X-Cache"] for answer in (first, second)] == ["miss", "hit"]
    assert first.json == second.json
    assert redis.cli("keys", "*").split() == [key]
    assert ttl - 1 <= int(redis.cli("ttl", key)) <= ttl


def test_statement(world: World) -> None:
    redis, gitserver = world.redis(), world.gitserver()
    gitserver.answers[STATEMENT] = (200, "Suma dos números.".encode())
    site = world.site()
    cached(redis, site, STATEMENT, "problem:sumas:statement:es", 3600)
    assert site.get(STATEMENT).json["statement"] == "Suma dos números."
    [asked] = gitserver.seen
    assert (asked.method, asked.path, asked.peer) == ("GET", STATEMENT, "frontend")


def test_a_new_statement_is_seen_at_once_in_each_language(world: World) -> None:
    redis, gitserver = world.redis(), world.gitserver()
    world.redis(Redis.SESSION_KEYS)
    site = world.site()
    paths = [f"/problem/sumas/statement/{language}" for language in ("es", "en")]
    gitserver.answers.update(dict.fromkeys([*paths, "/problem/sumas2/statement/es"], (200, b"old")))
    for path in (*paths, "/problem/sumas2/statement/es"):
        assert site.get(path).status == 200
    assert site.request("PUT", paths[0], b"new", headers={"Content-Type": "text/markdown"}).status == 401
    cookie = {"Cookie": site.post("/login", {"identity_id": 1}).headers["Set-Cookie"].split(";")[0]}
    answer = site.request("PUT", paths[0], "nuevo ñ".encode(), headers={"Content-Type": "text/markdown", **cookie})
    assert (answer.status, answer.json["invalidated"]) == (200, True)
    assert (gitserver.seen[-1].method, gitserver.seen[-1].body) == ("PUT", "nuevo ñ")
    assert redis.cli("keys", "problem:*").split() == ["problem:sumas2:statement:es"]
    assert [site.get(path).headers["X-Cache"] for path in paths] == ["miss", "miss"]


def test_statements_are_not_replaced_where_anybody_could_be_anybody(world: World) -> None:
    world.constants["OMEGAUP_REFERENCE_LOGIN"] = False
    assert world.site().request("PUT", STATEMENT, b"x").status == 405


def test_statement_without_gitserver(world: World) -> None:
    redis = world.redis()
    site = world.site()
    answer = site.get(STATEMENT)
    assert (answer.status, answer.json["error"]) == (503, "gitserver: connection refused")
    assert redis.cli("keys", "*") == "", "nothing is stored, and nobody is left waiting"
    redis.cli("set", "problem:sumas:statement:es", '{"value": "kept"}', "EX", "100")
    assert site.get(STATEMENT).json["statement"] == "kept"


def test_what_the_gitserver_does_not_have(world: World) -> None:
    world.gitserver()
    assert world.site().get(STATEMENT).status == 404


def test_tags(world: World, mariadb: Mariadb) -> None:
    mariadb.sql("REPLACE INTO omegaup.Tags (name) VALUES ('dp'), ('dp-digits'), ('graphs')")
    redis = world.redis()
    site = world.site(OMEGAUP_DB_HOST=f"{HOST}:{mariadb.port}")
    cached(redis, site, "/tags?prefix=dp", "tags:dp", 3600)
    assert site.get("/tags?prefix=dp").json["tags"] == ["dp", "dp-digits"]


def test_scoreboard(world: World, mariadb: Mariadb) -> None:
    mariadb.sql(
        "USE omegaup; REPLACE INTO Submissions (submission_id, problem, language, contest, source) VALUES"
        " ('a', 'sumas', 'py3', 'omi', ''), ('b', 'sumas', 'py3', 'omi', ''), ('c', 'restas', 'py3', 'omi', ''),"
        " ('d', 'sumas', 'py3', NULL, '');"
        "REPLACE INTO Runs (submission_id, status, verdict) VALUES ('a', 'ready', 'AC'), ('b', 'ready', 'WA'),"
        " ('c', 'new', NULL), ('d', 'ready', 'AC')"
    )
    redis = world.redis()
    site = world.site(OMEGAUP_DB_HOST=f"{HOST}:{mariadb.port}")
    cached(redis, site, "/contest/omi/scoreboard", "scoreboard:omi", 30)
    problems = site.get("/contest/omi/scoreboard").json["problems"]
    assert problems == [{"problem": "sumas", "submissions": 2, "accepted": 1}]


def test_certificate(world: World, mariadb: Mariadb) -> None:
    mariadb.sql(
        "USE omegaup; REPLACE INTO Certificates (certificate_id, contest_id, username, verification_code, message_time)"
        " VALUES (7, 1, 'ana', 'ABCDEFGH23', 0); REPLACE INTO Certificate_Files (certificate_id, pdf, sha256)"
        " VALUES (7, '%PDF-1.5 ...', UNHEX(SHA2('', 256)))"
    )
    site = world.site(OMEGAUP_DB_HOST=f"{HOST}:{mariadb.port}")
    answer = site.get("/certificate/ABCDEFGH23")
    assert (answer.status, answer.headers["Content-Type"], answer.text) == (200, "application/pdf", "%PDF-1.5 ...")
    assert site.get("/certificate/ABCDEFGH24").status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/problem/..%2Fsecrets/statement/es", 404),
        ("/problem/sumas/statement/..", 404),
        ("/contest/%2Fetc/scoreboard", 404),
        ("/certificate/short", 404),
        ("/tags?prefix=%25", 422),
        ("/tags", 422),
        ("/tags?prefix[]=a", 422),
    ],
)
def test_names_that_are_none(shared: Shared, path: str, status: int) -> None:
    assert shared.site.get(path).status == status
