"""The brokers' cluster, from what its members say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import FleetError, Unsettled
from deploy.model.observed import Answer, HostFactsSeen, Snapshot, UnitState
from deploy.roles.rabbitmq_members import QUERY, UNIT, Member, cluster, member, node

ALL = frozenset({"rabbit@a", "rabbit@b", "rabbit@c"})


def up(name: str, nodes: frozenset[str] = ALL, running: frozenset[str] = ALL, cluster_name: str = "judge") -> Member:
    return Member(
        name, empty=False, active=True, up=True, cluster_name=cluster_name, nodes=nodes, running=running
    )  # fmt: skip


def stopped(name: str, nodes: frozenset[str] = ALL) -> Member:
    return Member(name, empty=False, active=False, up=False, error="not running", nodes=nodes)


def bare(name: str) -> Member:
    return Member(name, empty=True, active=False, up=False, error="not running")


def paused(name: str) -> Member:
    return Member(name, empty=False, active=True, up=False, nodes=ALL)


def test_nobody_has_ever_run() -> None:
    assert cluster([bare("a"), bare("b"), bare("c")], "judge").leader is None


def test_the_first_that_runs_declares() -> None:
    two = ALL - {"rabbit@a"}
    found = cluster([stopped("a"), up("b", running=two), up("c", running=two)], "judge")
    assert (found.leader, found.empty) == ("b", frozenset())


def test_a_member_that_lost_its_disk_is_empty_and_no_obstacle() -> None:
    two = ALL - {"rabbit@b"}
    found = cluster([up("a", running=two), bare("b"), up("c", running=two)], "judge")
    assert (found.leader, found.empty) == ("a", frozenset({"b"}))


def test_all_stopped_are_started() -> None:
    assert cluster([stopped("a"), stopped("b"), stopped("c")], "judge").leader == "a"


def test_paused_members_whose_others_are_only_stopped_are_helped() -> None:
    assert cluster([stopped("a"), stopped("b"), paused("c")], "judge").leader == "a"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([paused("a"), paused("b"), paused("c")], "paused"),
        ([up("a", running=frozenset({"rabbit@a"})), up("b"), up("c")], "does not see rabbit@b, rabbit@c"),
        ([replace(up("a"), partitions=frozenset({"rabbit@c"})), up("b"), up("c")], "does not see rabbit@c"),
        ([replace(stopped("a"), active=True, error="timed out"), up("b"), up("c")], "does not answer: timed out"),
    ],
)
def test_what_may_settle_by_itself(members: list[Member], words: str) -> None:
    with pytest.raises(Unsettled, match=words):
        cluster(members, "judge")


ALONE = frozenset({"rabbit@c"})


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([up("a", running=ALL - ALONE), up("b", running=ALL - ALONE), up("c", ALONE, ALONE)], "another cluster"),
        ([up("a"), up("b"), stopped("c", ALONE)], "another cluster"),
        (
            [up("a", frozenset({"rabbit@a", "rabbit@x"}), frozenset({"rabbit@a", "rabbit@x"}), "elsewhere")],
            "a member of the cluster 'elsewhere', with rabbit@x",
        ),
    ],
)
def test_what_a_person_must_settle(members: list[Member], words: str) -> None:
    with pytest.raises(FleetError, match=words) as caught:
        cluster(members, "judge")
    assert not isinstance(caught.value, Unsettled)
    assert caught.value.hint


def test_a_host_that_left_the_inventory_is_no_stranger() -> None:
    """Its node is still in the cluster, under the fleet's own name: the leader forgets it."""
    four = ALL | {"rabbit@d"}
    assert cluster([up("a", four, four), up("b", four, four), up("c", four, four)], "judge").leader == "a"


states = st.one_of(
    st.sampled_from("abc").map(bare),
    st.sampled_from("abc").map(stopped),
    st.sampled_from("abc").map(paused),
    st.builds(up, st.sampled_from("abc"), st.just(ALL), st.sets(st.sampled_from(sorted(ALL))).map(frozenset)),
)


@given(st.lists(states, min_size=1, max_size=4))
def test_whoever_leads_runs_if_anybody_does(members: list[Member]) -> None:
    try:
        found = cluster(members, "judge")
    except FleetError:
        return
    running = [one for one in members if one.up]
    if running:
        assert found.leader == running[0].name
        assert all(other.node in one.running for one in running for other in running)
    elif found.leader is None:
        assert all(one.empty for one in members)


def test_a_member_from_a_look() -> None:
    unit = UnitState("loaded", "active", "running", "enabled", False, 1, 1, {})
    values = {
        "file-data": "held", "file-cookie": "abc", "up": "yes", "nodes": "rabbit@a rabbit@b", "running": "rabbit@a",
        "partitions": "", "name": "judge",
    }  # fmt: skip
    shot = Snapshot("a", HostFactsSeen("debian", "12", 1, 1), units={UNIT: unit}, answers={QUERY: Answer(values)})
    one = member("a", shot)
    assert (one.up, one.active, one.empty, one.node) == (True, True, False, node("a"))
    assert one.nodes == {"rabbit@a", "rabbit@b"}
    assert one.running == {"rabbit@a"}
    silent = replace(shot, answers={QUERY: Answer({"file-data": "held", "file-nodes": "rabbit@a rabbit@c"}, "refused")})
    assert member("a", silent).nodes == {"rabbit@a", "rabbit@c"}
    assert not member("a", silent).up
