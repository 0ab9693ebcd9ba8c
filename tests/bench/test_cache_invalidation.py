"""What a pattern's invalidation costs Redis' other clients, with a million keys there: beside an idle run."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.frontend.fakes import HOST, Authority, Redis
from tests.unit.frontend.support import World

KEYS, STATEMENTS = 1_000_000, 1000
MILLISECOND = 1e-3
FILL = """
for n = 1, tonumber(ARGV[1]) do redis.call('SET', 'tags:' .. n, 'x') end
for n = 1, tonumber(ARGV[2]) do redis.call('SET', 'problem:sumas:statement:' .. n, 'x') end
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = Authority(tmp_path / "ssl")
    authority.client()
    made = World(tmp_path, authority)
    yield made
    made.close()


def pings(port: int, stop: threading.Event) -> list[float]:
    """Seconds of each PING, one after another."""
    found = []
    with socket.create_connection((HOST, port)) as client:
        while not stop.is_set():
            begun = time.perf_counter()
            client.sendall(b"PING\r\n")
            client.recv(64)
            found.append(time.perf_counter() - begun)
    return found


def percentile(values: list[float], of: float) -> float:
    return sorted(values)[int(len(values) * of)]


def idle(seconds: float) -> None:
    """A process that does nothing for so long, as the one of the measured run does something."""
    subprocess.run(["sleep", str(seconds)], check=True)


def measured(port: int, work: threading.Thread) -> list[float]:
    stop, found = threading.Event(), list[float]()
    client = threading.Thread(target=lambda: found.extend(pings(port, stop)))
    client.start()
    work.start()
    work.join()
    stop.set()
    client.join()
    return found


def test_a_pattern_among_a_million_keys(world: World) -> None:
    redis = world.redis()
    redis.cli("config", "set", "busy-reply-threshold", "60000")
    redis.cli("eval", FILL, "0", str(KEYS), str(STATEMENTS))
    site = world.site()
    code = "OmegaUp\\Cache::invalidateAllKeys(OmegaUp\\Cache::PROBLEM_STATEMENT, 'sumas');"
    begun = time.monotonic()
    busy = measured(redis.port, threading.Thread(target=site.run, args=(code,)))
    took = time.monotonic() - begun
    quiet = measured(redis.port, threading.Thread(target=idle, args=(max(1.0, took),)))
    slow, still = (percentile(values, 0.99) / MILLISECOND for values in (busy, quiet))
    longest = max(busy) / MILLISECOND
    print(f"\n{KEYS} keys: {took:.1f} s; p99 of others {slow:.2f} ms, idle {still:.2f} ms, longest {longest:.1f} ms")
    assert redis.cli("dbsize") == str(KEYS)
    assert slow < 10 or slow < 3 * still


def test_the_same_with_keys_shows_that_the_measurement_can_fail(world: World) -> None:
    """KEYS holds the server for as long as it looks: somebody waits for all of it."""
    redis: Redis = world.redis()
    redis.cli("config", "set", "busy-reply-threshold", "60000")
    redis.cli("eval", FILL, "0", str(KEYS), str(STATEMENTS))
    busy = measured(redis.port, threading.Thread(target=redis.cli, args=("keys", "problem:sumas:*")))
    assert max(busy) > 50 * MILLISECOND
