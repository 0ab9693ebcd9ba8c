"""Dashboards: what is shown, of which figures, in which unit. Pure.

Grafana's files (`deploy.roles.grafana`) and the static pages on the monitoring host (`deploy.roles.alert_log`) are both
made from these. Each question has an answer on a fleet that is well and under load, where it has to be finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from deploy.model.fleet import Fleet
from deploy.model.rules import USERS

Unit = Literal["reqps", "s", "percentunit", "bytes", "Bps", "short", "d", "ops", "dtdurations"]
"""As Grafana calls them: requests or operations a second, seconds, a share of 1, bytes, bytes a second, a count, days,
a duration in words."""

SHARES = frozenset({"percentunit"})


@dataclass(frozen=True)
class Query:
    """`legend`: what a series is called, with `{{label}}` for its labels."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """`number`: the value now, in large; otherwise lines over time. `doc`: what it says, and when to worry."""

    title: str
    unit: Unit
    queries: tuple[Query, ...]
    doc: str
    number: bool = False


@dataclass(frozen=True)
class Dashboard:
    """`needs`: services without which it has nothing to show. `name`: part of its address, and for good."""

    name: str
    title: str
    doc: str
    panels: tuple[Panel, ...]
    needs: frozenset[str] = frozenset()


def _panel(title: str, unit: Unit, doc: str, *queries: tuple[str, str], number: bool = False) -> Panel:
    return Panel(title, unit, tuple(Query(expression, legend) for expression, legend in queries), doc, number)


def dashboards(fleet: Fleet) -> tuple[Dashboard, ...]:
    """Those of a fleet: without panels about services that it has not."""
    found = (_overview(fleet), _grader(), _cache(), _queue(), _failover(fleet), _certificates())
    return tuple(board for board in found if all(fleet.members(service) for service in board.needs))


def _share(part: str, whole: str) -> str:
    """A ratio that is absent, not NaN, where there is nothing to divide by."""
    return f"{part} / ({whole} > 0)"


def _overview(fleet: Fleet) -> Dashboard:
    def panels() -> Iterator[Panel]:
        yield _panel(
            "Hosts up",
            "short",
            "Hosts of which something answers; fewer than the inventory has is a page.",
            ("sum(fleet_host_up)", "up"),
            number=True,
        )
        yield _panel(
            "Checks well",
            "percentunit",
            "Health checks asked from outside that were answered well.",
            ("avg(probe_success)", "well"),
            number=True,
        )
        yield _panel(
            "Alerts",
            "short",
            "Alerts that fire now, beside the sign of life.",
            ('count(ALERTS{alertstate="firing",alertname!="Watchdog"}) or vector(0)', "firing"),
            number=True,
        )
        yield _panel(
            "Restarts owed",
            "short",
            "Units that run with older files than are on the disk: fleet roll.",
            ("sum(fleet_restart_owed)", "owed"),
            number=True,
        )
        if fleet.members("frontend"):
            yield _panel(
                "Requests",
                "reqps",
                "Requests of people to the site, by host.",
                ("frontend:requests:rate5m", "{{host}}"),
            )
            yield _panel(
                "Errors",
                "percentunit",
                "Share of the site's answers that are errors of ours; above 1 % is a page.",
                ("frontend:errors:ratio5m", "5xx"),
            )
            yield _panel(
                "Latency",
                "s",
                "Half, 95 and 99 of a hundred answers take less than this.",
                *(
                    (
                        f"histogram_quantile({share}, sum by (le) (rate(frontend_api_request_seconds_bucket"
                        f"{{{USERS}}}[5m])))",
                        f"p{round(share * 100)}",
                    )
                    for share in (0.5, 0.95, 0.99)
                ),
            )
            yield _panel(
                "PHP processes",
                "short",
                "At work, and requests that wait for one: any that wait are too many.",
                ("phpfpm_active_processes", "{{host}} at work"),
                ("phpfpm_listen_queue", "{{host}} waiting"),
            )
            yield _panel(
                "Connections to nginx",
                "short",
                "Open now, idle ones included.",
                ("nginx_connections_active", "{{host}}"),
            )
        yield _panel(
            "Requests to backends",
            "reqps",
            "By service: grader, gitserver, broadcaster, runner.",
            ("sum by (service) (rate(omegaup_http_requests_total[5m]))", "{{service}}"),
        )
        yield _panel(
            "Latency of backends",
            "s",
            "95 of a hundred answers take less; long polls are included.",
            (
                "histogram_quantile(0.95, sum by (service, le) (rate(omegaup_http_request_seconds_bucket[5m])))",
                "{{service}}",
            ),
        )
        yield _panel(
            "Time of checks",
            "s",
            "How long each health check took from the monitoring host.",
            ("max by (check) (probe_duration_seconds)", "{{check}}"),
        )
        yield _panel(
            "Processor",
            "percentunit",
            "Share of all cores of a host that is at work.",
            ('1 - avg by (host) (rate(node_cpu_seconds_total{mode="idle"}[5m]))', "{{host}}"),
        )
        yield _panel(
            "Memory",
            "percentunit",
            "Share of the memory that is taken; above 95 % is a warning.",
            ("1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes", "{{host}}"),
        )
        yield _panel(
            "Disk taken",
            "percentunit",
            "The fullest file system of each host; above 85 % is a warning.",
            ("max by (host) (1 - node_filesystem_avail_bytes / node_filesystem_size_bytes)", "{{host}}"),
        )
        yield _panel(
            "Disks at work",
            "percentunit",
            "Share of the time in which the busiest disk of a host had work.",
            ("max by (host) (rate(node_disk_io_time_seconds_total[5m]))", "{{host}}"),
        )
        yield _panel(
            "Network",
            "Bps",
            "Received and sent, without the loopback.",
            ('sum by (host) (rate(node_network_receive_bytes_total{device!="lo"}[5m]))', "{{host}} in"),
            ('sum by (host) (rate(node_network_transmit_bytes_total{device!="lo"}[5m]))', "{{host}} out"),
        )
        yield _panel(
            "Since the last apply",
            "dtdurations",
            "How long ago the deployment last looked after each host.",
            ("time() - fleet_apply_time_seconds", "{{host}}"),
        )
        yield _panel(
            "Age of logs",
            "s",
            "How long ago the last line of each host came to the store of logs.",
            ("fleet_logs_age_seconds", "{{host}}"),
        )

    return Dashboard("overview", "System Overview", "The site and its hosts, as people have them.", tuple(panels()))


def _grader() -> Dashboard:
    return Dashboard(
        "grader",
        "Grader",
        "What waits to be judged, and who judges.",
        (
            _panel(
                "Waiting", "short", "Submissions in all queues.", ("sum(grader_queue_length)", "waiting"), number=True
            ),
            _panel(
                "Runners",
                "short",
                "Runners heard of lately; none is a page.",
                ("sum(grader_runners_available)", "runners"),
                number=True,
            ),
            _panel(
                "Queues",
                "short",
                "Submissions that wait, by queue.",
                ("sum by (queue) (grader_queue_length)", "{{queue}}"),
            ),
            _panel("Submissions", "ops", "Taken, a second.", ("sum(rate(grader_submissions_total[5m]))", "taken")),
            _panel(
                "Verdicts",
                "ops",
                "Recorded, a second, by verdict.",
                ("sum by (verdict) (rate(grader_verdicts_total[5m]))", "{{verdict}}"),
            ),
            _panel(
                "Runners at work",
                "percentunit",
                "Runs in hand for each runner that is there: at 100 % more would help.",
                ("sum(grader_runs_leased) / clamp_min(sum(grader_runners_available), 1)", "of all"),
            ),
            _panel("Runs in hand", "short", "By runner.", ("runner_slots_busy", "{{host}}")),
            _panel("Runs judged", "ops", "By runner.", ("sum by (host) (rate(runner_runs_total[5m]))", "{{host}}")),
            _panel(
                "Lost on the way",
                "ops",
                "Runs taken from runners that fell silent, and events that nobody got.",
                ("sum(rate(grader_leases_expired_total[5m]))", "runs taken away"),
                ("sum(rate(grader_events_lost_total[5m]))", "events lost"),
            ),
            _panel("Broadcaster", "short", "Open streams of contestants.", ("sum(broadcaster_subscribers)", "streams")),
            _panel(
                "Events",
                "ops",
                "Passed on by the broadcaster.",
                ("sum(rate(broadcaster_messages_total[5m]))", "events"),
            ),
        ),
        frozenset({"grader", "runner", "broadcaster"}),
    )


def _cache() -> Dashboard:
    each = "{{host}} {{redis}}"
    return Dashboard(
        "cache",
        "Cache",
        "Redis: the cache, which evicts, and the sessions, which never do.",
        (
            _panel(
                "Hits",
                "percentunit",
                "Share of the reads that found something.",
                ('redis:hits:ratio5m{job="redis"}', each),
            ),
            _panel(
                "Memory",
                "percentunit",
                "Of what each may take. The cache is full by design; sessions above 85 % are not.",
                (_share("redis_memory_used_bytes", 'redis_memory_max_bytes{job="redis"}'), each),
            ),
            _panel(
                "Memory, bytes", "bytes", "Used by data and buffers.", ('redis_used_memory_bytes{job="redis"}', each)
            ),
            _panel(
                "Evictions",
                "ops",
                "Keys thrown out for lack of room: of the cache only, or people are logged out.",
                ('rate(redis_evicted_keys_total{job="redis"}[5m])', each),
            ),
            _panel(
                "Expiries",
                "ops",
                "Keys whose time was over.",
                ('rate(redis_expired_keys_total{job="redis"}[5m])', each),
            ),
            _panel("Commands", "ops", "A second.", ('rate(redis_commands_processed_total{job="redis"}[5m])', each)),
            _panel(
                "Time of a command",
                "s",
                "On average, in the server.",
                (
                    'sum by (host, redis) (rate(redis_commands_duration_seconds_total{job="redis"}[5m])) / '
                    '(sum by (host, redis) (rate(redis_commands_processed_total{job="redis"}[5m])) > 0)',
                    each,
                ),
            ),
            _panel("Clients", "short", "Connected.", ('redis_connected_clients{job="redis"}', each)),
            _panel("Keys", "short", "In all databases.", ('sum by (host, redis) (redis_db_keys{job="redis"})', each)),
        ),
        frozenset({"redis"}),
    )


def _queue() -> Dashboard:
    def flow(name: str) -> str:
        return f"sum(rate(rabbitmq_global_messages_{name}_total[5m]))"

    return Dashboard(
        "queue",
        "Queue",
        "RabbitMQ: what goes through, what waits, what was given up.",
        (
            _panel(
                "Messages",
                "ops",
                "All queues together, a second.",
                *((flow(name), name) for name in ("received", "confirmed", "delivered", "acknowledged", "redelivered")),
            ),
            _panel(
                "Consumer lag",
                "short",
                "Messages that wait for a consumer.",
                ('rabbitmq_queue_messages_ready{queue!=""}', "{{queue}}"),
            ),
            _panel(
                "Unacknowledged",
                "short",
                "In the hands of consumers.",
                ('rabbitmq_queue_messages_unacked{queue!=""}', "{{queue}}"),
            ),
            _panel(
                "Dead letters",
                "short",
                "Messages that were given up and wait for a person.",
                ('rabbitmq_queue_messages{queue=~".+[.]dead"}', "{{queue}}"),
            ),
            _panel(
                "Consumers",
                "short",
                "Of each queue; none, of one that has work, is a page.",
                ('rabbitmq_queue_consumers{queue!=""}', "{{queue}}"),
            ),
            _panel(
                "Handled",
                "ops",
                "What became of messages in the workers.",
                ("sum by (queue, result) (rate(worker_messages_total[5m]))", "{{queue}} {{result}}"),
            ),
            _panel(
                "Unroutable",
                "ops",
                "Messages for which there was no queue.",
                (f"{flow('unroutable_dropped')} + {flow('unroutable_returned')}", "unroutable"),
            ),
            _panel("Connections", "short", "Open, by member.", ("rabbitmq_connections", "{{host}}")),
            _panel(
                "Memory",
                "percentunit",
                "Of what blocks publishers.",
                (_share("rabbitmq_process_resident_memory_bytes", "rabbitmq_resident_memory_limit_bytes"), "{{host}}"),
            ),
            _panel("Disk", "bytes", "Free, by member.", ("rabbitmq_disk_space_available_bytes", "{{host}}")),
        ),
        frozenset({"rabbitmq", "worker"}),
    )


def _failover(fleet: Fleet) -> Dashboard:
    several = {service for service in ("redis", "rabbitmq", "mysql") if len(fleet.members(service)) > 1}

    def panels() -> Iterator[Panel]:
        if fleet.members("redis"):
            yield _panel(
                "Redis: primaries",
                "short",
                "One of each, always; a failover shows as a change of host.",
                ('redis_instance_info{role="master"}', "{{redis}} on {{host}}"),
            )
        if "redis" in several:
            yield _panel(
                "Redis: replicas that follow",
                "short",
                "As the primaries count them.",
                ("max by (redis) (redis_connected_slaves)", "{{redis}}"),
            )
            yield _panel(
                "Redis: links",
                "short",
                "1: the replica hears its primary.",
                ("min by (host, redis) (redis_master_link_up)", "{{host}} {{redis}}"),
            )
            yield _panel(
                "Redis: replicas behind",
                "s",
                "Since a replica last said how far it is.",
                ("max by (redis, slave_ip) (redis_connected_slave_lag_seconds)", "{{redis}} {{slave_ip}}"),
            )
        if fleet.members("sentinel"):
            yield _panel(
                "Sentinels",
                "short",
                "Sentinels that watch each primary.",
                ("min by (master_name) (redis_sentinel_master_sentinels)", "{{master_name}}"),
            )
        if fleet.members("mysql"):
            yield _panel(
                "Database: takes writes",
                "short",
                "1 on one host, 0 on the others.",
                ("mysql_global_variables_read_only == bool 0", "{{host}}"),
            )
            yield _panel(
                "Database: connections",
                "percentunit",
                "Of those it allows.",
                ("mysql_global_status_threads_connected / mysql_global_variables_max_connections", "{{host}}"),
            )
            yield _panel(
                "Database: questions",
                "ops",
                "A second, and those that were slow.",
                ("rate(mysql_global_status_queries[5m])", "{{host}}"),
                ("rate(mysql_global_status_slow_queries[5m])", "{{host}} slow"),
            )
        if "mysql" in several:
            yield _panel(
                "Database: replicas behind",
                "s",
                "Seconds; not shown of a replica that does not run.",
                ("mysql_slave_status_seconds_behind_master", "{{host}}"),
            )
            yield _panel(
                "Database: replication runs",
                "short",
                "1: it reads from its primary, and applies.",
                ("mysql_slave_status_slave_io_running * mysql_slave_status_slave_sql_running", "{{host}}"),
            )
            yield _panel(
                "Database: who acknowledges",
                "short",
                "Replicas that commits wait for; none on the primary is a page.",
                ("mysql_global_status_rpl_semi_sync_master_clients", "{{host}}"),
            )
        if fleet.members("rabbitmq"):
            yield _panel(
                "RabbitMQ: members", "short", "That run.", ('count(rabbitmq_identity_info{job="rabbitmq"})', "run")
            )
        if fleet.members("proxy"):
            yield _panel(
                "Proxies: who serves",
                "short",
                "The fewest servers that any client host sees for a service.",
                ("min by (proxy) (haproxy_backend_active_servers)", "{{proxy}}"),
            )
            yield _panel(
                "Proxies: errors",
                "ops",
                "Connections to servers that failed.",
                ("sum by (proxy) (rate(haproxy_backend_connection_errors_total[5m]))", "{{proxy}}"),
            )
            yield _panel(
                "Proxies: sessions",
                "short",
                "Open, by service.",
                ("sum by (proxy) (haproxy_backend_current_sessions)", "{{proxy}}"),
            )

    return Dashboard("failover", "Replication & Failover", "Who leads, who follows and how closely.", tuple(panels()))


def _certificates() -> Dashboard:
    return Dashboard(
        "certificates", "Certificates", "Days that are left, of what lies on the disks and of what is served.",
        (
            _panel("The first to end", "d", "Days left; under two is a page.", ("min(fleet_certificate_days)", "days"),
                   number=True),
            _panel("Certificates", "short", "That are watched.", ("count(fleet_certificate_days)", "certificates"),
                   number=True),
            _panel("On the disk", "d", "The first to end on each host.",
                   ('min by (host) (fleet_certificate_days{where="disk"})', "{{host}}")),
            _panel("Served", "d", "As the monitoring host is served, by service.",
                   ('min by (service) (fleet_certificate_days{where="served"})', "{{service}}")),
            _panel("By certificate", "d", "The first to end of each name.",
                   ('min by (certificate) (fleet_certificate_days{where="disk"})', "{{certificate}}")),
        ),
    )  # fmt: skip
