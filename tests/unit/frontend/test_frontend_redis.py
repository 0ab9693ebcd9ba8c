"""The cache, the rate limit and the sessions, on real servers whose accounts may do no more than they need."""

from __future__ import annotations

import json
import re
import time

from tests.unit.frontend.fakes import Redis
from tests.unit.frontend.support import World

CACHE = "OmegaUp\\Cache"
SUBMISSION = {"problem": "sumas", "language": "py3", "source": "x"}


def test_get_or_set(world: World) -> None:
    redis = world.redis()
    site = world.site()
    code = f"""
        $compute = function (): ?array {{ echo 'computed '; return ['a' => [1, 'ñ']]; }};
        echo json_encode([{CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'x', $compute),
                          {CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'x', $compute)]);
        {CACHE}::getFromCacheOrSet({CACHE}::SCOREBOARD, 'contest', fn () => null);
        {CACHE}::getFromCacheOrSet({CACHE}::SCOREBOARD, 'contest', function () {{ echo 'again'; }});
        {CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'short', fn () => 1, 7);
    """
    assert site.run(code) == "computed " + json.dumps([{"a": [1, "ñ"]}] * 2, separators=(",", ":"))
    assert 3590 <= int(redis.cli("ttl", "tags:x")) <= 3600
    assert 25 <= int(redis.cli("ttl", "scoreboard:contest")) <= 30
    assert 1 <= int(redis.cli("ttl", "tags:short")) <= 7


def test_a_value_that_is_not_ours_is_replaced(world: World) -> None:
    redis = world.redis()
    redis.cli("set", "tags:x", '{"value": [1')
    assert world.site().run(f"echo {CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'x', fn () => 5);") == "5"
    assert json.loads(redis.cli("get", "tags:x"))["value"] == 5


def test_what_fails_is_not_stored(world: World) -> None:
    redis = world.redis()
    code = f"""
        try {{
            {CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'x', fn () => throw new Exception('no'));
        }} catch (Exception $e) {{
            echo $e->getMessage();
        }}
    """
    assert world.site().run(code) == "no"
    assert redis.cli("exists", "tags:x") == "0"


def test_invalidation(world: World) -> None:
    redis = world.redis()
    keys = [f"problem:a*:statement:{n}" for n in range(1500)]
    redis.cli("mset", *[word for key in keys for word in (key, "1")])
    redis.cli("mset", "problem:ab:statement:es", "1", "problem:a*b:statement:es", "1", "tags:a", "1")
    site = world.site()
    assert site.run(f"var_export({CACHE}::invalidateAllKeys({CACHE}::PROBLEM_STATEMENT, 'a*'));") == "true"
    assert sorted(redis.cli("keys", "*").split()) == ["problem:a*b:statement:es", "problem:ab:statement:es", "tags:a"]
    assert site.run(f"var_export({CACHE}::invalidateAllKeys({CACHE}::PROBLEM_STATEMENT));") == "true"
    assert site.run(f"var_export({CACHE}::deleteFromCache({CACHE}::TAGS, 'a'));") == "true"
    assert redis.cli("dbsize") == "0"


def test_without_a_cache_all_is_computed(world: World) -> None:
    code = f"""
        echo {CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'x', fn () => 5);
        var_export({CACHE}::deleteFromCache({CACHE}::TAGS, 'x'));
    """
    assert world.site().run(code) == "5false"


def test_a_cache_that_hangs_costs_seconds_once(world: World) -> None:
    redis = world.redis()
    world.pause(redis.process)
    reads = "".join(f"echo {CACHE}::getFromCacheOrSet({CACHE}::TAGS, 'x{n}', fn () => {n});" for n in range(9))
    started = time.monotonic()
    assert world.site().run(reads) == "012345678"
    assert time.monotonic() - started < 3


def test_connections_persist_and_are_renewed(world: World) -> None:
    redis = world.redis()
    world.grader().answers["/submission/new"] = (200, {"id": "a"})
    site = world.site()
    for _ in range(5):
        assert site.post("/submit", SUBMISSION).status == 202
    [kept] = redis.clients()
    redis.cli("client", "kill", "user", "frontend")
    assert site.post("/submit", SUBMISSION).status == 202
    [renewed] = redis.clients()
    assert renewed != kept
    [key] = redis.cli("keys", "*").split()
    assert redis.cli("get", key) == "6", "also the request that met the closed connection was counted"


