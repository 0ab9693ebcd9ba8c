"""Many clients on one key: one of them computes, whatever the web host; and what is no longer true is not stored."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.unit.frontend.fakes import FakeGrader, Redis
from tests.unit.frontend.support import Answer, Site, World

CACHE = "OmegaUp\\Cache"
PATH, KEY = "/problem/sumas/statement/es", "problem:sumas:statement:es"


class Slow:
    """An answer of the gitserver that takes its time: until `go`, or for some seconds."""

    def __init__(self, gitserver: FakeGrader, seconds: float = 10.0) -> None:
        self.go, self.asked = threading.Event(), threading.Event()
        self.seconds = seconds
        gitserver.answers.pop(PATH, None)
        gitserver.hooks[PATH] = self

    def __call__(self) -> tuple[int, bytes]:
        self.asked.set()
        self.go.wait(self.seconds)
        return 200, b"computed"


def asked(clients: int, *sites: Site) -> list[Answer]:
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda n: sites[n % len(sites)].get(PATH), range(clients)))


def test_a_cold_key_is_computed_once(world: World) -> None:
    world.redis()
    gitserver = world.gitserver()
    Slow(gitserver, 0.5)
    answers = asked(200, world.site(workers=12), world.site(workers=12))
    assert {(answer.status, answer.json["statement"]) for answer in answers} == {(200, "computed")}
    assert len(gitserver.seen) == 1
    assert sorted(answer.headers["X-Cache"] for answer in answers) == ["hit"] * 199 + ["miss"]


def test_without_the_lock_everybody_computes(world: World) -> None:
    """The same with the cache away: the clients above do come at once."""
    gitserver = world.gitserver()
    Slow(gitserver, 0.2)
    answers = asked(40, world.site(workers=12), world.site(workers=12))
    # Forty at once may run into their time limit (503) on a machine with other work: each has asked all the same.
    assert {answer.status for answer in answers} <= {200, 503}
    assert len(gitserver.seen) >= 36


def test_others_get_the_old_value_while_one_computes_the_new(world: World) -> None:
    redis, gitserver = world.redis(), world.gitserver()
    slow, site = Slow(gitserver), world.site(workers=4)
    redis.cli("set", KEY, json.dumps({"value": "old", "cost": 2}), "EX", "3")
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(site.get, PATH)
        assert slow.asked.wait(5)
        begun = time.monotonic()
        assert site.get(PATH).json["statement"] == "old"
        assert time.monotonic() - begun < 1
        slow.go.set()
        assert computing.result().json["statement"] == "computed"
    assert site.get(PATH).json["statement"] == "computed"
    assert len(gitserver.seen) == 1
    assert 3595 <= int(redis.cli("ttl", KEY)) <= 3600


def test_what_was_invalidated_meanwhile_is_not_stored(world: World) -> None:
    redis, gitserver = world.redis(), world.gitserver()
    site = world.site()
    for invalidate in (
        f"{CACHE}::invalidateAllKeys({CACHE}::PROBLEM_STATEMENT, 'sumas');",
        f"{CACHE}::deleteFromCache({CACHE}::PROBLEM_STATEMENT, 'sumas:statement:es');",
        f"{CACHE}::invalidateAllKeys({CACHE}::PROBLEM_STATEMENT);",
    ):
        slow = Slow(gitserver)
        with ThreadPoolExecutor(1) as pool:
            computing = pool.submit(site.get, PATH)
            assert slow.asked.wait(5)
            assert redis.cli("keys", "*") == f"{KEY}#lock"
            site.run(invalidate)
            slow.go.set()
            assert computing.result().json["statement"] == "computed"
        assert redis.cli("keys", "*") == ""


def test_who_dies_while_computing_does_not_hold_up_the_others_for_long(world: World) -> None:
    redis = world.redis()
    gitserver = world.gitserver()
    gitserver.answers[PATH] = (200, b"computed")
    redis.cli("set", f"{KEY}#lock", "of somebody who is gone", "PX", "600")
    begun = time.monotonic()
    assert world.site().get(PATH).status == 200
    assert 0.3 < time.monotonic() - begun < 3
    assert redis.cli("keys", "*") == KEY


def test_a_full_cache_makes_nobody_wait(world: World) -> None:
    redis: Redis = world.redis()
    gitserver = world.gitserver()
    gitserver.answers[PATH] = (200, b"computed")
    site = world.site()
    redis.cli("config", "set", "maxmemory", "1")
    begun = time.monotonic()
    assert [site.get(PATH).status for _ in range(3)] == [200] * 3
    assert time.monotonic() - begun < 2
    assert len(gitserver.seen) == 3


def test_exactly_as_many_pass_as_may_from_two_web_hosts_at_once(world: World) -> None:
    redis, grader = world.redis(), world.grader()
    grader.answers["/submission/new"] = (200, {"id": "a"})
    sites = [world.site(workers=8, OMEGAUP_RATE_LIMIT=25) for _ in range(2)]
    body = {"problem": "sumas", "language": "py3", "source": "x"}
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: sites[n % 2].post("/submit", body), range(80)))
    assert sorted(answer.status for answer in answers) == [202] * 25 + [429] * 55
    ttl = int(redis.cli("ttl", "ratelimit:127.0.0.1:submit"))
    assert all(ttl <= int(a.headers["Retry-After"]) <= 60 for a in answers if a.status == 429)
