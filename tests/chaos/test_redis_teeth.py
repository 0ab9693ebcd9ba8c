"""The twins: with a protection removed, the same fault does harm. A suite that stayed green then would show nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from deploy.model.catalog import PROXY_ADDRESS
from tests.chaos import faults, results
from tests.chaos.failover import PORTS, applied, eventually, load, primary, roles, secret, settled, the_fleet
from tests.chaos.promises import missing
from tests.chaos.support import SPEC, altered, fleet
from tests.chaos.test_redis_failover import BAR, MEMBERS

PORT = PORTS["sessions"]


@pytest.fixture(autouse=True)
def whole(begun_well: None) -> Iterator[None]:
    yield
    # Refused while the brokers, which were cut off as well, do not see one another.
    applied()
    settled()


@contextmanager
def without(tmp_path: Path, setting: str) -> Iterator[None]:
    """The fleet with another setting; the inventory's own comes back at the end."""
    done = fleet("apply", inventory=altered(tmp_path, setting))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    yield


@pytest.mark.thorough
def test_without_min_replicas_the_isolated_primary_loses_what_it_accepts(tmp_path: Path) -> None:
    with without(tmp_path, "redis = redis | {'min_replicas_to_write': 0}"):
        victim = primary(PORT)
        lag = the_fleet().host(victim).settings.redis.min_replicas_max_lag
        island = (victim, "web1")
        rest = tuple(name for name in MEMBERS if name != victim)
        others = tuple(host.name for host in the_fleet().hosts if host.name not in island)
        with load("web1", "toothless", "sessions") as alone:
            begun = time.time()
            with faults.cut_off(island, others):
                eventually("a primary on the larger side", lambda: "master" in roles(PORT, rest).values(), 30)
                time.sleep(lag + 5)
                healed = time.time()
            eventually("the old one follows", lambda: roles(PORT)[victim] == "slave", 60)
        ledger = alone.end()["sessions"]
        during = [at - begun for _, at in ledger.acknowledged if begun <= at <= healed]
        lost = missing(ledger.ids(), "sessions")
        results.note("Redis sessions: the same without min-replicas", isolated_writes_lost=len(lost))
        assert max(during) > lag + 2, "it should have gone on taking writes"
        late = {name for name, at in ledger.acknowledged if begun + lag + 1 < at <= healed - 1}
        assert late
        assert late <= lost


def seconds_until_told() -> float:
    """How long a client without a time-out of its own waits on a connection to a primary that hangs; at most 20."""
    with _connected("web1") as connection:
        assert b"+OK" in _ask(connection, f"AUTH app {secret('redis/app')}")
        assert b"+OK" in _ask(connection, "SET session:before x EX 60")
        with faults.frozen(primary(PORT)):
            begun = time.monotonic()
            with contextlib.suppress(ConnectionError, TimeoutError):
                _ask(connection, "SET session:during x EX 60")
            return time.monotonic() - begun


@contextmanager
def _connected(host: str) -> Iterator[socket.socket]:
    """A socket made in the host's network: `socat` there, a pair of ends here."""
    ours, theirs = socket.socketpair()
    command = lab.enter_argv(SPEC, host, ["socat", "-", f"TCP:{PROXY_ADDRESS}:{PORT}"])
    process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
    theirs.close()
    ours.settimeout(20)
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.wait()


def _ask(connection: socket.socket, line: str) -> bytes:
    connection.sendall(line.encode() + b"\r\n")
    return connection.recv(4096)


@pytest.mark.thorough
def test_a_session_with_a_hanging_primary_is_cut() -> None:
    assert seconds_until_told() < BAR


@pytest.mark.thorough
def test_without_the_cut_it_hangs_on(tmp_path: Path) -> None:
    with without(tmp_path, "proxy = {'cut_sessions': False}"):
        assert seconds_until_told() > BAR + 5
