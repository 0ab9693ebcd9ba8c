"""For each alert: figures that it has to fire at, figures close by that it must not, and what it then says.

Values are one for each scrape, every fifteen seconds; promtool's clock begins at 0, so ages are counted from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """`bad`, `good`: series -> values, as promtool writes them. `labels`: what the alert has beside its severity."""

    alert: str
    bad: Mapping[str, str]
    good: Mapping[str, str]
    labels: Mapping[str, str]
    summary: str
    seconds: int = field(default=1800)
    """When it is looked at, from the first sample on."""


def steady(value: float | str) -> str:
    return f"{value}+0x8000"


def host(series: str, **labels: str) -> tuple[str, dict[str, str]]:
    every = {"host": "data1", **labels}
    text = ",".join(f'{name}="{value}"' for name, value in every.items())
    return f"{series}{{{text}}}", every


def one(
    alert: str, series: str, bad: float | str, good: float | str, summary: str, *, seconds: int = 1800, **labels: str
) -> Case:  # fmt: skip
    """A case of one series, whose labels the alert keeps."""
    text, every = host(series, **labels)

    def shown(value: float | str) -> str:
        return value if isinstance(value, str) else steady(value)

    return Case(alert, {text: shown(bad)}, {text: shown(good)}, every, summary, seconds)


UP = 'up{job="node",host="data1"}'
NODE, OF_NODE = host("up", job="node", instance="data1:9100")


def two(alert: str, part: str, whole: str, bad: float, good: float, summary: str, **labels: str) -> Case:
    """Part of a whole of 100."""
    (first, every), (second, _) = host(part, **labels), host(whole, **labels)
    return Case(
        alert, {first: steady(bad), second: steady(100)}, {first: steady(good), second: steady(100)}, every, summary
    )


def members(series: str, values: Mapping[str, float], **labels: str) -> dict[str, str]:
    return {host(series, **{"host": name, **labels})[0]: steady(value) for name, value in values.items()}


CASES: tuple[Case, ...] = (
    Case(
        "HostDown", {UP: steady(0), 'up{job="door",host="data1"}': steady(0)},
        {UP: steady(1), 'up{job="door",host="data1"}': steady(0)}, {"host": "data1"},
        "data1: nothing on it answers",
    ),
    # The blackbox exporter answers for a host that does not.
    Case(
        "HostDown", {UP: steady(0), 'up{job="blackbox",host="data1"}': steady(1)}, {UP: steady(1)}, {"host": "data1"},
        "data1: nothing on it answers",
    ),
    Case(
        "TargetDown", {NODE: steady(0), 'up{job="door",host="data1"}': steady(1)}, {NODE: steady(1)}, OF_NODE,
        "data1: node at data1:9100 gives no figures",
    ),
    one(
        "CheckFailed", "probe_success", 0, 1, "data1: Redis (cache) (data1:6379) is not well", job="blackbox",
        check="Redis (cache)", instance="data1:6379",
    ),
    one("PartUnwell", "omegaup_check_ok", 0, 1, "data1: grader cannot use mysql", job="grader", check="mysql"),
    one(
        "UnitFailed", "node_systemd_unit_state", 1, 0, "data1: nginx.service has failed", name="nginx.service",
        state="failed",
    ),
    one(
        "UnitRestarts", "node_systemd_unit_start_time_seconds", "1x50 2x5 3x5 4x5 5x5 6+0x8000",
        "1x50 0x5 2x5 0x5 3+0x8000",
        "data1: nginx.service was started 5 times in a quarter of an hour", name="nginx.service", seconds=1200,
    ),
    two(
        "DiskLow", "node_filesystem_avail_bytes", "node_filesystem_size_bytes", 14, 16, "data1: 14% of / is free",
        mountpoint="/", fstype="ext4",
    ),
    two(
        "DiskLow", "node_filesystem_avail_bytes", "node_filesystem_size_bytes", 14, 16, "data1: 14% of / is free",
        mountpoint="/", fstype="overlay",
    ),
    two(
        "DiskFull", "node_filesystem_avail_bytes", "node_filesystem_size_bytes", 4, 6, "data1: 4% of /var is free",
        mountpoint="/var", fstype="ext4",
    ),
    two(
        "MemoryLow", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes", 4, 6,
        "data1: 4% of the memory is available",
    ),
    one("ClockOff", "node_time_seconds", "-3+15x8000", "1+15x8000", "data1: its clock is 3 s off monitoring's"),
    one(
        "CertificateEndsSoon", "fleet_certificate_not_after_seconds", 10 * 86400 + 7200, 40 * 86400,
        "data1: the certificate of grader (disk) ends in 10 days", certificate="grader", where="disk", seconds=7200,
    ),
    one(
        "CertificateEnds", "fleet_certificate_not_after_seconds", 86400 + 7200, 3 * 86400,
        "data1: the certificate of grader (disk) ends in 1 days", certificate="grader", where="disk", seconds=7200,
    ),
    one(
        "CertificateEnds", "probe_ssl_earliest_cert_expiry", 86400 + 7200, 3 * 86400,
        "data1: the certificate of Grader (served) ends in 1 days", check="Grader", where="served", seconds=7200,
        job="blackbox",
    ),
    one(
        "RestartOwed", "fleet_restart_owed", 1, 0,
        "data1: redis-cache.service has not loaded its files yet: fleet roll",
        unit="redis-cache.service", seconds=13 * 3600,
    ),
    one("FilesDrifted", "fleet_files_drifted", 2, 0, "data1: 2 files were changed by hand"),
    one("ApplyFailed", "fleet_apply_ok", 0, 1, "data1: the last apply did not succeed (0)"),
    one("NotesOld", "fleet_notes_time_seconds", 0, "0+15x8000", "data1: its notes are 30m 0s old"),
    one(
        "BackupOld", "fleet_backup_time_seconds", 0, 3 * 3600, "data1: the last backup of mysql is 1d 4h 0m 0s old",
        backup="mysql", seconds=28 * 3600,
    ),
    Case(
        "LogsMissing", {'fleet_logs_time_seconds{host="mon1",sender="data1"}': steady(0)},
        {'fleet_logs_time_seconds{host="mon1",sender="data1"}': "0+15x8000"}, {"host": "data1", "sender": "data1"},
        "data1: the last of its lines came to the store of logs 1h 0m 0s ago", 3600,
    ),
    one(
        "CollectorFailed", "node_scrape_collector_success", 0, 1,
        "data1: the figures of systemd cannot be read (0)", collector="systemd",
    ),
    one(
        "CollectorFailed", "node_textfile_scrape_error", 1, 0,
        "data1: the figures of the project's notes cannot be read (1)",
    ),
    Case("Watchdog", {UP: steady(1)}, {}, {}, "Alerting works: this one always fires"),
    one(
        "PrometheusReloadFailed", "prometheus_config_last_reload_successful", 0, 1,
        "data1: Prometheus goes on with an older configuration (0)",
    ),
    one(
        "RulesFail", "prometheus_rule_evaluation_failures_total", "0+1x8000", 7,
        "data1: 20 evaluations of alerts failed", rule_group="alerts",
    ),
    one(
        "AlertmanagerReloadFailed", "alertmanager_config_last_reload_successful", 0, 1,
        "data1: Alertmanager goes on with an older configuration (0)",
    ),
    one(
        "AlertsNotSent", "prometheus_notifications_dropped_total", "0+1x8000", "0x112 1+0x8000",
        "data1: Prometheus could not hand over 8 alerts",
    ),
    one(
        "AlertsNotDelivered", "alertmanager_notifications_failed_total", "0+1x8000", 7,
        "data1: 40 notifications by webhook failed", integration="webhook",
    ),
    Case(
        "AlertmanagersApart", members("alertmanager_cluster_members", {"mon1": 1, "mon2": 2}),
        members("alertmanager_cluster_members", {"mon1": 2, "mon2": 2}), {"host": "mon1"},
        "mon1: it sees 1 of 2 Alertmanagers",
    ),
    Case(
        "RedisNoPrimary",
        members("redis_up", {"data1": 1, "data2": 1, "data3": 1}, job="redis", redis="cache")
        | members("redis_instance_info", {"data1": 1, "data2": 1, "data3": 1}, redis="cache", role="slave"),
        members("redis_up", {"data1": 1, "data2": 1, "data3": 1}, job="redis", redis="cache")
        | members("redis_instance_info", {"data1": 1}, redis="cache", role="master"),
        {"redis": "cache"}, "Redis cache: none of 3 members is the primary",
    ),
    # The primary's exporter is what is missing: nobody's page.
    Case(
        "RedisNoPrimary",
        members("redis_up", {"data2": 1, "data3": 1}, job="redis", redis="cache")
        | members("redis_master_link_up", {"data2": 0, "data3": 0}, redis="cache"),
        members("redis_up", {"data2": 1, "data3": 1}, job="redis", redis="cache")
        | members("redis_master_link_up", {"data2": 1, "data3": 0}, redis="cache"),
        {"redis": "cache"}, "Redis cache: none of 2 members is the primary",
    ),
    Case(
        "RedisTwoPrimaries", members("redis_instance_info", {"data1": 1, "data2": 1}, redis="cache", role="master"),
        members("redis_instance_info", {"data1": 1}, redis="cache", role="master")
        | members("redis_instance_info", {"data2": 1}, redis="sessions", role="master"),
        {"redis": "cache"}, "Redis cache: 2 members take themselves for the primary",
    ),
    one(
        "RedisDown", "redis_up", 0, 1, "data1: Redis cache does not answer its exporter (0)", job="redis",
        redis="cache",
    ),
    two(
        "RedisMemoryHigh", "redis_memory_used_bytes", "redis_memory_max_bytes", 90, 80,
        "data1: Redis sessions has used 90% of its memory, and never evicts", redis="sessions",
    ),
    two(
        "RedisMemoryFull", "redis_memory_used_bytes", "redis_memory_max_bytes", 97, 90,
        "data1: Redis sessions has used 97% of its memory: logins are about to be refused", redis="sessions",
    ),
    one(
        "RedisSessionsEvicted", "redis_evicted_keys_total", "0+1x8000", 7,
        "data1: Redis sessions evicted 40 keys: people were logged out", redis="sessions",
    ),
    # The cache is there to evict.
    Case(
        "RedisSessionsEvicted", {'redis_evicted_keys_total{host="data1",redis="sessions"}': "0+1x8000"},
        {'redis_evicted_keys_total{host="data1",redis="cache"}': "0+1x8000"}, {"host": "data1", "redis": "sessions"},
        "data1: Redis sessions evicted 40 keys: people were logged out",
    ),
    one(
        "RedisRejectsConnections", "redis_rejected_connections_total", "0+1x8000", 7,
        "data1: Redis cache refused 20 connections", redis="cache",
    ),
    one(
        "RedisNotSaved", "redis_rdb_last_bgsave_status", 0, 1, "data1: Redis cache cannot write to its disk (0)",
        redis="cache",
    ),
    one(
        "RedisNotSaved", "redis_aof_last_write_status", 0, 1, "data1: Redis cache cannot write to its disk (0)",
        redis="cache",
    ),
    Case(
        "RedisReplicasMissing",
        members("redis_connected_slaves", {"data1": 1, "data2": 0}, redis="cache")
        | members("redis_instance_info", {"data1": 1}, redis="cache", role="master"),
        members("redis_connected_slaves", {"data1": 2, "data2": 0}, redis="cache")
        | members("redis_instance_info", {"data1": 1}, redis="cache", role="master"),
        {"redis": "cache"}, "Redis cache: 1 of 2 replicas follow",
    ),
    # The primary's exporter is what is missing: replicas have none of their own, and say nothing about it.
    Case(
        "RedisReplicasMissing",
        members("redis_connected_slaves", {"data1": 0, "data2": 0}, redis="cache")
        | members("redis_instance_info", {"data1": 1}, redis="cache", role="master"),
        members("redis_connected_slaves", {"data1": 0, "data2": 0}, redis="cache")
        | members("redis_instance_info", {"data1": 1, "data2": 1}, redis="cache", role="slave"),
        {"redis": "cache"}, "Redis cache: 0 of 2 replicas follow",
    ),
    one(
        "RedisLinkDown", "redis_master_link_up", 0, 1, "data1: Redis cache is cut off from its primary 10.0.0.9 (0)",
        redis="cache", master_host="10.0.0.9",
    ),
    one(
        "RedisReplicaLags", "redis_connected_slave_lag_seconds", 12, 2,
        "data1: Redis cache: the replica 10.0.0.9 is 12 s behind", redis="cache", slave_ip="10.0.0.9",
    ),
    # Two of three sentinels are gone.
    Case(
        "SentinelNoQuorum", members("redis_up", {"data1": 1, "data2": 0}, job="sentinel"),
        members("redis_up", {"data1": 1, "data2": 1, "data3": 0}, job="sentinel"), {},
        "Sentinels cannot fail over : 1 (a majority is 2)",
    ),
    Case(
        "SentinelNoQuorum",
        members("redis_up", {"data1": 1, "data2": 1, "data3": 1}, job="sentinel")
        | members("redis_sentinel_master_ckquorum_status", {"data1": 0, "data2": 1}, master_name="cache"),
        members("redis_up", {"data1": 1, "data2": 1, "data3": 1}, job="sentinel")
        | members("redis_sentinel_master_ckquorum_status", {"data1": 1, "data2": 1}, master_name="cache"),
        {"master_name": "cache"}, "Sentinels cannot fail over cache: 0 (a majority is 2)",
    ),
    Case(
        "SentinelsMissing", members("redis_sentinel_master_sentinels", {"data1": 3, "data2": 2}, master_name="cache"),
        members("redis_sentinel_master_sentinels", {"data1": 3, "data2": 3}, master_name="cache"),
        {"master_name": "cache"}, "2 of 3 sentinels watch cache",
    ),
    Case(
        "SentinelsDisagree",
        members("redis_sentinel_master_status", {"data1": 1}, master_name="cache", master_address="10.0.0.1:6379")
        | members("redis_sentinel_master_status", {"data2": 1}, master_name="cache", master_address="10.0.0.2:6379"),
        members(
            "redis_sentinel_master_status", {"data1": 1, "data2": 1}, master_name="cache",
            master_address="10.0.0.1:6379",
        ),
        {"master_name": "cache"}, "Sentinels name 2 primaries of cache",
    ),
    Case(
        "RabbitmqNoMajority", members("rabbitmq_identity_info", {"data1": 1}, job="rabbitmq"),
        members("rabbitmq_identity_info", {"data1": 1, "data2": 1}, job="rabbitmq"), {},
        "RabbitMQ: 1 of 3 members run",
    ),
    Case(
        "RabbitmqMemberMissing", members("rabbitmq_identity_info", {"data1": 1, "data2": 1}, job="rabbitmq"),
        members("rabbitmq_identity_info", {"data1": 1, "data2": 1, "data3": 1}, job="rabbitmq"), {},
        "RabbitMQ: 2 of 3 members run",
    ),
    Case(
        "RabbitmqParted",
        members("rabbitmq_identity_info", {"data1": 1, "data2": 1, "data3": 1}, job="rabbitmq")
        | members("erlang_vm_dist_node_state", {"data1": 3}, peer="rabbit@data2")
        | members("erlang_vm_dist_node_state", {"data2": 3, "data3": 3}, peer="rabbit@x")
        | members("erlang_vm_dist_node_state", {"data2": 3, "data3": 3}, peer="rabbit@y"),
        members("rabbitmq_identity_info", {"data1": 1, "data2": 1, "data3": 1}, job="rabbitmq")
        | members("erlang_vm_dist_node_state", {"data1": 3, "data2": 3, "data3": 3}, peer="rabbit@x")
        | members("erlang_vm_dist_node_state", {"data1": 3, "data2": 3, "data3": 3}, peer="rabbit@y"),
        {"host": "data1"}, "data1: RabbitMQ is linked to 1 other members only",
    ),
    # To nobody; and the others are well with one another.
    Case(
        "RabbitmqParted",
        members("rabbitmq_identity_info", {"data1": 1, "data2": 1}, job="rabbitmq")
        | members("erlang_vm_dist_node_state", {"data2": 3}, peer="rabbit@x"),
        # One member is away, and is missed elsewhere.
        members("rabbitmq_identity_info", {"data1": 1, "data2": 1}, job="rabbitmq")
        | members("erlang_vm_dist_node_state", {"data1": 3, "data2": 3}, peer="rabbit@x"),
        {"host": "data1"}, "data1: RabbitMQ is linked to 0 other members only",
    ),
    one(
        "RabbitmqAlarm", "rabbitmq_alarms_memory_used_watermark", 1, 0,
        "data1: RabbitMQ blocks its publishers: no memory, disk or file left (1)",
    ),
    one(
        "RabbitmqAlarm", "rabbitmq_alarms_free_disk_space_watermark", 1, 0,
        "data1: RabbitMQ blocks its publishers: no memory, disk or file left (1)",
    ),
    Case(
        "QueueWithoutConsumers",
        members("rabbitmq_detailed_queue_consumers", {"data1": 0, "data2": 0}, queue="ContestQueue", vhost="/"),
        members("rabbitmq_detailed_queue_consumers", {"data1": 0, "data2": 1}, queue="ContestQueue", vhost="/")
        | members("rabbitmq_detailed_queue_consumers", {"data1": 0}, queue="ContestQueue.dead", vhost="/"),
        {"queue": "ContestQueue", "vhost": "/"}, "RabbitMQ: nobody takes from ContestQueue (0 consumers)",
    ),
    Case(
        "QueueGrows",
        members("rabbitmq_detailed_queue_messages_ready", {"data1": 300}, queue="ContestQueue", vhost="/"),
        members("rabbitmq_detailed_queue_messages_ready", {"data1": 100}, queue="ContestQueue", vhost="/"),
        {"queue": "ContestQueue", "vhost": "/"}, "RabbitMQ: 300 messages wait in ContestQueue",
    ),
    Case(
        "DeadLetters",
        {'rabbitmq_detailed_queue_messages{host="data1",queue="ContestQueue.dead",vhost="/"}': "0x80 5+0x8000"},
        {'rabbitmq_detailed_queue_messages{host="data1",queue="ContestQueue.dead",vhost="/"}': steady(5)},
        {"queue": "ContestQueue.dead", "vhost": "/"},
        "RabbitMQ: 5 messages went to ContestQueue.dead, by dead-letters",
    ),
    Case(
        "RabbitmqUnroutable",
        members("rabbitmq_global_messages_unroutable_returned_total", {"data1": 0})
        | {'rabbitmq_global_messages_unroutable_dropped_total{host="data1"}': "0+1x8000"},
        members("rabbitmq_global_messages_unroutable_returned_total", {"data1": 3})
        | members("rabbitmq_global_messages_unroutable_dropped_total", {"data1": 3}),
        {"host": "data1"}, "data1: RabbitMQ had no queue for 40 messages",
    ),
    two(
        "RabbitmqFilesHigh", "rabbitmq_process_open_fds", "rabbitmq_process_max_fds", 90, 80,
        "data1: RabbitMQ has 90% of its files open",
    ),
    Case(
        "MysqlNoPrimary", members("mysql_global_variables_read_only", {"data1": 1, "data2": 1}),
        members("mysql_global_variables_read_only", {"data1": 0, "data2": 1}), {},
        "The database: 0 members take writes",
    ),
    Case(
        "MysqlTwoPrimaries", members("mysql_global_variables_read_only", {"data1": 0, "data2": 0}),
        # A switchover between two scrapes.
        {
            'mysql_global_variables_read_only{host="data1"}': "0x116 1+0x8000",
            'mysql_global_variables_read_only{host="data2"}': "1x115 0+0x8000",
        },
        {}, "The database: 2 members take writes",
    ),
    one("MysqlDown", "mysql_up", 0, 1, "data1: the database does not answer its exporter (0)"),
    two(
        "MysqlConnectionsHigh", "mysql_global_status_threads_connected", "mysql_global_variables_max_connections", 85,
        75, "data1: 85% of the database's connections are in use",
    ),
    one(
        "MysqlReplicationStopped", "mysql_slave_status_slave_sql_running", 0, 1,
        "data1: the replica does not follow 10.0.0.9 (0)", master_host="10.0.0.9",
    ),
    one(
        "MysqlReplicationStopped", "mysql_slave_status_slave_io_running", 0, 1,
        "data1: the replica does not follow 10.0.0.9 (0)", master_host="10.0.0.9",
    ),
    one("MysqlReplicaLags", "mysql_slave_status_seconds_behind_master", 45, 5, "data1: the replica is 45 s behind"),
    Case(
        "MysqlReplicasMissing", members("mysql_slave_status_slave_io_running", {"data2": 1, "data3": 0}),
        members("mysql_slave_status_slave_io_running", {"data2": 1, "data3": 1}), {},
        "The database: 1 of 2 replicas follow",
    ),
    Case(
        "MysqlReplicasMissing", members("mysql_slave_status_slave_io_running", {"data2": 0, "data3": 0}),
        members("mysql_slave_status_slave_io_running", {"data2": 1, "data3": 1}), {},
        "The database: 0 of 2 replicas follow",
    ),
    Case(
        "MysqlSemiSyncOff",
        members("mysql_global_status_rpl_semi_sync_master_status", {"data1": 0, "data2": 0})
        | members("mysql_global_variables_read_only", {"data1": 0, "data2": 1})
        | members("mysql_global_variables_rpl_semi_sync_slave_enabled", {"data1": 1, "data2": 1}),
        # Switched off for good: no replica has it on.
        members("mysql_global_status_rpl_semi_sync_master_status", {"data1": 0, "data2": 0})
        | members("mysql_global_variables_read_only", {"data1": 0, "data2": 1})
        | members("mysql_global_variables_rpl_semi_sync_slave_enabled", {"data1": 0, "data2": 0}),
        {"host": "data1"}, "data1: commits wait for no replica (0): a failover would lose the last of them",
    ),
    Case(
        "SiteErrors",
        {
            'frontend_api_request_status_count{host="web1",api="/submit",status="202"}': "0+97x8000",
            'frontend_api_request_status_count{host="web1",api="/submit",status="503"}': "0+3x8000",
        },
        # The client's own errors are not the site's.
        {
            'frontend_api_request_status_count{host="web1",api="/submit",status="202"}': "0+50x8000",
            'frontend_api_request_status_count{host="web1",api="/submit",status="503"}': "0+0x8000",
            'frontend_api_request_status_count{host="web1",api="/submit",status="404"}': "0+50x8000",
        },
        {}, "The site: 3% of its answers are errors",
    ),
    Case(
        "SiteSlow",
        {
            'frontend_api_request_seconds_bucket{host="web1",api="/",le="2.5"}': "0+10x8000",
            'frontend_api_request_seconds_bucket{host="web1",api="/",le="5"}': "0+100x8000",
            'frontend_api_request_seconds_bucket{host="web1",api="/",le="+Inf"}': "0+100x8000",
        },
        {
            'frontend_api_request_seconds_bucket{host="web1",api="/",le="1"}': "0+100x8000",
            'frontend_api_request_seconds_bucket{host="web1",api="/",le="+Inf"}': "0+100x8000",
        },
        {}, "The site: 1 % of its answers take 4.972 s or more",
    ),
    one("NginxDown", "nginx_up", 0, 1, "data1: nginx does not answer its exporter (0)"),
    one("PhpQueue", "phpfpm_listen_queue", 4, 0, "data1: 4 requests wait for a PHP process"),
    one("PhpBusy", "phpfpm_max_children_reached", "0+1x8000", 7, "data1: all PHP processes were busy 40 times"),
    one(
        "ProxyNobodyServes", "haproxy_backend_active_servers", 0, 1, "data1: nobody serves redis-cache (0 servers)",
        proxy="redis-cache",
    ),
    two(
        "ProxyConnectionsHigh", "haproxy_process_current_connections", "haproxy_process_max_connections", 85, 75,
        "data1: HAProxy has 85% of its connections in use",
    ),
    one("ProxyQueue", "haproxy_backend_current_queue", 3, 0, "data1: 3 connections to mysql wait", proxy="mysql"),
    Case(
        "NoRunners", members("grader_runners_available", {"app1": 0}), members("grader_runners_available", {"app1": 1}),
        {}, "The grader: 0 runners: nothing is judged",
    ),
    Case(
        "GraderQueueLong", members("grader_queue_length", {"app1": 300}, queue="contest"),
        members("grader_queue_length", {"app1": 100}, queue="contest"), {"queue": "contest"},
        "The grader: 300 submissions wait in contest",
    ),
    one(
        "RunsTakenAway", "grader_leases_expired_total", "0+1x8000", 7,
        "data1: 60 runs were taken from runners that fell silent",
    ),
    one("EventsLost", "grader_events_lost_total", "0+1x8000", 7, "data1: 60 events never reached the broadcaster"),
    one("WorkerIdle", "worker_consuming", 0, 1, "data1: the worker of ContestQueue takes nothing (0)",
        queue="ContestQueue"),
    Case(
        "MessagesFail",
        {
            'worker_messages_total{host="app1",queue="ContestQueue",result="failed"}': "0+1x8000",
            'worker_messages_total{host="app1",queue="ContestQueue",result="done"}': "0+1x8000",
        },
        {
            'worker_messages_total{host="app1",queue="ContestQueue",result="failed"}': steady(3),
            'worker_messages_total{host="app1",queue="ContestQueue",result="done"}': "0+1x8000",
        },
        {"host": "app1", "queue": "ContestQueue"}, "app1: 60 messages of ContestQueue could not be handled",
    ),
)  # fmt: skip
