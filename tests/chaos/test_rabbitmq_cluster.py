"""The broker's cluster under load: members die, part, stop and come back; what was confirmed is there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import pytest

from deploy.model.catalog import SERVICES
from deploy.roles.rabbitmq_topology import API
from tests.chaos import faults, results
from tests.chaos.failover import a_victim, drained, eventually, load, settled, the_fleet
from tests.chaos.load import QUEUE, Ledger, Load
from tests.chaos.support import REPEATS, apply, fleet, footprint, on

MEMBERS = tuple(host.name for host in the_fleet().members("rabbitmq"))
UNIT = "rabbitmq-server"
BAR = 10.0
"""Seconds within which publishing must go on."""
TICKS = the_fleet().members("rabbitmq")[0].settings.rabbitmq.net_ticktime


@pytest.fixture(autouse=True)
def queue(begun_well: None) -> Iterator[None]:
    """The load's queue is the load's alone: its worker is away meanwhile."""
    on("app1", "systemctl stop omegaup-worker@analytics")
    drained("web1")
    yield
    on("app1", "systemctl start omegaup-worker@analytics")
    settled()


def running(host: str) -> bool:
    return "true" in on(host, "timeout 20 rabbitmqctl -q eval 'rabbit:is_running().' 2>/dev/null || true", check=False)


def all_running() -> bool:
    return all(running(host) for host in MEMBERS)


def leaderless() -> list[str]:
    """Queues that nobody leads, as a running member sees them."""
    return [queue for queue, node in leaders().items() if not node.startswith("rabbit@")]


def leaders() -> dict[str, str]:
    """Queue -> the node that leads it, as a running member sees it."""
    host = next(name for name in MEMBERS if running(name))
    lines = on(host, "timeout 60 rabbitmqctl -q list_queues name leader --no-table-headers").splitlines()
    return {queue: node for queue, _, node in (line.partition("\t") for line in lines)}


def judge(fault: str, ledgers: Ledger | list[Ledger], begun: float, until: float, silent: float = 0) -> None:
    """Nothing confirmed is missing, every queue has a leader, and no publisher paused for longer than the bar.

    That is counted from where there is a majority again: after `silent` seconds, where that waits for one to be lost.
    """
    each = ledgers if isinstance(ledgers, list) else [ledgers]
    worst = max(each, key=lambda ledger: ledger.gap(begun, until))
    pause = worst.gap(begun, until)
    eventually("every queue has a leader", lambda: leaderless() == [], 30)
    messages = drained("web1")
    missing = {name for ledger in each for name in ledger.ids()} - set(messages)
    results.note(
        f"RabbitMQ: {fault}", seconds_without_confirms=pause, confirmed_and_lost=len(missing),
        there_twice=len(messages) - len(set(messages)),
    )  # fmt: skip
    assert missing == set()
    assert pause < BAR + silent, f"{pause:.1f} s without confirms; refused: {worst.refusals[-3:]}"


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_each_member_killed_in_turn(turn: int) -> None:
    with load("web1", f"each-{turn}", "messages") as publisher:
        begun = time.time()
        for host in MEMBERS:
            with faults.killed_for_good(host, UNIT):
                time.sleep(4)
            eventually(f"{host} is back", lambda h=host: running(h), 90)  # type: ignore[misc]
        until = time.time()
    judge("each member killed in turn", publisher.end()["messages"], begun, until)


def majority_lost(second: str, left: str) -> tuple[float, float]:
    """Another member is killed, and comes back after the one that is left has paused; from when to when it did."""
    with faults.killed_for_good(second, UNIT):
        eventually(f"{left} pauses", lambda: not running(left), 90)
        alone = time.time()
        time.sleep(4)
        return alone, time.time()


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_two_killed_one_after_the_other(turn: int) -> None:
    """The second while the first is still away: nothing is confirmed without a majority."""
    first, second, left = (MEMBERS[(turn + n) % len(MEMBERS)] for n in range(3))
    with load("web1", f"two-{turn}", "messages") as publisher:
        with faults.killed_for_good(first, UNIT):
            time.sleep(4)
            alone, ended = majority_lost(second, left)
        eventually("a majority is back", lambda: sum(running(name) for name in MEMBERS) >= 2, 180)
        begun = time.time()
        eventually("all are back", all_running, 180)
        time.sleep(BAR)
        until = time.time()
    ledger = publisher.end()["messages"]
    assert [at for _, at in ledger.acknowledged if alone + 1 < at < ended] == []
    judge("two members killed, one after the other: after the majority is back", ledger, begun, until)


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_the_first_of_two_stays_away(turn: int) -> None:
    """Of two that were lost only the second comes back: those two are a majority, and go on without the first."""
    first, second, left = (MEMBERS[(turn + n) % len(MEMBERS)] for n in range(3))
    with load("web1", f"orphaned-{turn}", "messages") as publisher:
        with faults.killed_for_good(first, UNIT):
            time.sleep(4)
            majority_lost(second, left)
            took = eventually("a majority runs", lambda: running(second) and running(left), 300)
            begun = time.time()
            time.sleep(BAR)
            until = time.time()
        eventually("the first is back", lambda: running(first), 180)
        eventually("all share their tables", lambda: not partitions(), 120)
    results.note("RabbitMQ: two lost, the second alone comes back", seconds_until_a_majority_runs=took)
    judge("two lost, the second alone comes back: after that", publisher.end()["messages"], begun, until)


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_host_without_power(turn: int) -> None:
    host = a_victim("rabbitmq", turn)
    with load("web1", f"power-{turn}", "messages") as publisher:
        begun = time.time()
        with faults.power_cut(host):
            time.sleep(8)
        eventually(f"{host} is back", lambda: running(host), 120)
        until = time.time()
    judge("a member's host without power", publisher.end()["messages"], begun, until)


@contextmanager
def publishers(prefix: str, number: int = 2 * len(MEMBERS)) -> Iterator[list[Load]]:
    """So many that each member has some of them; those of the member that fails are hit worst."""
    with ExitStack() as stack:
        yield [stack.enter_context(load("web1", f"{prefix}-{one}", "messages")) for one in range(number)]


def leader() -> str:
    """The member that leads the load's queue."""
    return leaders()[QUEUE].removeprefix("rabbit@")


