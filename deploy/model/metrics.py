"""Names of metrics that rules and dashboards may use, by who gives them. Pure.

Each was seen in the output, the program or the source of what gives it, in the version that the fleet runs. A name that
is not here is a name that nobody gives; one that is here and that nobody uses does not belong here (a test says so).
"""

from __future__ import annotations

from typing import Final

MADE: Final = ("up", "ALERTS")
"""Prometheus makes these itself."""

KNOWN: Final[dict[str, tuple[str, ...]]] = {
    "node": (
        "node_cpu_seconds_total", "node_disk_io_time_seconds_total", "node_filesystem_avail_bytes",
        "node_filesystem_size_bytes", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes",
        "node_network_receive_bytes_total", "node_network_transmit_bytes_total", "node_scrape_collector_success",
        "node_systemd_unit_start_time_seconds", "node_systemd_unit_state", "node_textfile_scrape_error",
        "node_time_seconds",
        # The project's own notes, in node_exporter's textfile directory (templates/node-exporter/notes.sh.j2).
        "fleet_apply_ok", "fleet_apply_time_seconds", "fleet_backup_time_seconds",
        "fleet_certificate_not_after_seconds", "fleet_files_drifted", "fleet_logs_time_seconds",
        "fleet_notes_time_seconds", "fleet_restart_owed",
    ),
    "blackbox": ("probe_duration_seconds", "probe_ssl_earliest_cert_expiry", "probe_success"),
    "prometheus": (
        "prometheus_config_last_reload_successful", "prometheus_notifications_dropped_total",
        "prometheus_rule_evaluation_failures_total",
    ),
    "alertmanager": (
        "alertmanager_cluster_members", "alertmanager_config_last_reload_successful",
        "alertmanager_notifications_failed_total",
    ),
    "redis": (
        "redis_aof_last_bgrewrite_status", "redis_aof_last_write_status", "redis_commands_duration_seconds_total",
        "redis_commands_processed_total", "redis_connected_clients", "redis_connected_slave_lag_seconds",
        "redis_connected_slaves", "redis_db_keys", "redis_evicted_keys_total", "redis_expired_keys_total",
        "redis_instance_info", "redis_keyspace_hits_total", "redis_keyspace_misses_total", "redis_master_link_up",
        "redis_memory_max_bytes", "redis_memory_used_bytes", "redis_rdb_last_bgsave_status",
        "redis_rejected_connections_total", "redis_up",
    ),
    "sentinel": (
        "redis_sentinel_master_ckquorum_status", "redis_sentinel_master_sentinels", "redis_sentinel_master_status",
    ),
    "rabbitmq": (
        "erlang_vm_dist_node_state", "rabbitmq_alarms_file_descriptor_limit",
        "rabbitmq_alarms_free_disk_space_watermark", "rabbitmq_alarms_memory_used_watermark", "rabbitmq_connections",
        "rabbitmq_disk_space_available_bytes", "rabbitmq_global_messages_acknowledged_total",
        "rabbitmq_global_messages_confirmed_total", "rabbitmq_global_messages_delivered_total",
        "rabbitmq_global_messages_received_total", "rabbitmq_global_messages_redelivered_total",
        "rabbitmq_global_messages_unroutable_dropped_total", "rabbitmq_global_messages_unroutable_returned_total",
        "rabbitmq_identity_info", "rabbitmq_process_max_fds", "rabbitmq_process_open_fds",
        "rabbitmq_process_resident_memory_bytes", "rabbitmq_resident_memory_limit_bytes",
    ),
    "rabbitmq-queues": (
        "rabbitmq_detailed_queue_consumers", "rabbitmq_detailed_queue_messages",
        "rabbitmq_detailed_queue_messages_ready", "rabbitmq_detailed_queue_messages_unacked",
    ),
    "mysql": (
        "mysql_global_status_queries", "mysql_global_status_rpl_semi_sync_master_clients",
        "mysql_global_status_rpl_semi_sync_master_status", "mysql_global_status_slow_queries",
        "mysql_global_status_threads_connected", "mysql_global_variables_max_connections",
        "mysql_global_variables_read_only", "mysql_global_variables_rpl_semi_sync_slave_enabled",
        "mysql_slave_status_seconds_behind_master", "mysql_slave_status_slave_io_running",
        "mysql_slave_status_slave_sql_running", "mysql_up",
    ),
    "haproxy": (
        "haproxy_backend_active_servers", "haproxy_backend_connection_errors_total", "haproxy_backend_current_queue",
        "haproxy_backend_current_sessions", "haproxy_process_current_connections", "haproxy_process_max_connections",
    ),
    "frontend": (
        "frontend_api_request_seconds_bucket", "frontend_api_request_status_count", "frontend_api_request_total",
    ),
    "php-fpm": ("phpfpm_active_processes", "phpfpm_listen_queue", "phpfpm_max_children_reached"),
    "nginx": ("nginx_connections_active", "nginx_up"),
    "grader": (
        "grader_events_lost_total", "grader_leases_expired_total", "grader_queue_length", "grader_runners_available",
        "grader_runs_leased", "grader_submissions_total", "grader_verdicts_total",
        # Of every backend of the reference profile.
        "omegaup_check_ok", "omegaup_http_request_seconds_bucket", "omegaup_http_requests_total",
    ),
    "broadcaster": ("broadcaster_messages_total", "broadcaster_subscribers"),
    "runner": ("runner_runs_total", "runner_slots_busy"),
    "worker": ("worker_consuming", "worker_messages_total"),
}  # fmt: skip
"""Job of the catalog -> names."""

UPSTREAM: Final = ("quark_grader_queue_total_length", "quark_grader_runner_up", "quark_grader_runs_total")
"""The real judge's, which the reference profile does not give."""

RARE: Final = frozenset({"fleet_backup_time_seconds", "omegaup_check_ok"})
"""Come with what they are about: the first backup, a backend that has parts to ask."""
