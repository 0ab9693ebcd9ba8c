"""What Prometheus makes of what it reads: the spec's metric names, and the alerts. Pure.

An alert's summary names the host (or the cluster) and the value. `docs/alerts.md` has a section for each: what it
means, what to look at, what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from deploy.model.catalog import DEAD_LETTERS
from deploy.model.fleet import Fleet
from deploy.model.profiles import UPSTREAM
from deploy.model.scrapes import BLACKBOX, jobs

Severity = Literal["page", "warning", "none"]

HOUR, DAY = 3600, 86400
PROBED_BY = f'job!="{BLACKBOX}"'
"""Of `up`: the blackbox exporter answers for a host that does not."""
OF_A_LIVE_HOST = " unless on (host) (fleet_host_up == 0)"
"""Inhibition alone comes too late: HostDown begins when the last of a host's targets is silent, others before."""

USERS = 'api!~"/health.*|/metrics"'
"""Of the site's requests: those of people, not of whoever watches it."""


@dataclass(frozen=True)
class Record:
    """A series under another name. `labels` are added."""

    name: str
    expression: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Alert:
    """`seconds`: how long it has to be so. `page`: a person is woken; `warning`: seen to in working hours.

    `host_explains`: what a dead host of a cluster brings with it: not told again while HostDown is. `lingers`: seconds
    for which it goes on firing when it is no longer so.
    """

    name: str
    expression: str
    seconds: float
    severity: Severity
    summary: str
    host_explains: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    lingers: float = 0.0

    @property
    def runbook(self) -> str:
        """Where the page about it is, from the repository's root."""
        return f"docs/alerts.md#{self.name.lower()}"


HOST = "{{ $labels.host }}"
VALUE = "{{ $value | humanize }}"
PERCENT = "{{ $value | humanizePercentage }}"
LASTS = "{{ $value | humanizeDuration }}"
BOOTS = 180
"""Seconds that all of a host may take to serve again once it answers: what its death brought is not news by then."""
NOTES_OLD = 300
"""Seconds: an age that notes of a host have only where something is wrong."""


def records(fleet: Fleet) -> tuple[Record, ...]:
    """The spec's names, where exporters or the real judge have others (spec: Prometheus Metrics)."""
    runners = "sum without (runner_hostname, runner_public_ip) (quark_grader_runner_up)"
    if fleet.profile is UPSTREAM:
        # The real grader forgets a runner that is silent: with none there is no series, which would be nobody's alert.
        runners = "count(quark_grader_runner_up == 1) or vector(0)"
    found = [
        Record("redis_used_memory_bytes", "redis_memory_used_bytes"),
        # One series a queue: a queue's leader has its figures, and may move.
        Record("rabbitmq_queue_messages", "max by (queue, vhost) (rabbitmq_detailed_queue_messages)"),
        Record("rabbitmq_queue_messages_ready", "max by (queue, vhost) (rabbitmq_detailed_queue_messages_ready)"),
        Record("rabbitmq_queue_messages_unacked", "max by (queue, vhost) (rabbitmq_detailed_queue_messages_unacked)"),
        Record("rabbitmq_queue_consumers", "max by (queue, vhost) (rabbitmq_detailed_queue_consumers)"),
        # The real judge's names (quark v1.9.74: `_length` of each of its four queues is never set, the total is).
        Record("grader_queue_length", "quark_grader_queue_total_length", (("queue", "total"),)),
        Record("grader_submissions_total", "quark_grader_runs_total"),
        Record("grader_runners_available", runners),
        # Days, of what is on the disk and of what is served.
        Record(
            "fleet_certificate_days", "(fleet_certificate_not_after_seconds - time()) / 86400", (("where", "disk"),)
        ),
        Record(
            "fleet_certificate_days", f'(probe_ssl_earliest_cert_expiry{{job="{BLACKBOX}"}} - time()) / 86400',
            (("where", "served"),),
        ),
        Record("fleet_logs_age_seconds",
               'label_replace(time() - fleet_logs_time_seconds, "host", "$1", "sender", "(.+)")'),
        Record("fleet_host_up", f"max by (host) (up{{{PROBED_BY}}})"),
        # The site, as its users have it.
        Record("frontend:requests:rate5m", f"sum by (host) (rate(frontend_api_request_total{{{USERS}}}[5m]))"),
        # Without errors there is no series of them; without requests there is no ratio.
        Record(
            "frontend:errors:ratio5m",
            f'(sum(rate(frontend_api_request_status_count{{status=~"5..",{USERS}}}[5m])) or vector(0)) / '
            f"(sum(rate(frontend_api_request_status_count{{{USERS}}}[5m])) > 0)",
        ),
        Record(
            "frontend:seconds:p99",
            f"histogram_quantile(0.99, sum by (le) (rate(frontend_api_request_seconds_bucket{{{USERS}}}[5m])))",
        ),
        Record("redis:hits:ratio5m", "rate(redis_keyspace_hits_total[5m]) / ((rate(redis_keyspace_hits_total[5m]) + "
               "rate(redis_keyspace_misses_total[5m])) > 0)"),
    ]  # fmt: skip
    return tuple(found)


