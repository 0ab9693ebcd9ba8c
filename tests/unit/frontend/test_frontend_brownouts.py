"""Each part gone, or there and silent: what each page answers, and that nobody waits beyond what the settings allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.frontend.fakes import HOST, Mariadb, Redis
from tests.unit.frontend.support import Answer, Site, World

SLOWEST = 2.0
"""Seconds: no part is waited for longer than one below, but for a page that needs two of them."""
TIMEOUTS: dict[str, Any] = {
    "OMEGAUP_REDIS_TIMEOUT_MS": 500, "OMEGAUP_DB_TIMEOUT_MS": 1000, "OMEGAUP_RABBITMQ_TIMEOUT_MS": 700,
    "OMEGAUP_BACKEND_TIMEOUT_MS": 800,
}  # fmt: skip
SUBMISSION = {"problem": "sumas", "language": "py3", "source": "x", "submission_id": "mine"}
ORDER: dict[str, Any] = {"contest_id": 1, "certificate_cutoff": None, "ranking": []}
PAGES: dict[str, Callable[[Site], Answer]] = {
    "home": lambda site: site.get("/"),
    "live": lambda site: site.get("/health/live"),
    "rank": lambda site: site.get("/schools/rank"),
    "tags": lambda site: site.get("/tags?prefix=dp"),
    "scoreboard": lambda site: site.get("/contest/omi/scoreboard"),
    "statement": lambda site: site.get("/problem/sumas/statement/es"),
    "submit": lambda site: site.post("/submit", SUBMISSION),
    "submission": lambda site: site.get("/submission/mine"),
    "certificates": lambda site: site.post("/certificates", ORDER),
    "login": lambda site: site.post("/login", {"identity_id": 1}),
}
WELL = {
    "home": 200, "live": 200, "rank": 200, "tags": 200, "scoreboard": 200, "statement": 200, "submit": 202,
    "submission": 200, "certificates": 202, "login": 200,
}  # fmt: skip
# What differs from that while a part is away.
GONE: dict[str, dict[str, int]] = {
    "nothing": {},
    "cache": {},
    "sessions": {"login": 503},
    "broker": {"certificates": 503},
    "grader": {"submission": 503},
    "gitserver": {"statement": 503},
    "database": {"rank": 503, "tags": 503, "scoreboard": 503},
}


@pytest.fixture
def parts(world: World, mariadb: Mariadb) -> dict[str, Any]:
    grader, gitserver = world.grader(), world.gitserver()
    grader.answers["/submission/new"] = (200, {"id": "mine"})
    grader.answers["/submission/status/mine"] = (200, {"state": "new"})
    gitserver.answers["/problem/sumas/statement/es"] = (200, b"Suma.")
    world.constants |= {**TIMEOUTS, "OMEGAUP_DB_HOST": f"{HOST}:{mariadb.port}"}
    cache, sessions = world.redis(), world.redis(Redis.SESSION_KEYS)
    return {
        "cache": cache, "sessions": sessions, "broker": world.broker(), "grader": grader, "gitserver": gitserver,
        "database": mariadb,
    }  # fmt: skip


def visited(site: Site) -> tuple[dict[str, int], dict[str, float]]:
    codes, seconds = {}, {}
    for name, ask in PAGES.items():
        begun = time.monotonic()
        codes[name] = ask(site).status
        seconds[name] = time.monotonic() - begun
    return codes, seconds


def judged(what: str, site: Site) -> None:
    codes, seconds = visited(site)
    print(f"\n{what}: " + ", ".join(f"{name} {codes[name]} {seconds[name]:.2f} s" for name in PAGES))
    assert codes == {**WELL, **GONE[what.split()[0]]}
    assert max(seconds.values()) < SLOWEST


@pytest.mark.parametrize("gone", GONE)
def test_gone(world: World, parts: dict[str, Any], gone: str) -> None:
    """Nobody listens: the refusal comes at once."""
    port = {
        "cache": "REDIS_PORT", "sessions": "REDIS_SESSIONS_PORT", "broker": "OMEGAUP_RABBITMQ_PORT",
        "grader": "OMEGAUP_GRADER_URL", "gitserver": "OMEGAUP_GITSERVER_URL", "database": "OMEGAUP_DB_HOST",
    }  # fmt: skip
    nobody: dict[str, Any] = {"PORT": 1, "URL": f"https://{HOST}:1", "HOST": f"{HOST}:1"}
    if gone != "nothing":
        world.constants[port[gone]] = nobody[port[gone].rpartition("_")[2]]
    judged(f"{gone} is gone", world.site())


def in_three_seconds() -> tuple[int, Any]:
    time.sleep(3)
    return 200, {}


@pytest.mark.parametrize("silent", [part for part in GONE if part not in ("nothing", "database")])
def test_silent_and_back(world: World, parts: dict[str, Any], silent: str) -> None:
    """It takes connections and never answers: each page waits for its time-out. Then it answers, and all is well."""
    part, site = parts[silent], world.site()
    judged("nothing is away", site)
    if silent in ("cache", "sessions"):
        world.pause(part.process)
    elif silent == "broker":
        part.mode = "silent"
    else:
        for path in list(part.answers):
            part.hooks[path] = in_three_seconds
        if silent == "gitserver":
            parts["cache"].cli("flushall")
    judged(f"{silent} is silent", site)
    if silent in ("cache", "sessions"):
        part.process.send_signal(18)  # SIGCONT
    elif silent == "broker":
        part.mode = "ack"
    else:
        part.hooks.clear()
    judged("nothing is away any more", site)


def test_a_full_cache_logs_nobody_out(world: World, parts: dict[str, Any]) -> None:
    cache, site = parts["cache"], world.site()
    cache.cli("config", "set", "maxmemory-policy", "allkeys-lru")
    cookie = {"Cookie": site.post("/login", {"identity_id": 1}).headers["Set-Cookie"].split(";")[0]}
    used = int(next(line for line in cache.cli("info", "memory").splitlines() if line.startswith("used_memory:"))[12:])
    cache.cli("config", "set", "maxmemory", str(used + 2 * 2**20))
    fill = "for n = 1, 20000 do redis.call('SET', 'tags:' .. n, string.rep('x', 1000)) end"
    cache.cli("eval", fill, "0")
    evicted = next(line for line in cache.cli("info", "stats").splitlines() if line.startswith("evicted_keys:"))
    assert int(evicted.partition(":")[2]) > 100
    assert site.get("/session", headers=cookie).json["session"]["identity_id"] == 1
    assert site.get("/tags?prefix=dp").status == 200