def test_rate_limit(world: World) -> None:
    redis = world.redis()
    grader = world.grader()
    grader.answers["/submission/new"] = (200, {"id": "a"})
    site = world.site(OMEGAUP_RATE_LIMIT=3)
    assert [site.post("/submit", SUBMISSION).status for _ in range(5)] == [202, 202, 202, 429, 429]
    refused = site.post("/submit", SUBMISSION)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json["status"] == "error"
    assert len(grader.seen) == 3
    assert redis.cli("get", "ratelimit:127.0.0.1:submit") == "6"
    assert 1 <= int(redis.cli("ttl", "ratelimit:127.0.0.1:submit")) <= 60
    # A counter that never ends would lock the address out for good.
    redis.cli("persist", "ratelimit:127.0.0.1:submit")
    site.post("/submit", SUBMISSION)
    assert 1 <= int(redis.cli("ttl", "ratelimit:127.0.0.1:submit")) <= 60
    # The address is the connection's: a header does not make a client somebody else.
    assert site.post("/submit", SUBMISSION, headers={"X-Forwarded-For": "192.0.2.1"}).status == 429


def test_rate_limit_fails_open(world: World) -> None:
    redis = world.redis()
    world.grader().answers["/submission/new"] = (200, {"id": "a"})
    site = world.site(OMEGAUP_RATE_LIMIT=1)
    assert [site.post("/submit", SUBMISSION).status for _ in range(2)] == [202, 429]
    redis.stop()
    assert [site.post("/submit", SUBMISSION).status for _ in range(2)] == [202, 202]
    redis.start()
    assert [site.post("/submit", SUBMISSION).status for _ in range(2)] == [202, 429]


def test_session(world: World) -> None:
    redis = world.redis(Redis.SESSION_KEYS)
    site = world.site()
    assert site.get("/session").status == 401
    login = site.post("/login", {"identity_id": 12345, "user_id": 67890})
    assert login.status == 200
    cookie = login.headers["Set-Cookie"]
    token = re.match(r"ouat=([0-9a-f]{64});", cookie)[1]  # type: ignore[index]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    stored = json.loads(redis.cli("get", f"session:{token}"))
    assert abs(stored.pop("login_time") - time.time()) < 10
    assert stored == {"identity_id": 12345, "user_id": 67890, "ip_address": "127.0.0.1"}
    assert 86390 <= int(redis.cli("ttl", f"session:{token}")) <= 86400
    mine = {"Cookie": f"ouat={token}"}
    assert site.get("/session", headers=mine).json["session"]["identity_id"] == 12345
    # Logging in again ends the earlier session.
    assert site.post("/login", form="identity_id=1", headers=mine).status == 200
    assert site.get("/session", headers=mine).status == 401
    [key] = redis.cli("keys", "*").split()
    mine = {"Cookie": f"ouat={key.removeprefix('session:')}"}
    assert site.post("/logout", headers=mine).status == 200
    assert redis.cli("dbsize") == "0"


def test_the_cache_is_not_where_sessions_are(world: World) -> None:
    cache, sessions = world.redis(), world.redis(Redis.SESSION_KEYS)
    site = world.site()
    assert site.post("/login", {"identity_id": 1}).status == 200
    token = sessions.cli("keys", "*").removeprefix("session:")
    assert cache.cli("dbsize") == "0"
    site.run(f"{CACHE}::deleteFromCache({CACHE}::SESSION_PREFIX, '{token}');")
    assert sessions.cli("dbsize") == "0"


def test_no_sessions(world: World) -> None:
    site = world.site()
    answer = site.post("/login", {"identity_id": 1})
    assert (answer.status, answer.json["error"]) == (503, "redis: connection refused")
    assert "Set-Cookie" not in answer.headers
    # "Cannot tell" is not "not logged in".
    assert site.get("/session", headers={"Cookie": f"ouat={'a' * 64}"}).status == 503


def test_login_is_off_by_default(world: World) -> None:
    del world.constants["OMEGAUP_REFERENCE_LOGIN"]
    assert world.site().post("/login", {"identity_id": 1}).status == 404


def test_tls(world: World) -> None:
    redis = world.redis(Redis.SESSION_KEYS, tls=world.authority)
    site = world.site()
    for _ in range(2):
        assert site.post("/login", {"identity_id": 1}).status == 200
    assert len(redis.clients()) == 1


def test_a_session_that_no_replica_has_does_not_count(world: World) -> None:
    world.redis(Redis.SESSION_KEYS)
    code = """
        try { OmegaUp\\Session::create(1, 2, '10.0.0.1'); echo 'a token'; }
        catch (RedisException $e) { echo $e->getMessage(); }
    """
    assert world.site().run(code) == "a token"
    assert world.site(REDIS_SESSIONS_REPLICAS=1).run(code) == "the session has no replica"