@contextmanager
def hanging(host: str) -> Iterator[None]:
    """The broker does nothing any more, and the kernel goes on taking connections for it."""
    on(host, f"systemctl kill -s STOP --kill-whom=all {UNIT}")
    try:
        yield
    finally:
        on(host, f"systemctl kill -s CONT --kill-whom=all {UNIT}")


SILENCES: dict[str, Callable[[str], AbstractContextManager[None]]] = {
    "cut off": faults.isolated,
    "cut off from the others only": lambda host: faults.cut_off((host,), [name for name in MEMBERS if name != host]),
    "hangs": hanging,
}


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
@pytest.mark.parametrize("silence", SILENCES)
def test_member_that_leads_falls_silent(silence: str, turn: int) -> None:
    """No connection of it ends: until the others take it for lost, a publisher to any of them waits for it too."""
    host = leader()
    others = [name for name in MEMBERS if name != host]
    with publishers(f"silent-{silence.replace(' ', '-')}-{turn}") as each:
        begun = time.time()
        with SILENCES[silence](host):
            eventually("the others take it for lost", lambda: all(lost(name, host) for name in others), 60)
            results.note(f"RabbitMQ: a member {silence}", seconds_until_it_is_taken_for_lost=time.time() - begun)
            # As long as publishing may pause; whoever began late has gone on by then.
            time.sleep(BAR)
        eventually("it is back", lambda: running(host), 120)
        until = time.time()
        ledgers = [one.end()["messages"] for one in each]
    # Erlang's ticks: it takes up to a quarter longer.
    judge(f"a member {silence}, then back", ledgers, begun, until, silent=TICKS * 1.25)


def lost(name: str, other: str) -> bool:
    """Whether a member takes another for lost."""
    seen = on(name, "timeout 20 rabbitmqctl -q eval 'nodes().' 2>/dev/null || true", check=False)
    return bool(seen) and f"rabbit@{other}" not in seen


def partitions() -> set[str]:
    """Members that no longer share their tables with another, although both run."""
    said = {host: on(host, "timeout 20 rabbitmqctl -q eval 'rabbit_node_monitor:partitions().' || true", check=False)
            for host in MEMBERS}  # fmt: skip
    return {host for host, words in said.items() if "rabbit@" in words}


def interrupted(alone: str) -> None:
    """The connections to the others end and are made anew at once: nobody pauses for that, Mnesia parts for good."""
    names = ", ".join(f"'rabbit@{host}'" for host in MEMBERS if host != alone)
    script = f"[F(N) || F <- [fun erlang:disconnect_node/1, fun net_kernel:connect_node/1], N <- [{names}]]."
    for _ in range(5):
        on(alone, f'timeout 20 rabbitmqctl -q eval "{script}"')
        time.sleep(2)
        if alone in partitions():
            return
        eventually("all run", all_running, 90)
    raise AssertionError("Mnesia did not part")


