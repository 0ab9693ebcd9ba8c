"""The cache and the rate limit with many clients at both web hosts at once, and a cache that is full.

With a gitserver that can be watched: tests/unit/frontend/test_frontend_stampede.py. Among a million keys: tests/bench.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections import Counter

import pytest

from deploy.model.catalog import SERVICES
from tests.chaos.application import first, fresh, put_statement, web
from tests.chaos.failover import database, eventually, primary, redis, sql, the_fleet
from tests.chaos.support import on

pytestmark = pytest.mark.usefixtures("begun_well")

WEB = the_fleet().members("frontend")
VISITOR = first("runner")
"""Neither a web host nor one of those that they ask."""
CACHE, SESSIONS = (SERVICES["redis"].port(name).number for name in ("cache", "sessions"))
MIB = 2**20


def curl(path: str, each: int, *words: str) -> str:
    """Shell that asks every web host for this path so often, all at the same time, from one address."""
    urls = [word for host in WEB for word in ("-o", "/dev/null", f"http://{host.name}{path}?n=[1-{each}]")]
    shown = "%{http_code} %header{x-cache}%header{retry-after}\\n"
    return shlex.join(["curl", "-sS", "-m", "60", "-Z", "--parallel-immediate", "--parallel-max", "300",
                       "-w", shown, *words, *urls])  # fmt: skip


def test_two_hundred_clients_on_a_cold_key_compute_once() -> None:
    """While the gitserver takes a second for its answer: whoever would ask it too has the time to."""
    put_statement("coldkey", "Suma.")
    fresh("problem:coldkey:*")
    gitserver = "omegaup-gitserver.service"
    on(first("gitserver"), f"systemctl kill -s STOP {gitserver}; systemd-run -q --collect --on-active=1.5 "
                           f"--timer-property=AccuracySec=100ms systemctl kill -s CONT {gitserver}")  # fmt: skip
    answers = Counter(on(VISITOR, curl("/problem/coldkey/statement/es", 100)).splitlines())
    assert answers == {"200 miss": 1, "200 hit": 199}


def test_exactly_the_limit_passes_at_two_web_hosts_at_once() -> None:
    limit = WEB[0].settings.frontend.rate_limit
    put_statement("ratelimit", "Suma.")
    fresh("ratelimit:*")
    submission = json.dumps({"problem": "ratelimit", "language": "py3", "source": "print(1)"})
    said = on(VISITOR, curl("/submit", limit, "-H", "Content-Type: application/json", "--data", submission))
    answers = Counter(line.split()[0] for line in said.splitlines())
    assert answers == {"202": limit, "429": (len(WEB) - 1) * limit}
    waits = [int(line.split()[1]) for line in said.splitlines() if line.startswith("429")]
    assert 0 < min(waits) <= max(waits) <= 60
    # Whoever is judged next need not wait behind these.
    left = "SELECT COUNT(*) FROM Runs WHERE status <> 'ready'"
    eventually("all that passed are judged", lambda: sql(database(), left) == ["0"], 180)


def figure(port: int, name: str, section: str) -> int:
    """Of the primary's INFO."""
    said = dict(line.split(":", 1) for line in redis(primary(port), port, "INFO", section) if ":" in line)
    return int(said[name])


def test_a_full_cache_logs_nobody_out() -> None:
    """Four times as much as has room is written into the cache: it throws away its own, and nobody's session."""
    web1, host = WEB[0].name, primary(CACHE)
    login = f"curl -s -m 10 -o /dev/null -D - -H 'Content-Type: application/json' --data @- http://{web1}/login"
    token = "sed -n 's/.*ouat=\\([0-9a-f]*\\).*/\\1/p'"
    tokens = on(web1, f"for n in $(seq 50); do echo '{{\"identity_id\": 5}}' | {login} | {token}; done").split()
    assert len(set(tokens)) == 50
    before, sessions = (figure(port, "evicted_keys", "stats") for port in (CACHE, SESSIONS))
    room = figure(CACHE, "used_memory", "memory") + 4 * MIB
    redis(host, CACHE, "CONFIG", "SET", "maxmemory", str(room))
    try:
        script = "for n = 1, 16384 do redis.call('SET', KEYS[1] .. n, string.rep('x', 1024), 'EX', 120) end"
        redis(host, CACHE, "EVAL", shlex.quote(script), "1", f"tags:full-{secrets.token_hex(4)}-")
        assert figure(CACHE, "evicted_keys", "stats") > before + 8000
        session = f"curl -s -m 10 -o /dev/null -w '%{{http_code}} ' -b ouat=$t http://{web1}/session"
        assert Counter(on(web1, f"for t in {' '.join(tokens)}; do {session}; done").split()) == {"200": 50}
        assert web("/schools/rank?page=1&length=3")[0] == 200
    finally:
        redis(host, CACHE, "CONFIG", "SET", "maxmemory", str(WEB[0].settings.redis.maxmemory))
    assert figure(SESSIONS, "evicted_keys", "stats") == sessions
