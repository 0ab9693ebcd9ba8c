"""What the database's traffic shows to who listens on the wire, and a fleet without TLS that is given it under load."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import inside
from tests.chaos import results
from tests.chaos.failover import database, eventually, load, settled, sql, the_fleet, visiting
from tests.chaos.load import TABLE
from tests.chaos.mysql import MEMBERS, judge, table
from tests.chaos.rolling import none_left, roll
from tests.chaos.support import SPEC, UNBOUNDED, altered, drift, fleet, on
from tests.chaos.visitors import Visits

__all__ = ["table"]

BAR = 5.0
"""Seconds: the longest that a write may wait in a roll."""
OFTEN = UNBOUNDED + 'roll = {"canary_seconds": 1, "read_interval": 0.3}'
LISTEN = """
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.settimeout(0.2)
until, port, found, packets = time.monotonic() + float(sys.argv[2]), int(sys.argv[1]).to_bytes(2, "big"), 0, 0
while time.monotonic() < until:
    try:
        packet = wire.recv(65535)
    except TimeoutError:
        continue
    head = packet[14:]
    start = (head[0] & 15) * 4 if head[:1] and head[0] >> 4 == 4 else 40
    if port in (head[start:start + 2], head[start + 2:start + 4]):
        packets += 1
        found += sys.argv[3].encode() in head
print(packets, found)
"""


def overheard(host: str, seconds: float = 6.0) -> tuple[int, int]:
    """(packets of the database's port, those with the name of the load's table in it) on a host's own network."""
    pid = inside.pid(SPEC, host)
    said = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", LISTEN, "3306", str(seconds), TABLE],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout.split()  # fmt: skip
    return int(said[0]), int(said[1])


def required() -> list[str]:
    """Accounts of the network that want a certificate."""
    return sql(
        database(),
        "SELECT User FROM mysql.global_priv WHERE Host <> 'localhost' AND JSON_VALUE(Priv, '$.ssl_type') = 3",
    )


def insisting() -> set[str]:
    """What the clients' files say."""
    places = [(one, host) for one in ("frontend", "grader", "worker") for host in the_fleet().members(one)]
    return {on(host.name, f"cat /etc/omegaup/{one}/mysql.tls").strip() for one, host in places}


def unnoticed(visits: dict[str, Visits], what: str) -> None:
    for kind, one in visits.items():
        results.note(f"{what}: visits, {kind}", failed=len(one.failed), slowest_seconds=one.slowest)
    assert {kind: one.failed[:3] for kind, one in visits.items() if one.failed} == {}


@pytest.fixture
def usual(tmp_path: Path) -> Iterator[Path]:
    """The inventory as it is, with short watches and no bound on how often visitors may come."""
    copy = altered(tmp_path / "usual", OFTEN)
    yield copy
    for _ in range(2):
        assert fleet("apply", inventory=copy).returncode == 0
        none_left(copy)
        assert roll(copy)[0] == 0
    assert fleet("apply").returncode == 0
    settled()


@pytest.mark.thorough
def test_who_listens_reads_nothing() -> None:
    with load("web1", "listen", "rows") as running:
        heard = {host: overheard(host) for host in MEMBERS}
        leader = database()
    assert running.end()["rows"].ids()
    assert heard[leader][0] > 10, "nothing was heard at all"
    assert {host: found for host, (_, found) in heard.items() if found} == {}


@pytest.mark.thorough
def test_a_fleet_without_tls_is_given_it_and_nobody_notices(usual: Path, tmp_path: Path) -> None:
    """apply, roll, apply; before that the other way, which is not noticed either. Without TLS the wire is read."""
    plain = altered(tmp_path / "plain", f'{OFTEN}\nmysql = mysql | {{"tls": False}}')
    assert fleet("apply", inventory=usual).returncode == 0, "visitors are bounded before that"
    with load("web1", "off", "rows") as running, visiting("web1") as visits:
        begun = time.time()
        assert fleet("apply", inventory=plain).returncode == 0
        assert required() == []
        assert roll(plain)[0] == 0
        time.sleep(2)
        heard = overheard(database())
        until = time.time()
    unnoticed(visits, "the database's TLS is turned off")
    judge("TLS is turned off", running.end()["rows"], BAR, begun, until)
    assert heard[1] > 10, "the twin: who listens reads the statements"
    assert fleet("drift", inventory=plain).returncode == 0
    with load("web1", "on", "rows") as running, visiting("web1") as visits:
        begun = time.time()
        assert fleet("apply", inventory=usual).returncode == 0
        assert insisting() == {"preferred"}
        assert required() == [], "members do not serve it yet"
        assert roll(usual)[0] == 0
        assert fleet("plan", "--no-diff", inventory=usual).returncode == 2, "what is left to do is said"
        assert fleet("apply", inventory=usual).returncode == 0
        assert insisting() == {"required"}
        assert required()
        time.sleep(2)
        heard = overheard(database())
        until = time.time()
    unnoticed(visits, "the database's TLS is turned on")
    judge("TLS is turned on", running.end()["rows"], BAR, begun, until)
    assert heard[0] > 10
    assert heard[1] == 0
    assert fleet("drift", inventory=usual).returncode == 0
    assert fleet("apply").returncode == 0
    assert drift() == set()


def test_a_pair_that_does_not_fit_is_refused_and_the_old_one_serves() -> None:
    """The reload fails, so it does not count as done, and apply puts it right."""
    host = MEMBERS[0]
    ask = "echo | openssl s_client -starttls mysql -connect {}:3306 2>/dev/null | openssl x509 -noout -serial"
    before = on(host, ask.format(SPEC.address(host)))
    key = "/etc/omegaup/ssl/mysql.key"
    try:
        on(host, f"cp -p {key} /run/fleet-key && openssl genrsa 2048 2>/dev/null >{key}")
        on(host, "! systemctl reload mariadb")
        assert on(host, ask.format(SPEC.address(host))) == before
        assert sql(host, "SELECT 1") == ["1"]
    finally:
        on(host, f"cp -p /run/fleet-key {key} && rm -f /run/fleet-key && systemctl reload mariadb")
    eventually("all is as it was", lambda: drift() == set(), 60)