@pytest.mark.thorough
@pytest.mark.parametrize("turn", range(REPEATS))
def test_an_interruption_too_short_to_pause_for(turn: int) -> None:
    """What RabbitMQ does not mend by itself: one member is started again, when all run."""
    alone = MEMBERS[turn % len(MEMBERS)]
    with load("web1", f"short-{turn}", "messages") as publisher:
        begun = time.time()
        interrupted(alone)
        took = eventually("all share their tables", lambda: not partitions(), 120)
        eventually("all run", all_running, 60)
        until = time.time()
    results.note("RabbitMQ: an interruption too short to pause for", seconds_until_mended=took)
    judge("an interruption too short to pause for", publisher.end()["messages"], begun, until)


@pytest.mark.thorough
def test_a_member_whose_listeners_were_forgotten_is_used_again() -> None:
    """As others leave it that took it for lost while it was frozen: open, but not in the table that checks read."""
    host = MEMBERS[1]
    port = SERVICES["rabbitmq"].port("amqps").number
    listed = f"timeout 20 rabbitmq-diagnostics -q check_port_listener {port} >/dev/null 2>&1 && echo yes || true"
    on(host, "timeout 20 rabbitmqctl -q eval 'mnesia:dirty_delete(rabbit_listener, node()).'")
    assert on(host, listed) == ""
    assert fleet("drift", "--limit", host).returncode == 0, "what is open is open"
    eventually("it is listed", lambda: on(host, listed) == "yes\n", 60)


@pytest.mark.thorough
def test_without_the_watch_an_interruption_lasts() -> None:
    timer = "fleet-rabbitmq-watch.timer"
    for host in MEMBERS:
        on(host, f"systemctl stop {timer}")
    try:
        interrupted(MEMBERS[0])
        time.sleep(75)
        assert partitions() != set()
        done = fleet("apply")
        assert done.returncode == 1
        assert "does not see" in done.stdout + done.stderr
    finally:
        for host in MEMBERS:
            on(host, f"systemctl start {timer}")
        eventually("all share their tables", lambda: not partitions(), 120)
        eventually("all run", all_running, 60)


ORDERS = list(itertools.permutations(MEMBERS))


@pytest.mark.thorough
@pytest.mark.parametrize("order", ORDERS, ids=["-".join(order) for order in ORDERS])
def test_all_stopped_and_started_in_any_order(order: tuple[str, ...]) -> None:
    """Stopped in one order, started in another, without waiting for one another."""
    with load("web1", f"all-{'-'.join(order)}", "messages") as publisher:
        for number, host in enumerate(MEMBERS):
            # In order, or as a power cut would.
            on(host, f"systemctl {'stop' if number else 'kill -s KILL --kill-whom=all'} {UNIT}; systemctl stop {UNIT}")
        for host in order:
            on(host, f"systemctl start --no-block {UNIT}")
        eventually("a majority is back", lambda: sum(running(host) for host in MEMBERS) >= 2, 180)
        begun = time.time()
        eventually("all are back", all_running, 180)
        time.sleep(BAR)
        until = time.time()
    judge("all stopped, started in any order: after the majority is back", publisher.end()["messages"], begun, until)


@contextmanager
def refused_once(host: str) -> Iterator[None]:
    """The next start of this member fails, as of one that asks another about its features when that is not so far."""
    folder = f"/run/systemd/system/{UNIT}.service.d"
    on(
        host,
        f"mkdir -p {folder}; printf '[Service]\\nExecStartPre=+/bin/sh -c \"! mkdir /run/refused\"\\n' "
        f">{folder}/refused.conf; systemctl daemon-reload",
    )
    try:
        yield
        on(host, "test -d /run/refused")
    finally:
        on(host, f"rm -rf {folder} /run/refused; systemctl daemon-reload")


@pytest.mark.thorough
@pytest.mark.parametrize("refused", [False, True])
def test_a_stopped_cluster_is_started_by_apply(refused: bool) -> None:
    for host in MEMBERS:
        on(host, f"systemctl stop {UNIT}")
    with refused_once(MEMBERS[0]) if refused else nullcontext():
        done = {(step["host"], step["key"]) for step in apply()["done"]}
    assert {(host, f"unit:{UNIT}.service") for host in MEMBERS} <= done
    assert fleet("plan").returncode == 0


@pytest.mark.thorough
def test_copies_are_made_while_leaders_are_being_spread() -> None:
    """One command of the kind at a time in a cluster: of members that join at once, all but one find it taken."""
    joins = MEMBERS[2]
    spread = "rabbitmq-queues -q rebalance quorum </dev/null"
    take = "global:set_lock({rebalance_queues, self()}, [node() | nodes()], 0), timer:sleep(15000)"
    on(joins, f"rabbitmq-queues -q shrink rabbit@{joins} </dev/null")
    begun = time.monotonic()
    on(MEMBERS[0], f"rabbitmqctl -q eval 'spawn(fun() -> {take} end).'")
    assert "rebalance_in_progress" in on(joins, f"{spread} 2>&1 || true"), "nobody holds it"
    apply()
    assert time.monotonic() - begun > 15
    on(joins, spread)