def alerts(fleet: Fleet) -> tuple[Alert, ...]:
    """Every alert of this fleet: those of services that it has not are left out."""
    found = [*_hosts(fleet), *_project(fleet), *_monitoring(fleet)]
    for service, rules in (
        ("redis", _redis), ("sentinel", _sentinel), ("rabbitmq", _rabbitmq), ("mysql", _mysql),
        ("frontend", _frontend), ("proxy", _proxy), ("grader", _grader), ("worker", _worker),
    ):  # fmt: skip
        if fleet.members(service):
            found += rules(fleet)
    return tuple(found)


def _patience(fleet: Fleet) -> float:
    """Seconds without an answer that are no accident: four scrapes, and never less than a minute."""
    return max(60.0, 4 * fleet.members("monitoring")[0].settings.monitoring.scrape_interval)


def _moment(fleet: Fleet) -> float:
    """Seconds after which members that were read at different times have all been read again: until then a role that
    moved may be seen twice, or nowhere.
    """
    return max(30.0, 2 * fleet.members("monitoring")[0].settings.monitoring.scrape_interval)


def _hosts(fleet: Fleet) -> Iterator[Alert]:
    patience = _patience(fleet)
    yield Alert(
        "HostDown", "fleet_host_up == 0", patience - 15, "page", f"{HOST}: nothing on it answers", lingers=BOOTS
    )
    yield Alert(
        "TargetDown",
        f"up{{{PROBED_BY}}} == 0{OF_A_LIVE_HOST}",
        patience,
        "warning",
        f"{HOST}: {{{{ $labels.job }}}} at {{{{ $labels.instance }}}} gives no figures",
    )
    for job in jobs(fleet):
        yield Alert(
            "TargetsMissing",
            f'(count(up{{job="{job.name}"}}) or vector(0)) < {len(job.targets)}', patience, "warning",
            f"{job.name}: {VALUE} of {len(job.targets)} targets are known", labels=(("job", job.name),),
        )  # fmt: skip
    yield Alert(
        "CheckFailed",
        f"probe_success == 0{OF_A_LIVE_HOST}",
        patience,
        "page",
        f"{HOST}: {{{{ $labels.check }}}} ({{{{ $labels.instance }}}}) is not well",
    )
    yield Alert(
        "PartUnwell",
        "omegaup_check_ok == 0",
        patience,
        "warning",
        f"{HOST}: {{{{ $labels.job }}}} cannot use {{{{ $labels.check }}}}",
    )
    yield Alert(
        "UnitFailed",
        'node_systemd_unit_state{state="failed"} == 1',
        60,
        "warning",
        f"{HOST}: {{{{ $labels.name }}}} has failed",
    )
    # The sender of the journal starts anew for as long as nobody takes what it sends: LogsMissing says so.
    started = 'node_systemd_unit_start_time_seconds{name!="systemd-journal-upload.service"}[15m]'
    yield Alert(
        "UnitRestarts",
        # A unit that stands still has started at 0: a stop that a scrape saw is a change as well, but no start.
        f"changes({started}) - resets({started}) > 3",
        0,
        "warning",
        f"{HOST}: {{{{ $labels.name }}}} was started {VALUE} times in a quarter of an hour",
    )
    free = "node_filesystem_avail_bytes / node_filesystem_size_bytes"
    yield Alert(
        "DiskLow", f"{free} < 0.15", 300, "warning", f"{HOST}: {PERCENT} of {{{{ $labels.mountpoint }}}} is free"
    )
    yield Alert("DiskFull", f"{free} < 0.05", 60, "page", f"{HOST}: {PERCENT} of {{{{ $labels.mountpoint }}}} is free")
    yield Alert(
        "MemoryLow",
        "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.05",
        300,
        "warning",
        f"{HOST}: {PERCENT} of the memory is available",
    )
    yield Alert(
        "ClockOff",
        "abs(node_time_seconds - timestamp(node_time_seconds)) > 2",
        300,
        "warning",
        f"{HOST}: its clock is {VALUE} s off monitoring's",
    )


