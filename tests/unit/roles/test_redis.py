"""Who is primary, from what members and sentinels say; and what each instance and sentinel is to be."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.converge.desired import host_state, render, tree
from deploy.errors import FleetError, Unsettled
from deploy.model.catalog import PROXY_ADDRESS
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.observed import Answer, HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import STAMPS, File, Parameter, Phase
from deploy.roles import proxy, redis, sentinel
from deploy.roles.redis_cli import ADMIN_FILE
from deploy.roles.redis_members import Member, View, cluster, clusters, member

ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
BARE = Member("x", "10.0.0.9", born=False, running=False, primary=False, follows="")


def leads(name: str) -> Member:
    return Member(name, ADDRESSES[name], born=True, running=True, primary=True, follows="")


def follows(name: str, whom: str, *, running: bool = True) -> Member:
    return Member(name, ADDRESSES[name], born=True, running=running, primary=False, follows=ADDRESSES.get(whom, whom))


def stopped(name: str) -> Member:
    return Member(name, ADDRESSES[name], born=True, running=False, primary=False, follows="")


def say(*primaries: str) -> list[View]:
    return [View(f"s{n}", ADDRESSES.get(name, name)) for n, name in enumerate(primaries)]


WELL = [leads("a"), follows("b", "a"), follows("c", "a")]


def test_nobody_has_ever_run() -> None:
    assert cluster("cache", [BARE, BARE], say("", "", "")).leader is None


def test_the_one_primary_whatever_comes_first() -> None:
    found = cluster("cache", [follows("a", "c"), follows("b", "c"), leads("c"), BARE], say("c", "c", "c"))
    assert (found.leader, found.empty) == ("c", frozenset({"x"}))


def test_a_sentinel_that_does_not_answer_is_no_dissent() -> None:
    assert cluster("cache", WELL, say("a", "", "a")).leader == "a"


@pytest.mark.parametrize(
    ("members", "sentinels", "words"),
    [
        ([leads("a"), leads("b"), follows("c", "b")], say("b", "b", "b"), "2 primaries: a, b"),
        (WELL, say("a", "b", "b"), "s1 says 10.0.0.2"),
        ([stopped("a"), follows("b", "a"), follows("c", "a")], say("a", "a", "a"), "no primary"),
    ],
)
def test_what_may_settle_by_itself(members: list[Member], sentinels: list[View], words: str) -> None:
    with pytest.raises(Unsettled, match=words):
        cluster("cache", members, sentinels)


@pytest.mark.parametrize(
    ("members", "sentinels", "words"),
    [
        # Two followed different ones when they were stopped, and no sentinel knows.
        ([follows("a", "b", running=False), follows("b", "a", running=False)], say("", "", ""), "no primary"),
        ([follows("a", "10.0.0.77"), follows("b", "10.0.0.77")], say("", "", ""), "follows 10.0.0.77"),
        ([leads("a"), follows("b", "c"), follows("c", "a")], say("a", "", ""), "1 of 3 sentinels answer"),
    ],
)
def test_what_a_person_must_settle(members: list[Member], sentinels: list[View], words: str) -> None:
    with pytest.raises(FleetError, match=words) as caught:
        cluster("cache", members, sentinels)
    assert not isinstance(caught.value, Unsettled)


def test_all_stopped_in_order_the_one_that_followed_nobody_led() -> None:
    members = [follows("a", "b", running=False), stopped("b"), follows("c", "b", running=False)]
    assert cluster("cache", members, say("", "", "")).leader == "b"


def test_a_stopped_primary_leads_on_where_nobody_can_choose_another() -> None:
    assert cluster("cache", [stopped("a"), follows("b", "a")], say()).leader == "a"


member_states = st.builds(
    Member, st.sampled_from("abc"), st.sampled_from(sorted(ADDRESSES.values())), born=st.booleans(),
    running=st.booleans(), primary=st.booleans(), follows=st.sampled_from(["", *ADDRESSES.values()]),
).map(lambda one: replace(one, primary=one.primary and one.running and one.born))  # fmt: skip


@given(
    st.lists(member_states, min_size=1, max_size=5),
    st.lists(st.sampled_from(["", *ADDRESSES.values()]).map(lambda a: View("s", a)), max_size=5),
)
def test_whoever_is_found_is_not_contradicted(members: list[Member], sentinels: list[View]) -> None:
    """Either a refusal, or a leader who has run, whom no sentinel denies, beside whom nobody claims to lead."""
    try:
        found = cluster("cache", members, sentinels)
    except FleetError:
        return
    if found.leader is None:
        assert not any(one.born for one in members)
        return
    claimants = [one for one in members if one.primary]
    assert len(claimants) <= 1
    chosen = claimants[0] if claimants else next(one for one in members if one.born and not one.follows)
    assert chosen.name == found.leader
    assert all(view.primary in {"", chosen.address} for view in sentinels)


def context(host: str = "data1", members: int = 3, leader: str = "data1", **data: Any) -> Context:
    names = [f"data{n}" for n in range(1, members + 1)]
    groups = {"redis"} | ({"sentinel"} if members > 1 else set())
    hosts = {name: HostInput(frozenset(groups), {"ssh_hostname": f"10.0.0.1{name[-1]}", **data}) for name in names}
    hosts["web1"] = HostInput(frozenset({"frontend"}), {"ssh_hostname": "10.0.0.21", **data})
    fleet = build("test", hosts)
    live = Live({"redis-cache": leader, "redis-sessions": leader})
    return Context(
        fleet=fleet, host=fleet.host(host), live=live, authority="CA", render=render, files=tree,
        secret=lambda name: f"secret-of-{name.replace('/', '-')}",
    )  # fmt: skip


def test_a_lone_primary_takes_writes_without_replicas() -> None:
    assert redis.parameters(context(members=1), "sessions")["min-replicas-to-write"] == "0"
    assert redis.parameters(context(), "sessions")["min-replicas-to-write"] == "1"


def test_the_primary_asks_for_replicas_only_when_they_keep_up() -> None:
    """After a fleet has grown: writes must not be refused until the new members have copied everything."""

    def phase(host: str) -> Phase:
        wanted = {item.key: item for item in redis.desired(context(host))}
        return wanted["redis-cache:min-replicas-to-write"].order

    assert phase("data1") is Phase.MEMBERS
    assert phase("data2") is Phase.STATE


def test_the_stronger_file_names_nobody_to_follow() -> None:
    """Who is followed is in the file that Redis owns; ours would undo a failover at the next start."""
    files = {item.path: item for item in redis.desired(context("data2")) if isinstance(item, File)}
    assert "replicaof 10.0.0.11 6379" in files["/etc/redis/cache/state.conf"].content
    assert files["/etc/redis/cache/state.conf"].once
    assert "replicaof" not in files["/etc/redis/cache/managed.conf"].content


def test_sentinels_watch_whoever_leads_now() -> None:
    files = {item.path: item for item in sentinel.desired(context("data3", leader="data2")) if isinstance(item, File)}
    text = files["/etc/redis/sentinel/sentinel.conf"].content
    assert "sentinel monitor cache 10.0.0.12 6379 2" in text
    assert files["/etc/redis/sentinel/sentinel.conf"].once


def test_a_sentinel_knows_neither_fewer_nor_more() -> None:
    wanted = {item.key: item for item in sentinel.desired(context("data3", leader="data2"))}
    replicas, sentinels = wanted["sentinel: cache replicas"], wanted["sentinel: cache sentinels"]
    assert isinstance(replicas, Parameter)
    assert isinstance(sentinels, Parameter)
    assert (replicas.want, sentinels.want) == ("10.0.0.11 10.0.0.13", "10.0.0.11 10.0.0.12")


def test_a_sentinel_that_can_decide_nothing_is_restarted_if_it_owes_a_restart(tmp_path: Path) -> None:
    """Its certificate has ended, say: roll would wait for it, and it for roll."""
    wanted = {item.key: item for item in sentinel.desired(context("data1"))}["sentinel: cache can decide"]
    assert isinstance(wanted, Parameter)
    loaded, stamps, bins, said = (tmp_path / name for name in ("ca.crt", "stamps", "bin", "said"))
    loaded.write_text("old")
    stamps.mkdir()
    bins.mkdir()
    stamp = f"{hashlib.sha256(b'old').hexdigest()}\t{loaded}\n"
    (stamps / "redis-sentinel.service").write_text(stamp)
    # It decides again once it was restarted.
    (bins / "redis-cli").write_text(f'#!/bin/sh\n[ "$1" != --no-auth-warning ] || grep -qs restart {said} || exit 1\n')
    (bins / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{said}\n')
    for name in ("redis-cli", "systemctl"):
        (bins / name).chmod(0o755)
    script = wanted.act.replace(STAMPS, str(stamps)).replace(ADMIN_FILE, "/dev/null").replace("-lt 60", "-lt 2")

    def act() -> int:
        path = {"PATH": f"{bins}:/usr/bin:/bin"}
        return subprocess.run(["sh", "-euc", script], env=path, check=False, capture_output=True).returncode

    assert act() == 1
    assert not said.exists(), "it runs with what is there: it has another reason"
    loaded.write_text("new")
    assert act() == 0
    assert said.read_text() == "restart -- redis-sentinel.service\n"


def test_proxy_listens_where_no_server_does() -> None:
    ctx = context("web1")
    text = next(item.content for item in proxy.desired(ctx) if isinstance(item, File) and item.path == proxy.CONFIG)
    binds = [line.split()[1] for line in text.splitlines() if line.strip().startswith("bind ")]
    assert {bind.split(":")[0] for bind in binds} == {PROXY_ADDRESS, "127.0.0.1"}
    assert len(set(binds)) == len(binds)
    assert "server data3 10.0.0.13:6380" in text


def test_proxy_stands_beside_the_clients_only() -> None:
    ctx = context()
    assert [host.name for host in ctx.fleet.members("proxy")] == ["web1"]


def test_every_host_has_a_state_without_contradictions() -> None:
    for host in ("data1", "data2", "data3"):
        host_state(context(host))


def seen(running: bool, **values: str) -> Snapshot:
    unit = UnitState("loaded", "active" if running else "inactive", "", "enabled", False, 1, 1, {})
    answer = Answer({name.replace("_", "-"): value for name, value in values.items()}, "" if running else "down")
    return Snapshot(
        "x", HostFactsSeen("debian", "12", 1, 1), units={"redis-cache.service": unit, "redis-sessions.service": unit},
        answers={"redis-cache": answer, "redis-sessions": answer},
    )  # fmt: skip


def test_a_member_from_a_look() -> None:
    one = member("a", "10.0.0.1", seen(True, file_born="yes", info_role="master"), "cache")
    assert (one.born, one.running, one.primary) == (True, True, True)
    # A stopped member's file says whom it followed, and a stranger on its port has no say.
    one = member("a", "10.0.0.1", seen(False, file_born="yes", file_follows="10.0.0.2"), "cache")
    assert (one.born, one.running, one.primary, one.follows) == (True, False, False, "10.0.0.2")


def test_instances_may_have_different_primaries() -> None:
    def both(cache: str, sessions: str) -> Snapshot:
        shot = seen(True)
        values = {"file-born": "yes"}
        return replace(
            shot,
            answers={
                "redis-cache": Answer({**values, "info-role": cache, "info-master_host": "10.0.0.11"}),
                "redis-sessions": Answer({**values, "info-role": sessions, "info-master_host": "10.0.0.12"}),
            },
        )

    shots = {"data1": both("master", "slave"), "data2": both("slave", "master")}
    found = clusters(context(members=2), shots)
    assert {name: one.leader for name, one in found.items()} == {"redis-cache": "data1", "redis-sessions": "data2"}