def test_another_cookie_is_refused_and_nothing_changed() -> None:
    host = MEMBERS[1]
    cookie = "/var/lib/rabbitmq/.erlang.cookie"
    on(host, f"cp -p {cookie} /root/cookie; chmod 600 {cookie}; printf ANOTHERCOOKIE >{cookie}; chmod 400 {cookie}")
    before = {name: footprint(name) for name in MEMBERS}
    try:
        done = fleet("apply")
        assert {name: footprint(name) for name in MEMBERS} == before
        assert done.returncode == 1
        assert f"{host}: {cookie}: found another Erlang cookie" in done.stdout + done.stderr
        assert on(host, f"cat {cookie}") == "ANOTHERCOOKIE"
    finally:
        on(host, f"cp -pf /root/cookie {cookie}; rm /root/cookie")


@pytest.mark.thorough
def test_member_of_another_cluster_is_refused_and_nothing_changed() -> None:
    """Its broker was made anew by somebody, as a cluster of its own."""
    host, other = MEMBERS[2], MEMBERS[0]
    data, conf = "/var/lib/rabbitmq/mnesia", "/etc/rabbitmq/rabbitmq.conf"
    lonely = f"s/^\\(cluster_formation.classic_config.nodes.[0-9]*\\) = .*/\\1 = rabbit@{host}/"
    on(host, f"systemctl stop {UNIT}; rm -rf {data}/*; cp -p {conf} /root/conf; sed -i '{lonely}' {conf}\n"
       f"systemctl start {UNIT}; cp -p /root/conf {conf}; rm /root/conf")  # fmt: skip
    before = {name: footprint(name) for name in MEMBERS}
    try:
        done = fleet("apply")
        assert {name: footprint(name) for name in MEMBERS} == before
        assert done.returncode == 1
        assert "a member of another cluster" in done.stdout + done.stderr
        assert running(host)
    finally:
        # As the message says: stopped, its data moved away; apply lets it join anew.
        on(host, f"systemctl stop {UNIT}; rm -rf {data}/*")
        apply()
    assert running(other)
    assert running(host)


@pytest.mark.thorough
def test_without_copies_a_queue_is_gone_with_its_member() -> None:
    """The twin of quorum queues: a classic queue cannot be read while the one member that has it is down."""
    host, other = MEMBERS[1], MEMBERS[0]
    body = f'{{"durable": true, "node": "rabbit@{host}", "arguments": {{"x-queue-type": "classic"}}}}'
    on(other, f"{API} PUT queues/%2F/toothless <<'JSON'\n{body}\nJSON")
    get = '{"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}'
    try:
        with faults.killed_for_good(host, UNIT):
            eventually("the others have noticed", lambda: running(other), 30)
            said = on(other, f"{API} POST queues/%2F/toothless/get <<'JSON'\n{get}\nJSON", check=False)
            quorum = on(other, f"{API} POST queues/%2F/{QUEUE}/get <<'JSON'\n{get}\nJSON", check=False)
            state = on(other, "timeout 60 rabbitmqctl -q list_queues name state --no-table-headers", check=False)
    finally:
        eventually("it is back", lambda: running(host), 90)
        on(other, f"{API} DELETE queues/%2F/toothless")
    assert "toothless\tdown" in state, (said, quorum, state)
    assert f"{QUEUE}\trunning" in state


@pytest.mark.thorough
def test_without_pausing_both_sides_go_on() -> None:
    """The twin of pause_minority: nobody pauses, and afterwards there are two clusters, which apply refuses."""
    alone, others = MEMBERS[0], MEMBERS[1:]
    ignore = "rabbitmqctl -q eval 'application:set_env(rabbit, cluster_partition_handling, {}).'"
    for host in MEMBERS:
        on(host, ignore.format("ignore"))
    try:
        with faults.cut_off((alone,), others):
            seen = "rabbitmqctl -q eval 'length(rabbit_nodes:all_running()).'"
            eventually("it is alone", lambda: on(alone, f"timeout 20 {seen} || true", check=False).strip() == "1", 120)
            assert running(alone), "it should not have paused"
            assert all(running(host) for host in others)
        time.sleep(5)
        done = fleet("apply")
        assert done.returncode == 1
        assert "does not see" in done.stdout + done.stderr
    finally:
        for host in others:
            on(host, ignore.format("pause_minority"))
        on(alone, f"systemctl restart {UNIT}", check=False)
        eventually("one cluster again", all_running, 120)
