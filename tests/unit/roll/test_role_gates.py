"""Each gate of a role: what it lets pass and what it does not. Pure: what the members said is given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploy.converge.desired import host_state, render, tree, ways
from deploy.model.catalog import CATALOG
from deploy.model.fleet import Context, Live
from deploy.model.observed import Answer, Snapshot
from deploy.model.resources import Unit
from deploy.model.ways import Gate, HealthSeen, View, Way
from tests.unit import test_apply_classes as apply_classes
from tests.unit.roll.fleets import DATA, FLEET, context, redis, stopped


def way(host: str, name: str) -> Way:
    return next(one for one in ways(context(host)) if one.name == name)


def gate(of: Way, name: str) -> Gate:
    return next(one for one in of.gates if one.name == name)


def view(member: str, seen: dict[str, Snapshot], **more: object) -> View:
    given: dict[str, object] = {"leader": "data1"} | more
    return View(context(member), member, seen, **given)  # type: ignore[arg-type]


WELL = {name: redis(name) for name in DATA}
CACHE = way("data2", "redis-cache")


def test_every_rolling_service_has_a_way_and_gates() -> None:
    for host in FLEET.hosts:
        named = {unit for one in ways(context(host.name)) for unit in one.units}
        for service in host.services:
            assert set(service.units_on(context(host.name).release)) <= named
        for one in ways(context(host.name)):
            assert {"running", "health"} <= {item.name for item in one.gates}
            assert one.service in {service.name for service in CATALOG}


def test_a_healthy_service_passes_every_gate() -> None:
    for name in ("redis-cache", "redis-sessions", "redis-sentinel"):
        for item in way("data2", name).gates:
            assert list(item.why_not(view("data2", WELL))) == [], item.name


@pytest.mark.parametrize(
    ("name", "host", "change", "words"),
    [
        ("replication", "data3", {"info__master_link_status": "down"}, "link down"),
        ("replication", "data3", {"info__role": "master"}, "not the only one"),
        ("in step", "data3", {"info__slave_repl_offset": "100"}, "bytes behind data1"),
        ("writes survive", "data1", {"info__min_slaves_good_slaves": "1"}, "2 are needed to do without data2"),
        ("persistence", "data3", {"info__aof_last_write_status": "err"}, "aof_last_write_status is err"),
        ("persistence", "data3", {"info__loading": "1"}, "loading is 1"),
    ],
)
def test_what_a_gate_of_redis_stops(name: str, host: str, change: dict[str, str], words: str) -> None:
    seen = WELL | {host: redis(host, **change)}
    assert words in "; ".join(gate(CACHE, name).why_not(view("data2", seen)))


def test_a_member_that_is_down_stops_the_roll_unless_it_is_the_one_in_hand() -> None:
    down = replace(WELL["data3"], units=dict(WELL["data3"].units) | {"redis-cache.service": stopped()})
    seen = WELL | {"data3": down}
    running = gate(CACHE, "running")
    assert list(running.why_not(view("data2", seen))) == ["data3: redis-cache.service is failed"]
    assert list(running.why_not(view("data3", seen, out=True))) == []
    assert running.without


def test_a_sentinel_that_cannot_decide_stops_the_roll() -> None:
    lost = Answer(
        dict(WELL["data3"].answers["sentinel"].values) | {"cache ckquorum": "NOQUORUM", "cache sentinels": ""}
    )
    seen = WELL | {"data3": replace(WELL["data3"], answers=dict(WELL["data3"].answers) | {"sentinel": lost})}
    said = "; ".join(gate(way("data2", "redis-sentinel"), "quorum").why_not(view("data2", seen)))
    assert "CKQUORUM cache: NOQUORUM" in said
    assert "knows 0 other sentinels of cache, not 2" in said


def sentinels(**said: str) -> dict[str, Snapshot]:
    """While TLS is being turned on: `data1="TLS OK"` says how a sentinel speaks, and whether it can decide."""
    seen = dict(WELL)
    for name, words in said.items():
        how, _, can = words.partition(" ")
        values = dict(seen[name].answers["sentinel"].values) | {"transport": how}
        values |= {f"{instance} ckquorum": can for instance in ("cache", "sessions")}
        seen[name] = replace(seen[name], answers=dict(seen[name].answers) | {"sentinel": Answer(values)})
    return seen


NO = "NOQUORUM 1 usable Sentinels"


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ({"data1": f"TLS {NO}", "data2": "plain OK", "data3": "plain OK"}, True),
        ({"data1": "TLS OK", "data2": "TLS OK", "data3": f"plain {NO}"}, True),
        # A majority has to be able to decide before the next one is restarted, and after it.
        ({"data1": f"TLS {NO}", "data2": f"plain {NO}", "data3": "plain OK"}, False),
        # Not seeing the others is no excuse where all speak alike.
        ({"data1": f"TLS {NO}", "data2": "TLS OK", "data3": "TLS OK"}, False),
        ({"data1": "TLS OK", "data2": "TLS OK", "data3": "TLS OK"}, True),
    ],
)
def test_sentinels_are_rolled_from_one_way_of_speaking_to_the_other(said: dict[str, str], passes: bool) -> None:
    """Those with TLS and those without do not see each other; the larger part of them can always decide."""
    of = way("data2", "redis-sentinel")
    health = tuple(
        HealthSeen(name, "Sentinel", "NO" not in words, 0.1, words.partition(" ")[2]) for name, words in said.items()
    )
    given = view("data2", sentinels(**said), health=health)
    why = [*gate(of, "quorum").why_not(given), *gate(of, "health").why_not(given)]
    assert (why == []) == passes, why


def test_health_latency_and_errors() -> None:
    one = HealthSeen("data2", "Redis (cache)", False, 3.0, "refused")
    seen = view("data2", WELL, health=(one,), usual={("data2", "Redis (cache)"): 0.1}, errors=("a", "b", "c"))
    assert list(gate(CACHE, "health").why_not(seen)) == ["data2: Redis (cache): refused"]
    assert list(gate(CACHE, "latency").why_not(seen)) == ["data2: Redis (cache) takes 3.0 s, before the change 0.1 s"]
    assert list(gate(CACHE, "errors").why_not(seen)) == ["data2: b", "data2: c"]
    unknown = replace(seen, usual={})
    assert list(gate(CACHE, "latency").why_not(unknown)) == []


# -- every service, also those without a cluster ---------------------------------------------------------------

EVERYBODY = apply_classes.fleet()
LIVE = Live({"redis-cache": "data1", "redis-sessions": "data1", "mysql": "data1"}, frozenset({"redis-cache", "mysql"}))


def member_of(name: str) -> Context:
    return Context(EVERYBODY, EVERYBODY.host(name), LIVE, "", lambda _: "secret", render, tree)


PLAIN = [
    (host.name, one)
    for host in EVERYBODY.hosts
    for one in ways(member_of(host.name))
    if one.service in {"frontend", "proxy", "gitserver", "broadcaster", "grader", "runner", "worker", "monitoring"}
]


@pytest.mark.parametrize(("name", "of"), PLAIN, ids=[f"{name} {of.name}" for name, of in PLAIN])
def test_the_gates_of_a_service_without_a_cluster(name: str, of: Way) -> None:
    """What a gate looks at has the way's units; it holds while they run, and not when one of them does not."""
    ctx = member_of(name)
    asked = {
        item.name
        for item in host_state(ctx).resources
        if isinstance(item, Unit) and item.role in {of.service, *of.witnesses}
    }
    assert set(of.units) <= asked
    seen = {host.name: apply_classes.HOSTS[host.name] for host in EVERYBODY.members(of.service)}
    well = tuple(HealthSeen(host, "x", True, 0.1, "") for host in seen)
    for item in of.gates:
        assert list(item.why_not(View(ctx, name, seen, well))) == [], item.name
    for unit in of.units:
        broken = replace(seen[name], units=dict(seen[name].units) | {unit: stopped()})
        said = list(gate(of, "running").why_not(View(ctx, name, seen | {name: broken}, well)))
        assert said == [f"{name}: {unit} is failed"]
    unwell = (*well[1:], replace(well[0], well=False, detail="refused"))
    assert list(gate(of, "health").why_not(View(ctx, name, seen, unwell))) == [f"{unwell[-1].host}: x: refused"]
