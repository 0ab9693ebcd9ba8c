"""The fault that each alert tells of, made on real hosts; and why some are not made here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from deploy.model.catalog import SERVICES
from tests.chaos import application, faults
from tests.chaos.application import first
from tests.chaos.failover import (
    database,
    eventually,
    hosts_of,
    primary,
    redis,
    redis_cli,
    replica,
    settled,
    sql,
    the_fleet,
)
from tests.chaos.metrics import WATCHER
from tests.chaos.support import apply, on

SESSIONS, CACHE = (SERVICES["redis"].port(name).number for name in ("sessions", "cache"))
CLI = redis_cli(the_fleet().hosts[0].name, "sessions")
SQL = "mariadb --no-defaults --user=root --socket=/run/mysqld/mysqld.sock -N -e"


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
    return next(name for name in hosts_of("redis") if redis(name, SESSIONS, "ROLE")[:1] == ["slave"])


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
        for name in hosts_of("mysql"):
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
    """`name`: of the alert that tells of it. `by`: the fault, in words. `made`: a context in which it is; an empty one
    where that is another's. `after`: what brings the fleet back once it has ended.
    """

    name: str
    by: str
    made: Callable[[], AbstractContextManager[None]]
    after: Callable[[], object] = lambda: None


OLD = "/var/lib/fleet/backup"
DISTURBS_NOBODY = (
    Fault("TargetDown", "an exporter stops", lambda: stopped([redis_replica()], "prometheus-redis-exporter.service")),
    Fault("CheckFailed", "the gitserver stops", lambda: stopped([first("gitserver")], "omegaup-gitserver.service")),
    Fault("PartUnwell", "the grader's gitserver is stopped", contextlib.nullcontext),
    Fault("UnitFailed", "a unit does not start", fails_to_start),
    Fault("NoRunners", "the only runner does not start", contextlib.nullcontext),
    Fault("QueueWithoutConsumers", "a worker stops",
          lambda: stopped([first("worker")], "omegaup-worker@analytics.service")),
    Fault("NginxDown", "nginx stops on a web host", lambda: stopped([first("frontend")], "nginx.service")),
    Fault("RedisMemoryFull", "98 % of maxmemory", lambda: short_of_memory(98)),
    Fault("SentinelsMissing", "one Sentinel stops",
          lambda: stopped(hosts_of("sentinel")[:1], "redis-sentinel.service"), settled),
    Fault("RabbitmqMemberMissing", "one broker stops",
          lambda: stopped(hosts_of("rabbitmq")[-1:], "rabbitmq-server.service"), settled),
    Fault("MysqlReplicationStopped", "a replica is told to stop",
          lambda: run(replica(), f"{SQL} 'STOP SLAVE'", f"{SQL} 'START SLAVE'")),
    Fault("MysqlReplicasMissing", "a replica is told to stop", contextlib.nullcontext),
    Fault("PrometheusReloadFailed", "its file is broken by hand",
          lambda: broken("/etc/prometheus/prometheus.yml", "prometheus"), apply),
)  # fmt: skip
ONE_MEMBER = (
    Fault("RedisDown", "a replica stops", lambda: stopped([redis_replica()], "redis-sessions.service"), settled),
    Fault("RedisReplicasMissing", "a replica stops", contextlib.nullcontext),
    Fault("MysqlDown", "a replica stops", lambda: stopped([replica()], "mariadb.service"), settled),
    Fault("RabbitmqAlarm", "the memory watermark is passed", blocked_publishers),
    Fault("WorkerIdle", "no broker can be reached from a worker's host",
          lambda: faults.cut_off([first("worker")], hosts_of("rabbitmq")), settled),
    Fault("NotesOld", "a host's timer stops", lambda: stopped([first("gitserver")], "fleet-notes.timer")),
    Fault("AlertmanagerReloadFailed", "its file is broken by hand",
          lambda: broken("/etc/prometheus/fleet.alertmanager.yml", "prometheus-alertmanager"), apply),
)  # fmt: skip
A_MAJORITY = (
    Fault("SentinelNoQuorum", "two of three Sentinels stop",
          lambda: stopped(hosts_of("sentinel")[:2], "redis-sentinel.service"), settled),
    Fault("RabbitmqNoMajority", "two of three brokers stop",
          lambda: stopped(hosts_of("rabbitmq")[1:], "rabbitmq-server.service"), settled),
    Fault("MysqlTwoPrimaries", "a replica is opened by hand",
          lambda: run(replica(), f"{SQL} 'SET GLOBAL read_only = 0'", f"{SQL} 'SET GLOBAL read_only = 1'"), apply),
    Fault("ProxyNobodyServes", "no agent says which member leads",
          lambda: stopped(hosts_of("mysql"), "omegaup-mysql-agent.service"), settled),
)  # fmt: skip
NOBODY_LEADS = (
    Fault("RedisNoPrimary", "all of an instance stop",
          lambda: stopped(hosts_of("redis"), "redis-sessions.service"), settled),
    Fault("MysqlNoPrimary", "the primary is made read-only by hand",
          lambda: run(database(), f"{SQL} 'SET GLOBAL read_only = 1'", ":"), apply),
)  # fmt: skip
POISON = json.dumps({"type": "poison"})
TAKES_LONG = (
    # Each start has to be seen by a scrape of its own.
    Fault("UnitRestarts", "a unit restarts five times", lambda: run(
        first("frontend"), "for i in 1 2 3 4 5; do systemctl restart fleet-door; sleep 20; done", ":")),
    Fault("DeadLetters", "a poisoned message",
          lambda: done(lambda: application.publish("analytics", "AnalyticsQueue", POISON))),
    Fault("MessagesFail", "a poisoned message", contextlib.nullcontext),
    Fault("RabbitmqUnroutable", "a message to a queue that is not there",
          lambda: done(lambda: application.publish("analytics", "nobody", POISON))),
    Fault("EventsLost", "a verdict while the broadcaster is stopped", events_lost, settled),
    Fault("RunsTakenAway", "a runner is cut off with runs in hand", taken_away, settled),
    Fault("MysqlSemiSyncOff", "no replica acknowledges", nobody_acknowledges, settled),
    Fault("RedisMemoryHigh", "90 % of maxmemory", lambda: short_of_memory(90)),
    Fault("FilesDrifted", "a file is changed by hand", lambda: run(
        first("runner"), "echo '# chaos' >>/etc/hosts", "sed -i '/^# chaos$/d' /etc/hosts")),
    Fault("BackupOld", "the last one is two days old", lambda: run(
        first("runner"), f"mkdir -p {OLD}; touch -d '2 days ago' {OLD}/chaos.done", f"rm -f {OLD}/chaos.done")),
)  # fmt: skip
DEAD_HOST = (Fault("HostDown", "a host without power", lambda: faults.power_cut(first("runner")), settled),)
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
