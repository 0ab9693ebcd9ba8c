"""The gates of the database and the broker; and for each gate of a cluster its twin: left out, the fault passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deploy.converge.desired import host_state, ways
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.observed import Answer, Snapshot
from deploy.model.resources import Only, Parameter
from deploy.model.settings import Roll
from deploy.model.ways import HealthSeen, View, Way
from deploy.procedures.roll.gates import Gates
from tests.unit.roll.fleets import DATA, FACTS, address, context, redis, runs, stopped

UNITS = {f"{name}.service": runs() for name in ("mariadb", "omegaup-mysql-agent", "rabbitmq-server")}


def mysql(name: str, primary: str = "data1", **more: str) -> Snapshot:
    leads = name == primary
    values = {"position": "1-1-100", "semi-sync": "waits for a replica" if leads else "acknowledges"}
    values |= {"variable read_only": "OFF" if leads else "ON"}
    if not leads:
        values |= {
            "follows": address(primary), "threads": "io Yes, sql Yes", "lag": "0", "writes": "none of its own",
        }  # fmt: skip
    answers = {"mysql-files": Answer({"origin": "primary"}), "mysql": Answer(values | more)}
    return Snapshot(name, FACTS, units=UNITS, answers=answers)


def rabbitmq(name: str, **more: str) -> Snapshot:
    nodes = " ".join(f"rabbit@{one}" for one in DATA)
    values = {
        "up": "yes", "name": "test", "nodes": nodes, "running": nodes, "partitions": "", "file-data": "full",
        "leader ContestQueue": "rabbit@data1 3/3",
    }  # fmt: skip
    values |= {key.replace("_", " "): value for key, value in more.items()}
    return Snapshot(name, FACTS, units=UNITS, answers={"rabbitmq-cluster": Answer(values)})


MADE = {"mysql": mysql, "rabbitmq": rabbitmq, "redis-cache": redis, "redis-sentinel": redis}


def way(name: str) -> Way:
    return next(one for one in ways(context("data2")) if one.name == name)


def view(name: str, seen: dict[str, Snapshot], **more: Any) -> View:
    well = tuple(HealthSeen(host, "x", True, 0.1, "") for host in DATA)
    given: dict[str, Any] = {"health": well, "leader": "data1", "usual": {("data2", "x"): 0.1}} | more
    return View(context("data2"), "data2", seen, **given)


def reasons(name: str, seen: View, *, after: bool, skip: str = "") -> set[str]:
    run: Any = None
    gates = Gates(run, Roll(), frozenset({skip}))
    return {gate for gate, _ in gates.reasons(way(name), seen, after=after, declared=False)}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("after", [False, True])
def test_what_is_well_passes(name: str, after: bool) -> None:
    assert reasons(name, view(name, {host: MADE[name](host) for host in DATA}), after=after) == set()


def down(seen: Snapshot, unit: str) -> Snapshot:
    return replace(seen, units=dict(seen.units) | {f"{unit}.service": stopped()})


def lost(name: str, **values: str) -> Snapshot:
    seen = redis(name)
    answer = Answer(dict(seen.answers["sentinel"].values) | {key.replace("__", " "): v for key, v in values.items()})
    return replace(seen, answers=dict(seen.answers) | {"sentinel": answer})


FAULTS: list[tuple[str, str, Snapshot | dict[str, Any]]] = [
    ("mysql", "running", down(mysql("data3"), "mariadb")),
    ("mysql", "replication", mysql("data3", threads="io No, sql Yes", lag="0")),
    ("mysql", "replication", mysql("data3", **{"semi-sync": "off"})),
    ("mysql", "in step", mysql("data3", lag="2")),
    ("rabbitmq", "running", down(rabbitmq("data3"), "rabbitmq-server")),
    ("rabbitmq", "cluster", rabbitmq("data3", running="rabbit@data3")),
    ("rabbitmq", "cluster", rabbitmq("data1", leader_ContestQueue="rabbit@data1 2/3")),
    ("redis-cache", "running", down(redis("data3"), "redis-cache")),
    ("redis-cache", "replication", redis("data3", info__master_link_status="down")),
    ("redis-cache", "in step", redis("data3", info__slave_repl_offset="100")),
    ("redis-cache", "persistence", redis("data3", info__aof_last_write_status="err")),
    # A full disk: what the primary sent is in memory alone.
    ("redis-cache", "persistence", redis("data3", info__aof_last_bgrewrite_status="err")),
    ("redis-cache", "persistence", redis("data3", info__rdb_last_bgsave_status="err")),
    ("redis-sentinel", "running", down(redis("data3"), "redis-sentinel")),
    ("redis-sentinel", "views", lost("data3", cache__ip="")),
    ("redis-sentinel", "quorum", lost("data3", cache__ckquorum="NOQUORUM")),
    *((name, "health", {"health": (HealthSeen("data3", "x", False, 0.1, "refused"),)}) for name in MADE),
    *((name, "latency", {"health": (HealthSeen("data2", "x", True, 9.0, ""),)}) for name in MADE),
    *((name, "errors", {"errors": ("it failed",)}) for name in MADE),
    ("mysql", "replication", {"leader": None, "dispute": "two writable primaries"}),
]


@pytest.mark.parametrize(("name", "gate", "fault"), FAULTS, ids=[f"{name} {gate}" for name, gate, _ in FAULTS])
def test_each_gate_stops_its_fault_and_without_it_the_fault_passes(
    name: str, gate: str, fault: Snapshot | dict[str, Any]
) -> None:
    seen = {host: MADE[name](host) for host in DATA}
    given = view(name, seen | {fault.host: fault}) if isinstance(fault, Snapshot) else view(name, seen, **fault)
    assert gate in reasons(name, given, after=True)
    others = reasons(name, given, after=True, skip=gate)
    assert gate not in others
    # What stops it beside: a server that is down also stands badly.
    assert others <= {"replication", "cluster", "views", "in step"}


def test_before_a_member_is_touched_enough_must_be_left() -> None:
    few = {host: redis(host) for host in DATA} | {"data1": redis("data1", info__min_slaves_good_slaves="1")}
    assert reasons("redis-cache", view("redis-cache", few), after=False) == {"writes survive"}
    assert reasons("redis-cache", view("redis-cache", few), after=False, skip="writes survive") == set()


def test_of_two_brokers_none_can_go() -> None:
    two = build(
        "two",
        {
            f"data{n}": HostInput(frozenset({"rabbitmq"}), {"ssh_hostname": f"10.0.0.1{n}"})
            for n in (1, 2)
        },
    )  # fmt: skip
    base = context("data1")
    ctx = Context(two, two.host("data1"), Live.first_boot(two), "", base.secret, base.render, base.files)
    of = next(one for one in ways(ctx) if one.name == "rabbitmq")
    quorum = next(one for one in of.gates if one.name == "quorum")
    said = list(quorum.why_not(View(ctx, "data1", {})))
    assert said == ["2 members: without one of them no queue has a majority"]
    assert not quorum.after


@pytest.mark.parametrize(
    ("service", "queries"),
    [
        ("mysql", {"mysql", "mysql-files"}), ("rabbitmq", {"rabbitmq-cluster"}), ("sentinel", {"sentinel"}),
        ("redis", {"redis-cache", "redis-sessions"}),
    ],
)  # fmt: skip
def test_a_gate_asks_all_that_it_judges_by(service: str, queries: set[str]) -> None:
    """A glance asks the parameters of the service's own role only."""
    items = host_state(context("data2")).resources
    assert queries <= {
        item.query.id for item in items if isinstance(item, Parameter | Only) and item.role == service
    }  # fmt: skip
