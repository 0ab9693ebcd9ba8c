"""Redis under load, and one fault after another: who writes hardly notices, and what was promised is there."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from deploy.model.catalog import SERVICES
from tests.chaos import faults, results
from tests.chaos.failover import (
    PORTS,
    database,
    eventually,
    load,
    primaries,
    primary,
    redis,
    roles,
    settled,
    the_fleet,
)
from tests.chaos.load import Ledger
from tests.chaos.mysql import db_command
from tests.chaos.promises import missing
from tests.chaos.support import INVENTORY, REPEATS, ROOT, altered, apply, drift, fleet, on, reordered

SENTINEL = SERVICES["sentinel"].port("sentinel").number
BAR = 10.0
"""Seconds within which writes must work again."""
UNHEARD = 2.0
"""Seconds of acknowledgements that a primary may take with it: its replicas are sent each write at once, so this is
all that lies between a write and the moment of the fault, with some room for a slow machine."""

MEMBERS = ("data1", "data2", "data3")


@pytest.fixture(autouse=True)
def whole(begun_well: None) -> Iterator[None]:
    """Each test begins and ends with a fleet that is what the inventory says."""
    yield
    settled()


def judge(fault: str, ledgers: dict[str, Ledger], begun: float, until: float, bound: float | None = UNHEARD) -> None:
    """Pauses within the bar, nothing lost that was promised; the rest is counted, and was acknowledged within
    `bound` seconds of the fault.
    """
    for kind, ledger in ledgers.items():
        pause = ledger.gap(begun, until)
        kept, plain = missing(set(ledger.kept), kind), missing(ledger.ids() - set(ledger.kept), kind)
        results.note(
            f"Redis {kind}: {fault}", seconds_without_writes=pause, promised_and_lost=len(kept),
            acknowledged_by_the_primary_alone_and_lost=len(plain),
        )  # fmt: skip
        assert pause < BAR, f"{kind}: {pause:.1f} s without writes; refused: {ledger.refusals[-3:]}"
        assert kept == set()
        if bound is not None:
            late = {name for name, at in ledger.acknowledged if begun - UNHEARD <= at <= begun + bound}
            assert plain <= late, f"lost, although acknowledged well before the fault: {sorted(plain - late)[:5]}"


FAULTS: dict[str, Callable[[str], AbstractContextManager[None]]] = {
    "killed for good": lambda host: faults.killed_for_good(host, "redis-cache", "redis-sessions"),
    "host without power": faults.power_cut,
    "host frozen": faults.frozen,
}


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
@pytest.mark.parametrize("fault", FAULTS)
def test_primary_gone(fault: str, turn: int) -> None:
    # Whoever leads the sessions; the cache's primary may be elsewhere, and is then a replica's loss on this host.
    victim = primary(PORTS["sessions"])
    if database() == victim:
        # Only a person replaces a database's primary that has lost its power (test_mysql_failover).
        code, said = db_command("switchover")
        assert code == 0, said
    with load("web1", f"{fault.replace(' ', '-')}-{turn}", "sessions", "cache") as running:
        begun = time.time()
        with FAULTS[fault](victim):
            others = tuple(name for name in MEMBERS if name != victim)
            for port in PORTS.values():
                eventually("another primary", partial(lambda p: "master" in roles(p, others).values(), port), 30)
            time.sleep(6)
            until = time.time()
        eventually("the old one follows", lambda: roles(PORTS["sessions"])[victim] == "slave", 60)
    settled()
    assert primary(PORTS["sessions"]) != victim
    judge(f"primary {fault}", running.end(), begun, until)
    before = {port: primary(port) for port in PORTS.values()}
    assert apply()["done"] == []
    assert {port: primary(port) for port in PORTS.values()} == before


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_killed_and_started_again_by_systemd(turn: int) -> None:
    """Back within a second, with all that it had acknowledged."""
    victims = {kind: primary(port) for kind, port in PORTS.items()}
    with load("web1", f"killed-{turn}", "sessions", "cache") as running:
        begun = time.time()
        for kind, victim in victims.items():
            faults.kill_9(victim, f"redis-{kind}")
        eventually("primaries", lambda: all("master" in roles(p).values() for p in PORTS.values()), 30)
        time.sleep(6)
        until = time.time()
    settled()
    judge("primary killed, started again by systemd", running.end(), begun, until)


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_primary_cut_off_with_a_client(turn: int) -> None:
    """The other side goes on with another primary; the isolated one stops taking writes, and has no say afterwards."""
    victim = primary(PORTS["sessions"])
    settings = the_fleet().host(victim).settings.redis
    island = (victim, "web1")
    others = tuple(host.name for host in the_fleet().hosts if host.name not in island)
    with (
        load("web1", f"island-{turn}", "sessions") as alone,
        load("web2", f"mainland-{turn}", "sessions") as together,
    ):
        with faults.cut_off(island, others):
            begun = time.time()
            rest = tuple(name for name in MEMBERS if name != victim)
            eventually("a primary on the larger side", lambda: "master" in roles(PORTS["sessions"], rest).values(), 30)
            time.sleep(settings.min_replicas_max_lag + 5)
            healed = time.time()
        eventually("the old one follows", lambda: roles(PORTS["sessions"])[victim] == "slave", 60)
        time.sleep(5)
        until = time.time()
    settled()
    assert primary(PORTS["sessions"]) != victim
    judge("primary cut off, as the larger side sees it", together.end(), begun, until)
    isolated = alone.end()["sessions"]
    during = [at - begun for _, at in isolated.acknowledged if begun <= at <= healed]
    after = [at - healed for _, at in isolated.acknowledged if at > healed]
    lost = missing(isolated.ids(), "sessions")
    results.note(
        "Redis sessions: primary cut off with a client on its side", last_isolated_write_after_seconds=max(during),
        isolated_writes_lost=len(lost), client_back_after_seconds=min(after),
    )  # fmt: skip
    # Redis counts whole seconds, once a second.
    assert max(during) <= settings.min_replicas_max_lag + 2
    assert missing(set(isolated.kept), "sessions") == set()
    # What went to the isolated side alone is bounded by the time in which it took writes.
    assert lost <= {name for name, at in isolated.acknowledged if begun - 1 <= at <= begun + max(during)}
    assert min(after) < BAR


def planned_failover(kind: str, inventory: str | Path) -> str:
    """Sentinel gives the role to another member; its name. inventory: what the fleet is meanwhile."""
    victim = primary(PORTS[kind])
    redis("data1", SENTINEL, f"SENTINEL FAILOVER {kind}")
    eventually("another primary", lambda: roles(PORTS[kind]).get(victim) == "slave", 30)
    settled(inventory=inventory)
    return primary(PORTS[kind])


def test_a_role_is_never_moved_back_whatever_the_inventory_lists_first(tmp_path: Path) -> None:
    """A planned failover, then the same inventory with its hosts in the other order, and in the first one again."""
    applied: str | Path = INVENTORY
    other = reordered(tmp_path / "other", "redis", *reversed(MEMBERS))
    for inventory, listed_first in ((other, MEMBERS[-1]), (INVENTORY, MEMBERS[0])):
        while primary(PORTS["cache"]) == listed_first:
            planned_failover("cache", applied)
        leads = primary(PORTS["cache"])
        applied = inventory
        done = fleet("apply", "--json", inventory=inventory)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        moved = [step for step in json.loads(done.stdout)["done"] if step["role"] in {"redis", "sentinel"}]
        assert moved == []
        assert primary(PORTS["cache"]) == leads
    apply()
    assert drift() == set()


@pytest.mark.thorough
def test_a_role_that_moves_during_an_apply_is_not_moved_back(tmp_path: Path) -> None:
    """Sentinel fails over after the run has looked and before it acts on Redis: the run works with the new primary,
    or stops and says so.
    """
    victim = primary(PORTS["cache"])
    changed = altered(tmp_path, "base = base | {'journal_max': '123mb'}\nredis = redis | {'slowlog_slower_than': 4321}")
    process = subprocess.Popen(
        [str(ROOT / "fleet"), "apply", str(changed)], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "journald.conf.d" in line:
            break
    redis("data1", SENTINEL, "SENTINEL FAILOVER cache")
    eventually("another primary", lambda: roles(PORTS["cache"]).get(victim) == "slave", 30)
    moved = primary(PORTS["cache"])
    said += process.communicate(timeout=300)[0]
    assert process.returncode == 0 or "roles have moved" in said or "still" in said, said[-3000:]
    assert primary(PORTS["cache"]) == moved
    apply()
    assert drift() == set()
    assert primary(PORTS["cache"]) == moved


@pytest.mark.thorough
def test_an_old_primary_that_is_stopped_is_started_as_a_replica() -> None:
    """It answers as a primary until Sentinel has told it; apply neither believes it nor gives up."""
    victim = primary(PORTS["cache"])
    on(victim, "systemctl stop redis-cache")
    others = tuple(name for name in MEMBERS if name != victim)
    eventually("another primary", lambda: "master" in roles(PORTS["cache"], others).values(), 30)
    leads = primaries(PORTS["cache"], others)[0]
    assert (victim, "unit:redis-cache.service") in {(step["host"], step["key"]) for step in apply()["done"]}
    assert primary(PORTS["cache"]) == leads
    assert drift() == set()


@pytest.mark.thorough
def test_one_that_is_never_to_lead_does_not(tmp_path: Path) -> None:
    """replica_priority 0 on all but two members: the role goes to and fro between those."""
    never = next(name for name in MEMBERS if name != primary(PORTS["cache"]))
    copy = altered(tmp_path, "")
    text = (copy / "inventory.py").read_text()
    given = f"[(name, {{'ssh_hostname': address}} | ({{'redis': LESS}} if name == {never!r} else {{}}))"
    less = "LESS = {'sessions_maxmemory': '64mb', 'repl_backlog_size': '16mb', 'replica_priority': 0}"
    assert '[(name, {"ssh_hostname": address})' in text
    text = text.replace('[(name, {"ssh_hostname": address})', given).replace("\nall = (", f"\n{less}\nall = (")
    (copy / "inventory.py").write_text(text)
    done = fleet("apply", inventory=copy)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def known(sentinel: str) -> bool:
        said = redis(sentinel, SENTINEL, "SENTINEL REPLICAS cache")
        return "0" in [value for name, value in itertools.pairwise(said) if name == "slave-priority"]

    try:
        eventually("the sentinels know", lambda: all(known(name) for name in MEMBERS), 30)
        seen = set()
        for _ in range(3):
            before = primary(PORTS["cache"])
            redis("data1", SENTINEL, "SENTINEL FAILOVER cache")
            eventually("another primary", lambda was=before: roles(PORTS["cache"]).get(was) == "slave", 30)  # type: ignore[misc]
            seen.add(primary(PORTS["cache"]))
            eventually("its replicas follow", lambda: fleet("drift", inventory=copy).returncode == 0, 60)
        assert never not in seen
        assert len(seen) == 2
    finally:
        apply()
