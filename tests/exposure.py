"""How much a unit may do to its host, by `systemd-analyze security`: 0 nothing, 10 all. For the tests of units."""

from __future__ import annotations

OWN = {
    "redis-cache.service": 1.5,
    "redis-sessions.service": 1.5,
    "redis-sentinel.service": 1.5,
    # Root over the database's files, for as long as a copy takes.
    "fleet-mysql-seed.service": 3.3,
    # It opens the database that was the primary before its start, and still is.
    "fleet-mysql-watch.service": 2.7,
    # It ends and restarts the broker through systemd.
    "fleet-rabbitmq-watch.service": 2.7,
    "omegaup-mysql-agent.service": 1.5,
    "omegaup-gitserver.service": 1.5,
    "omegaup-broadcaster.service": 1.5,
    "omegaup-grader.service": 1.5,
    "omegaup-runner.service": 1.5,
    "omegaup-worker@.service": 1.5,
    "omegaup-sandbox@.service": 1.2,
    # It starts as root, to read its key.
    "fleet-door.service": 2.9,
    "fleet-alert-log.service": 1.5,
    "fleet-log-store.service": 1.5,
    "fleet-log-bound.service": 1.0,
    # It reads every file of the deployment.
    "fleet-notes.service": 1.9,
}
"""Bounds of the units that this project writes; a new one has to be named here."""

PACKAGED = {
    "rabbitmq-server.service": 2.5,
    "mariadb.service": 3.0,
    "nginx.service": 3.5,
    "php8.2-fpm.service": 4.0,
    "haproxy.service": 4.0,
    "prometheus.service": 2.0,
    "prometheus-alertmanager.service": 2.0,
    "prometheus-node-exporter.service": 2.5,
    "prometheus-mysqld-exporter.service": 2.5,
    "prometheus-redis-exporter.service": 2.5,
    "prometheus-nginx-exporter.service": 2.5,
    "prometheus-blackbox-exporter.service": 2.5,
    "systemd-journal-upload.service": 4.0,
}
"""The same for Debian's own units with our drop-ins; each has to be better than the package leaves it as well."""

NOT_CONFINED = {
    "ssh.service": "logins have to be able to do everything",
    "systemd-journald.service": "systemd's own, confined by it",
    "systemd-timesyncd.service": "systemd's own, confined by it",
    "grafana-server.service": "its operator's package, not Debian's; it confines itself",
}
"""Units with a drop-in of ours that takes nothing from them, and why."""
