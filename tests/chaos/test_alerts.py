"""Every alert by its fault: it fires, reaches the receiver through Alertmanager, and is over after the mend.

The receiver is the log of alerts on the monitoring host, which Alertmanager calls as any other webhook. Alerts whose
fault is not made here are in NOT_MADE, each with the reason; promtool has fired all of them (tests/unit/monitoring).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.model import rules
from deploy.model.catalog import SERVICES
from tests.chaos import application, faults, results
from tests.chaos.application import first
from tests.chaos.failover import (
    database,
    eventually,
    load,
    primary,
    redis,
    redis_cli,
    settled,
    sql,
    the_fleet,
    visiting,
)
from tests.chaos.metrics import WATCHER, ask
from tests.chaos.support import UNBOUNDED, altered, apply, fleet, on

pytestmark = pytest.mark.usefixtures("begun_well")

LOG = SERVICES["alert-log"].port("http").number
SESSIONS, CACHE = (SERVICES["redis"].port(name).number for name in ("sessions", "cache"))
CLI = redis_cli(the_fleet().hosts[0].name, "sessions")
SQL = "mariadb --no-defaults --user=root --socket=/run/mysqld/mysqld.sock -N -e"
TELLING = 150
"""Seconds beyond an alert's own until it has to be told: scrapes, an evaluation, Alertmanager's grouping."""
OVER = 1200
"""Seconds until it has to be over: the longest look back of a rule, and the same way again."""
SCRAPES = 240
"""An hour's, as often as they are by default."""
CLOSER = 2.0
"""Seconds from one to the next, where an hour's have to be had sooner."""


def hosts(service: str) -> list[str]:
    return [host.name for host in the_fleet().members(service)]


def told() -> list[dict[str, Any]]:
    """What Alertmanager has told the receiver, the newest first."""
    found: list[dict[str, Any]] = json.loads(on(WATCHER, f"curl -sf -m 10 http://127.0.0.1:{LOG}/alerts"))
    return found


def since_then(since: float, status: str = "firing") -> set[str]:
    return {one["name"] for one in told() if one["time"] > since and one["status"] == status}


def clock() -> float:
    return float(on(WATCHER, "date +%s.%N"))


@contextlib.contextmanager
def run(host: str, begin: str, end: str) -> Iterator[None]:
    """Shell that makes the fault, and shell that mends it whatever happened."""
    try:
        on(host, begin)
        yield
    finally:
        on(host, end)


