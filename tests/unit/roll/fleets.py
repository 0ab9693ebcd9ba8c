"""A fleet of three data hosts and one with a backend, and what its members say, for the tests of a roll."""

from __future__ import annotations

from deploy.converge.desired import render, tree
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.observed import Answer, HostFactsSeen, Snapshot, UnitState

DATA = ("data1", "data2", "data3")
FLEET = build(
    "test",
    {
        name: HostInput(frozenset({"redis", "sentinel", "rabbitmq", "mysql"}), {"ssh_hostname": f"10.0.0.1{name[-1]}"})
        for name in DATA
    }
    | {"app1": HostInput(frozenset({"gitserver", "grader"}), {"ssh_hostname": "10.0.0.31"})},
)
FACTS = HostFactsSeen("debian", "12", 2**33, 2**33)


def address(name: str) -> str:
    return FLEET.host(name).address


def context(name: str) -> Context:
    return Context(FLEET, FLEET.host(name), Live.first_boot(FLEET), "", lambda _: "secret", render, tree)


def runs() -> UnitState:
    return UnitState("loaded", "active", "running", "enabled", False, 1, 1, {})


def stopped() -> UnitState:
    return UnitState("loaded", "failed", "failed", "enabled", False, 0, 0, {})


def redis(name: str, primary: str = "data1", **more: str) -> Snapshot:
    """One data host of a healthy Redis whose primary is `primary`; `more` overrides values (dashes as underscores)."""
    leads = name == primary
    values = {
        "file-born": "yes", "info-role": "master" if leads else "slave", "info-loading": "0",
        "info-aof_last_write_status": "ok", "info-aof_last_bgrewrite_status": "ok",
        "info-rdb_last_bgsave_status": "ok", "info-rdb_bgsave_in_progress": "0", "info-aof_rewrite_in_progress": "0",
    }  # fmt: skip
    if leads:
        values |= {"info-master_repl_offset": "5000000", "info-min_slaves_good_slaves": "2"}
    else:
        values |= {
            "info-master_host": address(primary), "info-master_link_status": "up", "info-slave_repl_offset": "4999000",
        }  # fmt: skip
    values |= {key.replace("__", "-"): value for key, value in more.items()}
    others = " ".join(address(other) for other in DATA if other != name)
    views: dict[str, str] = {}
    for instance in ("cache", "sessions"):
        views |= {
            f"{instance} ip": address(primary), f"{instance} ckquorum": "OK", f"{instance} sentinels": others,
            f"{instance} flags": "master",
        }  # fmt: skip
    units = {f"{unit}.service": runs() for unit in ("redis-cache", "redis-sessions", "redis-sentinel")}
    answers = {"redis-cache": Answer(values), "redis-sessions": Answer(values), "sentinel": Answer(views)}
    return Snapshot(name, FACTS, units=units, answers=answers)