def _project(fleet: Fleet) -> Iterator[Alert]:
    renew = fleet.hosts[0].settings.trust.renew_days
    soon = max(3, renew // 2)
    what = "{{ if $labels.certificate }}{{ $labels.certificate }}{{ else }}{{ $labels.check }}{{ end }}"
    yield Alert(
        "CertificateEndsSoon",
        f"fleet_certificate_days < {soon}",
        3600,
        "warning",
        f"{HOST}: the certificate of {what} ({{{{ $labels.where }}}}) ends in {VALUE} days",
    )
    yield Alert(
        "CertificateEnds",
        "fleet_certificate_days < 2",
        300,
        "page",
        f"{HOST}: the certificate of {what} ({{{{ $labels.where }}}}) ends in {VALUE} days",
    )
    yield Alert(
        "RestartOwed",
        "fleet_restart_owed == 1",
        12 * HOUR,
        "warning",
        f"{HOST}: {{{{ $labels.unit }}}} has not loaded its files yet: fleet roll",
    )
    yield Alert(
        "FilesDrifted", "fleet_files_drifted > 0", 600, "warning", f"{HOST}: {VALUE} files were changed by hand"
    )
    yield Alert(
        "ApplyFailed", "fleet_apply_ok == 0", 900, "warning", f"{HOST}: the last apply did not succeed ({VALUE})"
    )
    yield Alert(
        "NotesOld",
        f"time() - fleet_notes_time_seconds > {NOTES_OLD}",
        120,
        "warning",
        f"{HOST}: its notes are {LASTS} old",
    )
    yield Alert(
        "LogsMissing", "fleet_logs_age_seconds > 2700", 300, "warning",
        f"{HOST}: the last of its lines came to the store of logs {LASTS} ago",
    )  # fmt: skip
    yield Alert(
        "CollectorFailed",
        'node_scrape_collector_success{collector=~"filesystem|systemd|textfile"} == 0 or '
        "node_textfile_scrape_error == 1",
        300,
        "warning",
        f"{HOST}: the figures of {{{{ or $labels.collector `the project's notes` }}}} cannot be read ({VALUE})",
    )
    yield Alert(
        "BackupOld",
        f"time() - fleet_backup_time_seconds > {26 * HOUR}",
        600,
        "page",
        f"{HOST}: the last backup of {{{{ $labels.backup }}}} is {LASTS} old",
    )


def _monitoring(fleet: Fleet) -> Iterator[Alert]:
    members = len(fleet.members("alertmanager"))
    yield Alert("Watchdog", "vector(1)", 0, "none", "Alerting works: this one always fires")
    yield Alert(
        "PrometheusReloadFailed",
        "prometheus_config_last_reload_successful == 0",
        60,
        "warning",
        f"{HOST}: Prometheus goes on with an older configuration ({VALUE})",
    )
    yield Alert(
        "RulesFail",
        "increase(prometheus_rule_evaluation_failures_total[5m]) > 0",
        60,
        "warning",
        f"{HOST}: {VALUE} evaluations of {{{{ $labels.rule_group }}}} failed",
    )
    yield Alert(
        "AlertmanagerReloadFailed",
        "alertmanager_config_last_reload_successful == 0",
        60,
        "warning",
        f"{HOST}: Alertmanager goes on with an older configuration ({VALUE})",
    )
    yield Alert(
        # What fires is handed over again each minute: one that a reload of the other side cost is no loss.
        "AlertsNotSent",
        "increase(prometheus_notifications_dropped_total[2m]) > 0",
        180,
        "page",
        f"{HOST}: Prometheus could not hand over {VALUE} alerts",
    )
    yield Alert(
        "AlertsNotDelivered",
        "sum by (host, integration) (increase(alertmanager_notifications_failed_total[10m])) > 1", 300, "page",
        f"{HOST}: {VALUE} notifications by {{{{ $labels.integration }}}} failed",
    )  # fmt: skip
    if members > 1:
        yield Alert(
            "AlertmanagersApart",
            f"alertmanager_cluster_members < {members}",
            120,
            "warning",
            f"{HOST}: it sees {VALUE} of {members} Alertmanagers",
            host_explains=True,
        )


def _redis(fleet: Fleet) -> Iterator[Alert]:
    replicas = len(fleet.members("redis")) - 1
    name = "Redis {{ $labels.redis }}"
    primaries = 'count by (redis) (redis_instance_info{role="master"})'
    yield Alert(
        # Where the primary's exporter is what is missing, a replica still says that it is linked to somebody.
        "RedisNoPrimary", f'count by (redis) (redis_up{{job="redis"}}) unless on (redis) {primaries} '
        "unless on (redis) (redis_master_link_up == 1)", _moment(fleet),
        "page", f"{name}: none of {VALUE} members is the primary",
    )  # fmt: skip
    yield Alert(
        "RedisTwoPrimaries",
        f"{primaries} > 1",
        _moment(fleet),
        "page",
        f"{name}: {VALUE} members take themselves for the primary",
    )
    yield Alert(
        "RedisDown",
        'redis_up{job="redis"} == 0',
        60,
        "warning",
        f"{HOST}: {name} does not answer its exporter ({VALUE})",
    )
    yield Alert(
        "RedisMemoryHigh",
        'redis_used_memory_bytes{redis="sessions"} / redis_memory_max_bytes > 0.85',
        300,
        "warning",
        f"{HOST}: {name} has used {PERCENT} of its memory, and never evicts",
    )
    yield Alert(
        "RedisMemoryFull",
        'redis_used_memory_bytes{redis="sessions"} / redis_memory_max_bytes > 0.95',
        60,
        "page",
        f"{HOST}: {name} has used {PERCENT} of its memory: logins are about to be refused",
    )
    yield Alert(
        "RedisSessionsEvicted",
        'increase(redis_evicted_keys_total{redis="sessions"}[10m]) > 0',
        0,
        "page",
        f"{HOST}: {name} evicted {VALUE} keys: people were logged out",
    )
    yield Alert(
        "RedisRejectsConnections",
        "increase(redis_rejected_connections_total[5m]) > 0",
        60,
        "warning",
        f"{HOST}: {name} refused {VALUE} connections",
    )
    yield Alert(
        "RedisNotSaved",
        "redis_rdb_last_bgsave_status == 0 or redis_aof_last_write_status == 0 or redis_aof_last_bgrewrite_status == 0",
        60,
        "page",
        f"{HOST}: {name} cannot write to its disk ({VALUE})",
    )
    if replicas > 0:
        yield Alert(
            # A primary alone counts replicas: where its exporter is what is missing, nobody knows how many follow.
            "RedisReplicasMissing",
            "max by (redis) (redis_connected_slaves and on (host, redis) "
            f'redis_instance_info{{role="master"}}) < {replicas}',
            120,
            "warning",
            f"{name}: {VALUE} of {replicas} replicas follow",
            host_explains=True,
        )
        yield Alert(
            "RedisLinkDown",
            "redis_master_link_up == 0",
            60,
            "warning",
            f"{HOST}: {name} is cut off from its primary {{{{ $labels.master_host }}}} ({VALUE})",
        )
        yield Alert(
            "RedisReplicaLags",
            "redis_connected_slave_lag_seconds > 10",
            120,
            "warning",
            f"{HOST}: {name}: the replica {{{{ $labels.slave_ip }}}} is {VALUE} s behind",
            host_explains=True,
        )


def _sentinel(fleet: Fleet) -> Iterator[Alert]:
    sentinels = len(fleet.members("sentinel"))
    majority = sentinels // 2 + 1
    yield Alert(
        "SentinelNoQuorum",
        f'((count(redis_up{{job="sentinel"}} == 1) or vector(0)) < {majority}) or '
        "(min by (master_name) (redis_sentinel_master_ckquorum_status) == 0)", 15, "page",
        f"Sentinels cannot fail over {{{{ $labels.master_name }}}}: {VALUE} (a majority is {majority})",
    )  # fmt: skip
    yield Alert(
        "SentinelsMissing",
        f"min by (master_name) (redis_sentinel_master_sentinels) < {sentinels} or "
        f'count(redis_up{{job="sentinel"}} == 1) < {sentinels}',
        120,
        "warning",
        f"{VALUE} of {sentinels} sentinels watch {{{{ $labels.master_name }}}}",
        host_explains=True,
    )
    yield Alert(
        "SentinelsDisagree",
        "count by (master_name) (count by (master_name, master_address) (redis_sentinel_master_status)) > 1", 60,
        "page", f"Sentinels name {VALUE} primaries of {{{{ $labels.master_name }}}}",
    )  # fmt: skip


def _rabbitmq(fleet: Fleet) -> Iterator[Alert]:
    members = len(fleet.members("rabbitmq"))
    work = "|".join(queue.name for queue in fleet.profile.queues)
    limit = fleet.members("monitoring")[0].settings.monitoring.queue_length
    running = '(count(rabbitmq_identity_info{job="rabbitmq"}) or vector(0))'
    yield Alert(
        "RabbitmqNoMajority",
        f"{running} <= {members / 2:g}",
        _moment(fleet),
        "page",
        f"RabbitMQ: {VALUE} of {members} members run",
    )
    if members > 1:
        yield Alert(
            "RabbitmqMemberMissing",
            f"{running} < {members}",
            120,
            "warning",
            f"RabbitMQ: {VALUE} of {members} members run",
            host_explains=True,
        )
        links = 'erlang_vm_dist_node_state{peer=~"rabbit@.+"} == 3'
        yield Alert(
            "RabbitmqParted", f"count by (host) ({links}) < scalar({running}) - 1 or "
            f"((sum by (host) (rabbitmq_identity_info{{job='rabbitmq'}}) - 1) unless on (host) ({links})) "
            f"and on () {running} > 1", 60, "page", f"{HOST}: RabbitMQ is linked to {VALUE} other members only",
        )  # fmt: skip
    yield Alert(
        "RabbitmqAlarm", "rabbitmq_alarms_memory_used_watermark == 1 or "
        "rabbitmq_alarms_free_disk_space_watermark == 1 or rabbitmq_alarms_file_descriptor_limit == 1", 15, "page",
        f"{HOST}: RabbitMQ blocks its publishers: no memory, disk or file left ({VALUE})",
    )  # fmt: skip
    yield Alert(
        "QueueWithoutConsumers",
        f'rabbitmq_queue_consumers{{queue=~"{work}"}} == 0',
        120,
        "page",
        f"RabbitMQ: nobody takes from {{{{ $labels.queue }}}} ({VALUE} consumers)",
    )
    yield Alert(
        "QueueGrows",
        f'rabbitmq_queue_messages_ready{{queue=~"{work}"}} > {limit}',
        600,
        "warning",
        f"RabbitMQ: {VALUE} messages wait in {{{{ $labels.queue }}}}",
    )
    yield Alert(
        "DeadLetters",
        'delta(rabbitmq_queue_messages{queue=~".+[.]dead"}[15m]) > 0',
        0,
        "warning",
        f"RabbitMQ: {VALUE} messages went to {{{{ $labels.queue }}}}, by {DEAD_LETTERS}",
    )
    yield Alert(
        "RabbitmqUnroutable",
        "sum by (host) (increase(rabbitmq_global_messages_unroutable_dropped_total[10m]) + "
        "increase(rabbitmq_global_messages_unroutable_returned_total[10m])) > 0",
        0,
        "warning",
        f"{HOST}: RabbitMQ had no queue for {VALUE} messages",
    )
    yield Alert(
        "RabbitmqFilesHigh",
        "rabbitmq_process_open_fds / rabbitmq_process_max_fds > 0.85",
        300,
        "warning",
        f"{HOST}: RabbitMQ has {PERCENT} of its files open",
    )


def _mysql(fleet: Fleet) -> Iterator[Alert]:
    members = len(fleet.members("mysql"))
    writable = "(count(mysql_global_variables_read_only == 0) or vector(0))"
    settings = fleet.members("mysql")[0].settings.mysql
    yield Alert(
        "MysqlNoPrimary", f"{writable} == 0", _moment(fleet), "page", f"The database: {VALUE} members take writes"
    )
    yield Alert(
        "MysqlTwoPrimaries", f"{writable} > 1", _moment(fleet), "page", f"The database: {VALUE} members take writes"
    )
    yield Alert(
        "MysqlDown", "mysql_up == 0", 60, "warning", f"{HOST}: the database does not answer its exporter ({VALUE})"
    )
    yield Alert(
        "MysqlConnectionsHigh", "mysql_global_status_threads_connected / mysql_global_variables_max_connections > 0.8",
        300, "warning", f"{HOST}: {PERCENT} of the database's connections are in use",
    )  # fmt: skip
    if members > 1:
        yield Alert(
            "MysqlReplicationStopped",
            "mysql_slave_status_slave_io_running == 0 or mysql_slave_status_slave_sql_running == 0", 60, "warning",
            f"{HOST}: the replica does not follow {{{{ $labels.master_host }}}} ({VALUE})",
        )  # fmt: skip
        yield Alert(
            "MysqlReplicaLags",
            f"mysql_slave_status_seconds_behind_master > {settings.max_lag:g}",
            300,
            "warning",
            f"{HOST}: the replica is {VALUE} s behind",
        )
        yield Alert(
            "MysqlReplicasMissing",
            f"count(mysql_slave_status_slave_io_running == 1) < {members - 1} or "
            f"(absent(mysql_slave_status_slave_io_running == 1) - 1)", 120, "warning",
            f"The database: {VALUE} of {members - 1} replicas follow", host_explains=True,
        )  # fmt: skip
        # Where it is switched off for good, no replica has it on.
        wanted = "max(mysql_global_variables_rpl_semi_sync_slave_enabled) == 1"
        yield Alert(
            "MysqlSemiSyncOff",
            "(mysql_global_status_rpl_semi_sync_master_status and on (host) "
            f"(mysql_global_variables_read_only == 0) and on () ({wanted})) == 0", 60, "page",
            f"{HOST}: commits wait for no replica ({VALUE}): a failover would lose the last of them",
        )  # fmt: skip


def _frontend(fleet: Fleet) -> Iterator[Alert]:
    latency = fleet.members("monitoring")[0].settings.monitoring.latency
    yield Alert(
        "SiteErrors", "frontend:errors:ratio5m > 0.01", 300, "page", f"The site: {PERCENT} of its answers are errors"
    )
    yield Alert(
        "SiteSlow",
        f"frontend:seconds:p99 > {latency:g}",
        600,
        "warning",
        f"The site: 1 % of its answers take {VALUE} s or more",
    )
    yield Alert("NginxDown", "nginx_up == 0", 60, "warning", f"{HOST}: nginx does not answer its exporter ({VALUE})")
    yield Alert(
        "PhpQueue", "phpfpm_listen_queue > 0", 60, "warning", f"{HOST}: {VALUE} requests wait for a PHP process"
    )
    yield Alert(
        "PhpBusy",
        "increase(phpfpm_max_children_reached[10m]) > 0",
        0,
        "warning",
        f"{HOST}: all PHP processes were busy {VALUE} times",
    )


def _proxy(fleet: Fleet) -> Iterator[Alert]:
    yield Alert(
        "ProxyNobodyServes",
        "haproxy_backend_active_servers == 0",
        15,
        "page",
        f"{HOST}: nobody serves {{{{ $labels.proxy }}}} ({VALUE} servers)",
    )
    yield Alert(
        "ProxyConnectionsHigh", "haproxy_process_current_connections / haproxy_process_max_connections > 0.8", 120,
        "warning", f"{HOST}: HAProxy has {PERCENT} of its connections in use",
    )  # fmt: skip
    yield Alert(
        "ProxyQueue",
        "haproxy_backend_current_queue > 0",
        60,
        "warning",
        f"{HOST}: {VALUE} connections to {{{{ $labels.proxy }}}} wait",
    )


def _grader(fleet: Fleet) -> Iterator[Alert]:
    limit = fleet.members("monitoring")[0].settings.monitoring.queue_length
    yield Alert(
        "NoRunners", "sum(grader_runners_available) == 0", 60, "page", f"The grader: {VALUE} runners: nothing is judged"
    )
    yield Alert(
        "GraderQueueLong",
        f"sum by (queue) (grader_queue_length) > {limit}",
        600,
        "warning",
        f"The grader: {VALUE} submissions wait in {{{{ $labels.queue }}}}",
    )
    yield Alert(
        "RunsTakenAway",
        "increase(grader_leases_expired_total[15m]) > 0",
        0,
        "warning",
        f"{HOST}: {VALUE} runs were taken from runners that fell silent",
    )
    yield Alert(
        "EventsLost",
        "increase(grader_events_lost_total[15m]) > 0",
        300,
        "warning",
        f"{HOST}: {VALUE} events never reached the broadcaster",
    )


def _worker(fleet: Fleet) -> Iterator[Alert]:
    yield Alert(
        "WorkerIdle",
        "worker_consuming == 0",
        120,
        "warning",
        f"{HOST}: the worker of {{{{ $labels.queue }}}} takes nothing ({VALUE})",
    )
    yield Alert(
        "MessagesFail", 'sum by (host, queue) (increase(worker_messages_total{result=~"failed|rejected"}[15m])) > 0', 0,
        "warning", f"{HOST}: {VALUE} messages of {{{{ $labels.queue }}}} could not be handled",
    )  # fmt: skip
