"""What is owed and in which order it is paid: pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.converge.step import Step
from deploy.model.catalog import CATALOG
from deploy.model.resources import Parameter, Query, StepClass, Unit
from deploy.model.ways import Act, Way
from deploy.procedures.roll.order import Action, Debt, Deed, debts, deeds, sequence, way_of, whole

HOSTS = ("a", "b", "c")
REDIS = Way(
    name="redis-cache", service="redis", units=("redis-cache.service",), cluster="redis-cache",
    hand_over=(Act("a", "true"),),
)  # fmt: skip
RABBIT = Way(
    name="rabbitmq", service="rabbitmq", units=("rabbitmq-server.service",), drain=((Act("a", "true"),),),
    undrain=(Act("a", "true"),), finish="true",
)  # fmt: skip
MYSQL = Way(
    name="mysql", service="mysql", units=("mariadb.service", "agent.service"), cluster="mysql",
    handed_over_by="mysql switchover",
)  # fmt: skip
GRADER = Way(name="grader", service="grader", units=("grader.service",))
WAYS = dict.fromkeys(HOSTS, (REDIS, RABBIT, MYSQL)) | {"app": (GRADER,)}
LEADERS = {"redis-cache": "b", "mysql": "a", "rabbitmq": "a"}
EVERY = [Debt(host, way.name, way.units) for host, own in WAYS.items() for way in own]


def pending(host: str, unit: str) -> Step:
    return Step(host=host, resource=Unit(name=unit), step=StepClass.RESTART, summary="to load /etc/x", pending=True)


def test_what_waits_for_the_same_restart_is_one_debt() -> None:
    value = Parameter(query=Query("q", "true", "redis-cache.service"), name="databases", want="17")
    steps = [
        pending("a", "redis-cache.service"),
        Step(host="a", resource=value, step=StepClass.RESTART, summary="16 -> 17", pending=True),
        Step(host="a", resource=Unit(name="mariadb.service"), step=StepClass.CREATE, summary="started"),
    ]
    found = debts({"a": steps, "b": []}, WAYS)
    assert [(one.host, one.way, one.units) for one in found] == [("a", "redis-cache", ("redis-cache.service",))]
    assert found[0].why == ("unit:redis-cache.service: to load /etc/x", "q:databases: 16 -> 17")


def test_only_the_units_that_are_owed_it_are_restarted_in_the_order_of_the_way() -> None:
    steps = [pending("a", "agent.service"), pending("a", "mariadb.service")]
    assert debts({"a": steps}, WAYS)[0].units == ("mariadb.service", "agent.service")
    assert debts({"a": steps[:1]}, WAYS)[0].units == ("agent.service",)


def test_what_a_dead_roll_left_half_done_is_done_again_whatever_the_host_shows() -> None:
    found = debts({"a": []}, WAYS, {("a", "rabbitmq")})
    assert found == [Debt("a", "rabbitmq", ("rabbitmq-server.service",), ("left half done",), begun=True)]


def test_a_failed_over_leader_comes_last_wherever_it_is() -> None:
    for leader in HOSTS:
        order = sequence(EVERY, WAYS, {"redis-cache": leader})
        redis = [one.host for one in order if one.way == "redis-cache"]
        assert redis[-1] == leader


def test_who_moves_the_lead_is_rolled_before_those_who_have_it() -> None:
    watching = Way(name="redis-sentinel", service="sentinel", units=("redis-sentinel.service",), ahead_of="redis")
    ways = {host: (*own, watching) for host, own in WAYS.items() if host in HOSTS}
    owed = [Debt(host, way.name, way.units) for host, own in ways.items() for way in own]
    found = list(dict.fromkeys(one.way for one in sequence(owed, ways, LEADERS)))
    assert found == ["redis-sentinel", "redis-cache", "rabbitmq", "mysql"]


def test_the_canary_comes_first_unless_it_leads() -> None:
    assert [one.host for one in sequence(EVERY, WAYS, LEADERS, "c") if one.way == "redis-cache"] == ["c", "a", "b"]
    assert [one.host for one in sequence(EVERY, WAYS, LEADERS, "b") if one.way == "redis-cache"] == ["a", "c", "b"]


def test_one_failure_domain_is_done_before_the_next_and_the_leaders_is_the_last() -> None:
    domains = {"a": "north", "b": "south", "c": "north", "d": "south", "e": "east"}
    ways = {host: (replace(REDIS, zone=zone),) for host, zone in domains.items()}
    owed = [Debt(host, REDIS.name, REDIS.units) for host in domains]
    assert [one.host for one in sequence(owed, ways, {"redis-cache": "a"})] == ["e", "b", "d", "c", "a"]
    assert [one.host for one in sequence(owed, ways, {"redis-cache": "a"}, "d")] == ["d", "b", "e", "c", "a"]
    assert [one.host for one in sequence(owed, ways, {})] == ["e", "a", "c", "b", "d"]


def test_only_who_leads_and_can_hand_over_does() -> None:
    debt = Debt("a", "mysql", MYSQL.units)
    assert Action.HAND_OVER in [one.action for one in deeds(debt, MYSQL, leads=True, canary=False)]
    assert Action.HAND_OVER not in [one.action for one in deeds(debt, MYSQL, leads=False, canary=False)]
    assert Action.HAND_OVER not in [one.action for one in deeds(debt, RABBIT, leads=True, canary=False)]


def test_nothing_owed_is_nothing_done() -> None:
    assert whole([], WAYS, LEADERS) == []


subsets = st.lists(st.sampled_from(EVERY), unique=True)
leading = st.fixed_dictionaries({}, optional={"redis-cache": st.sampled_from(HOSTS), "mysql": st.sampled_from(HOSTS)})


@settings(deadline=None)
@given(subsets, leading, st.sampled_from(["", *HOSTS]))
def test_every_debt_is_paid_once_in_the_order_of_dependence(
    owed: list[Debt], leaders: dict[str, str], canary: str
) -> None:
    order = sequence(owed, WAYS, leaders, canary)
    assert sorted(order, key=str) == sorted(owed, key=str)
    rank = {service.name: number for number, service in enumerate(CATALOG)}
    services = [rank[way_of(WAYS, one.host, one.way).service] for one in order]
    assert services == sorted(services)
    for way, leader in (("redis-cache", leaders.get("redis-cache")), ("mysql", leaders.get("mysql"))):
        hosts = [one.host for one in order if one.way == way]
        assert leader not in hosts[:-1]


@settings(deadline=None)
@given(subsets, leading, st.booleans())
def test_no_member_is_touched_before_its_gate_nor_while_another_is_out(
    owed: list[Debt], leaders: dict[str, str], back: bool
) -> None:
    steps = whole(owed, WAYS, leaders, back=back)
    out: tuple[str, str] | None = None
    gated: Deed | None = None
    for one in steps:
        who = (one.host, one.way)
        if one.action is Action.BEFORE:
            assert out is None
            gated = one
        if one.action in {Action.HAND_OVER, Action.DRAIN, Action.RESTART, Action.BACK}:
            assert gated is not None
            assert (gated.host, gated.way) == who
            out = who
        if one.action is Action.SETTLE:
            assert out == who
            out = None
    for earlier, later in pairwise(steps):
        if earlier.action is Action.RESTART:
            assert later.action is Action.AFTER
    restarts = [(one.host, one.way) for one in steps if one.action is Action.RESTART]
    assert sorted(restarts) == sorted((one.host, one.way) for one in owed)
    led = {(host, cluster) for cluster, host in leaders.items()}
    assert {(one.host, one.way) for one in steps if one.action is Action.HAND_OVER} == led & set(restarts)


@settings(deadline=None)
@given(subsets, leading)
def test_the_first_member_of_each_service_is_the_canary_and_the_last_finishes(
    owed: list[Debt], leaders: dict[str, str]
) -> None:
    steps = whole(owed, WAYS, leaders)
    watched = [one.way for one in steps if one.action is Action.WATCH]
    assert sorted(watched) == sorted({one.way for one in owed})
    for way in set(watched):
        own = [one for one in steps if one.way == way and one.action in {Action.WATCH, Action.RESTART}]
        assert [one.action for one in own[:2]] == [Action.RESTART, Action.WATCH]
    finished = [one.way for one in steps if one.action is Action.FINISH]
    assert finished == (["rabbitmq"] if any(one.way == "rabbitmq" for one in owed) else [])