@contextlib.contextmanager
def stopped(where: list[str], *units: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for host in where:
            names = " ".join(units)
            stack.enter_context(run(host, f"systemctl stop {names}", f"systemctl start {names}"))
        yield


def redis_replica() -> str:
    """A host whose sessions instance follows another."""
    return next(name for name in hosts("redis") if redis(name, SESSIONS, "ROLE")[:1] == ["slave"])


def replica() -> str:
    return next(name for name in hosts("mysql") if name != database())


def short_of_memory(percent: int) -> AbstractContextManager[None]:
    kept = the_fleet().members("redis")[0].settings.redis.sessions_maxmemory
    used = f"$({CLI} INFO memory | sed -n 's/^used_memory:\\([0-9]*\\).*/\\1/p')"
    begin = f"{CLI} CONFIG SET maxmemory $(({used} * 100 / {percent}))"
    return run(primary(SESSIONS), begin, f"{CLI} CONFIG SET maxmemory {kept}")


@contextlib.contextmanager
def nobody_acknowledges() -> Iterator[None]:
    """The next commit waits for as long as is set, so that is made short for it."""
    leader = database()
    kept = int(the_fleet().members("mysql")[0].settings.mysql.semi_sync_timeout * 1000)
    with contextlib.ExitStack() as stack:
        for name in hosts("mysql"):
            if name != leader:
                stack.enter_context(run(name, f"{SQL} 'STOP SLAVE'", f"{SQL} 'START SLAVE'"))
        begin = f"{SQL} 'SET GLOBAL rpl_semi_sync_master_timeout = 500; CREATE DATABASE fleet_chaos'"
        end = f"{SQL} 'DROP DATABASE IF EXISTS fleet_chaos; SET GLOBAL rpl_semi_sync_master_timeout = {kept}'"
        stack.enter_context(run(leader, begin, end))
        yield


def broken(path: str, unit: str) -> AbstractContextManager[None]:
    """A configuration that the server refuses, behind the back of the deployment."""
    begin = f"cp -p {path} /run/fleet-chaos; sed -i '1i no: [yaml' {path}; systemctl kill -s HUP {unit}"
    return run(WATCHER, begin, f"cp -p /run/fleet-chaos {path}; rm /run/fleet-chaos; systemctl kill -s HUP {unit}")


def fails_to_start() -> AbstractContextManager[None]:
    folder = "/run/systemd/system/omegaup-runner.service.d"
    text = "[Service]\\nExecStart=\\nExecStart=/bin/false\\nRestart=no\\n"
    begin = f"mkdir -p {folder}; printf '{text}' >{folder}/99-chaos.conf; systemctl daemon-reload; "
    begin += "systemctl restart omegaup-runner || true"
    end = f"rm -rf {folder}; systemctl daemon-reload; systemctl reset-failed omegaup-runner || true; "
    return run(first("runner"), begin, end + "systemctl start omegaup-runner")


def blocked_publishers() -> AbstractContextManager[None]:
    kept = the_fleet().members("rabbitmq")[0].settings.rabbitmq.vm_memory_high_watermark
    tool = "rabbitmqctl -q set_vm_memory_high_watermark"
    return run(first("rabbitmq"), f"{tool} 0.0001", f"{tool} {kept}")


@contextlib.contextmanager
def done(what: Callable[[], object]) -> Iterator[None]:
    """A fault that is over as soon as it is made: what tells of it looks back."""
    what()
    yield


@contextlib.contextmanager
def taken_away() -> Iterator[None]:
    """A runner that is cut off with runs in hand, for longer than their lease."""
    application.put_problem()
    for _ in range(3):
        application.submit("while True: pass")
    with faults.cut_off([first("runner")], [first("grader")]):
        yield


@contextlib.contextmanager
def events_lost() -> Iterator[None]:
    with stopped([first("broadcaster")], "omegaup-broadcaster.service"):
        application.put_problem()
        identifier = application.submit(application.SUM)
        row = f"SELECT verdict FROM Runs WHERE submission_id = '{identifier}' AND status = 'ready'"
        eventually("a verdict that nobody hears of", lambda: bool(sql(database(), row)), 60)
        yield


@dataclass(frozen=True)
class Fault:
    """`made`: a context in which the fault is. `after`: what brings the fleet back once it has ended."""

    name: str
    made: Callable[[], AbstractContextManager[None]]
    after: Callable[[], object] = lambda: None


OLD = "/var/lib/fleet/backup"
DISTURBS_NOBODY = (
    Fault("TargetDown", lambda: stopped([redis_replica()], "prometheus-redis-exporter.service")),
    Fault("CheckFailed", lambda: stopped([first("gitserver")], "omegaup-gitserver.service")),
    Fault("PartUnwell", contextlib.nullcontext),  # of the grader, whose gitserver that is
    Fault("UnitFailed", fails_to_start),
    Fault("NoRunners", contextlib.nullcontext),  # since the only one does not start
    Fault("QueueWithoutConsumers", lambda: stopped([first("worker")], "omegaup-worker@analytics.service")),
    Fault("NginxDown", lambda: stopped([first("frontend")], "nginx.service")),
    Fault("RedisMemoryFull", lambda: short_of_memory(98)),
    Fault("SentinelsMissing", lambda: stopped(hosts("sentinel")[:1], "redis-sentinel.service"), settled),
    Fault("RabbitmqMemberMissing", lambda: stopped(hosts("rabbitmq")[-1:], "rabbitmq-server.service"), settled),
    Fault("MysqlReplicationStopped", lambda: run(replica(), f"{SQL} 'STOP SLAVE'", f"{SQL} 'START SLAVE'")),
    Fault("MysqlReplicasMissing", contextlib.nullcontext),  # by the same
    Fault("PrometheusReloadFailed", lambda: broken("/etc/prometheus/prometheus.yml", "prometheus"), apply),
)
ONE_MEMBER = (
    Fault("RedisDown", lambda: stopped([redis_replica()], "redis-sessions.service"), settled),
    Fault("RedisReplicasMissing", contextlib.nullcontext),  # by the same
    Fault("MysqlDown", lambda: stopped([replica()], "mariadb.service"), settled),
    Fault("RabbitmqAlarm", blocked_publishers),
    Fault("WorkerIdle", lambda: faults.cut_off([first("worker")], hosts("rabbitmq")), settled),
    Fault("NotesOld", lambda: stopped([first("gitserver")], "fleet-notes.timer")),
    Fault("AlertmanagerReloadFailed", lambda: broken(
        "/etc/prometheus/fleet.alertmanager.yml", "prometheus-alertmanager"), apply),
)  # fmt: skip
A_MAJORITY = (
    Fault("SentinelNoQuorum", lambda: stopped(hosts("sentinel")[:2], "redis-sentinel.service"), settled),
    Fault("RabbitmqNoMajority", lambda: stopped(hosts("rabbitmq")[1:], "rabbitmq-server.service"), settled),
    Fault(
        "MysqlTwoPrimaries",
        lambda: run(replica(), f"{SQL} 'SET GLOBAL read_only = 0'", f"{SQL} 'SET GLOBAL read_only = 1'"),
        apply,
    ),
    Fault("ProxyNobodyServes", lambda: stopped(hosts("mysql"), "omegaup-mysql-agent.service"), settled),
)
NOBODY_LEADS = (
    Fault("RedisNoPrimary", lambda: stopped(hosts("redis"), "redis-sessions.service"), settled),
    Fault("MysqlNoPrimary", lambda: run(database(), f"{SQL} 'SET GLOBAL read_only = 1'", ":"), apply),
)
POISON = json.dumps({"type": "poison"})
TAKES_LONG = (
    # Each start has to be seen by a scrape of its own.
    Fault("UnitRestarts", lambda: run(
        first("frontend"), "for i in 1 2 3 4 5; do systemctl restart fleet-door; sleep 20; done", ":")),
    Fault("DeadLetters", lambda: done(lambda: application.publish("analytics", "AnalyticsQueue", POISON))),
    Fault("MessagesFail", contextlib.nullcontext),  # by the same
    Fault("RabbitmqUnroutable", lambda: done(lambda: application.publish("analytics", "nobody", POISON))),
    Fault("EventsLost", events_lost, settled),
    Fault("RunsTakenAway", taken_away, settled),
    Fault("MysqlSemiSyncOff", nobody_acknowledges, settled),
    Fault("RedisMemoryHigh", lambda: short_of_memory(90)),
    Fault("FilesDrifted", lambda: run(
        first("runner"), "echo '# chaos' >>/etc/hosts", "sed -i '/^# chaos$/d' /etc/hosts")),
    Fault("BackupOld", lambda: run(
        first("runner"), f"mkdir -p {OLD}; touch -d '2 days ago' {OLD}/chaos.done", f"rm -f {OLD}/chaos.done")),
)  # fmt: skip
DEAD_HOST = (Fault("HostDown", lambda: faults.power_cut(first("runner")), settled),)
AT_ONCE = {
    "that disturb nobody": DISTURBS_NOBODY, "of one member": ONE_MEMBER, "of a majority": A_MAJORITY,
    "of who leads": NOBODY_LEADS, "that take long": TAKES_LONG, "of a host": DEAD_HOST,
}  # fmt: skip
"""Faults that are made at once, since none of them hides another."""
FAULTS = tuple(fault for group in AT_ONCE.values() for fault in group)

SHARED = "the lab's hosts share it with the machine"
TOO_LONG = "it has to last for longer than a suite may take; promtool's clock is quicker"
TOO_MANY = "it takes more clients than the machine has room for"
ENDS = "the fleet ends it by itself before it may be told: see the suites of failovers"
NOT_MADE = {
    "TargetsMissing": "takes a Prometheus with an older configuration than the inventory's: apply does not leave one",
    "DiskLow": SHARED, "DiskFull": SHARED, "MemoryLow": SHARED, "ClockOff": SHARED, "RedisNotSaved": SHARED,
    "CertificateEndsSoon": TOO_LONG, "RestartOwed": TOO_LONG, "ApplyFailed": TOO_LONG, "QueueGrows": TOO_LONG,
    "MysqlReplicaLags": TOO_LONG, "SiteErrors": TOO_LONG, "SiteSlow": TOO_LONG, "GraderQueueLong": TOO_LONG,
    "LogsMissing": TOO_LONG, "CollectorFailed": TOO_LONG,
    "CertificateEnds": "takes a CA that is about to end",
    "RulesFail": "promtool refuses a rule that fails",
    "AlertsNotSent": "what would tell of it is what is broken: the dead man's call ends instead",
    "AlertsNotDelivered": "the receiver of this suite is what would have to fail",
    "AlertmanagersApart": "the lab has one Alertmanager",
    "RedisSessionsEvicted": "the instance never evicts",
    "RedisRejectsConnections": TOO_MANY, "RabbitmqFilesHigh": TOO_MANY, "MysqlConnectionsHigh": TOO_MANY,
    "PhpQueue": TOO_MANY, "PhpBusy": TOO_MANY, "ProxyConnectionsHigh": TOO_MANY, "ProxyQueue": TOO_MANY,
    "RedisTwoPrimaries": ENDS, "RedisLinkDown": ENDS, "RedisReplicaLags": ENDS, "SentinelsDisagree": ENDS,
    "RabbitmqParted": ENDS,
}  # fmt: skip
"""Alerts that only promtool has fired -> why."""


def test_every_alert_is_fired_or_says_why_not() -> None:
    # Of which a fleet with one monitoring host has one less.
    names = {alert.name for alert in rules.alerts(the_fleet())} - {"Watchdog"} | {"AlertmanagersApart"}
    made = {fault.name for fault in FAULTS}
    assert made | set(NOT_MADE) == names
    assert not made & set(NOT_MADE)


@pytest.mark.thorough
@pytest.mark.parametrize("group", AT_ONCE)
def test_alerts_fire_by_their_faults_and_are_over_after_the_mend(group: str) -> None:
    lasts = {alert.name: alert.seconds for alert in rules.alerts(the_fleet())}
    names = {fault.name for fault in AT_ONCE[group]}
    since, begun = clock(), time.monotonic()
    with contextlib.ExitStack() as made:
        for fault in AT_ONCE[group]:
            made.enter_context(fault.made())
        fired = each("fires", names, since, "firing", max(lasts[name] for name in names) + TELLING + 300, begun)
        mended, again = clock(), time.monotonic()
    for after in {fault.after for fault in AT_ONCE[group]}:
        after()
    over = each("is over", names, mended, "resolved", OVER, again)
    for name in sorted(names):
        results.note(f"alert {name}", seconds_to_fire=fired[name], seconds_to_be_over=over[name])


def each(what: str, names: set[str], since: float, status: str, timeout: float, begun: float) -> dict[str, float]:
    """Wait until the receiver has been told of each; seconds from `begun` (monotonic) until it had been."""
    seen: dict[str, float] = {}

    def all_of_them() -> bool:
        for name in since_then(since, status) & names - seen.keys():
            seen[name] = time.monotonic() - begun
        return seen.keys() == names

    try:
        eventually(f"each {what}", all_of_them, timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {', '.join(sorted(names - seen.keys()))}") from None
    return seen


@pytest.mark.thorough
def test_one_dead_host_is_one_page() -> None:
    """Everything that the death of a data host, which led nothing, brings with it is held back."""
    leaders = {primary(CACHE), primary(SESSIONS), database()}
    host = next((name for name in hosts("redis") if name not in leaders), None)
    if host is None:
        pytest.skip("every data host leads something at the moment")
    since = clock()
    with faults.power_cut(host):
        eventually("HostDown fires", lambda: "HostDown" in since_then(since), 60 + TELLING)
        # As long as the slowest of those that it holds back would have taken.
        with pytest.raises(AssertionError, match="another is told"):
            eventually("another is told", lambda: since_then(since) != {"HostDown"}, 240)
    settled()


@pytest.mark.thorough
def test_without_a_fault_nothing_fires(tmp_path: Path) -> None:
    """As many scrapes as an hour has, closer to one another, with visitors and writers all the time."""
    seconds = SCRAPES * CLOSER
    quick = altered(tmp_path, f'{UNBOUNDED}monitoring = {{"scrape_interval": {CLOSER}}}')
    assert fleet("apply", inventory=quick).returncode == 0
    try:
        since = clock()
        # No messages: nobody takes those of the load, and that is something to tell of.
        writing, visits = load("web1", "quiet", "sessions", "cache", "rows", pause=0.2), visiting("web1", pause=1)
        with writing, visits, pytest.raises(AssertionError, match="one fires"):
            eventually("one fires", lambda: bool(since_then(since)), seconds)
        scrapes = min(ask(f"count_over_time(up[{seconds:.0f}s])").values())
        # What waits all the time would fire in a longer hour.
        waited = ask(f'max by (alertname) (count_over_time(ALERTS{{alertstate="pending"}}[{seconds:.0f}s]))')
    finally:
        apply()
    assert scrapes > 0.9 * SCRAPES
    assert {name for name, times in waited.items() if times > 0.8 * SCRAPES} == set()
    results.note("an hour's scrapes without a fault", scrapes=scrapes)


@pytest.mark.thorough
def test_what_monitoring_costs() -> None:
    """Memory and processor of all that only watches, on each host, over half a minute."""
    units = "'prometheus*' fleet-door.service fleet-alert-log.service"
    script = (
        f"systemctl show -p MainPID {units} | sed -n 's/^MainPID=//p' | sort -u | while read -r p; do [ $p = 0 ] || "
        "for c in $p $(pgrep -P $p); do awk '{ print \"ticks\", $14 + $15 }' /proc/$c/stat; "
        "sed -n 's/^VmRSS: *\\([0-9]*\\).*/KiB \\1/p' /proc/$c/status; done; done"
    )

    def total(host: str, kind: str) -> int:
        return sum(int(line.split()[1]) for line in on(host, script).splitlines() if line.startswith(kind))

    for host in the_fleet().hosts:
        before = total(host.name, "ticks")
        time.sleep(30)  # the interval that is measured
        share = (total(host.name, "ticks") - before) / 30
        memory = total(host.name, "KiB") / 1024
        results.note(f"monitoring on {host.name}", MiB=memory, percent_of_a_core=share)
        assert memory < 700
