"""Monitoring as it runs: every target of the catalog, nothing else, and no door for anybody but monitoring."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from testinfra.host import Host

from deploy.model import rules, scrapes
from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles import door
from tests.fleet.conftest import connection, loaded, soon

API = f"http://127.0.0.1:{SERVICES['monitoring'].port('prometheus').number}/api/v1"
DOOR = SERVICES["door"].port("https").number
ROUTES = [(host, route) for host in loaded()[1].hosts for route in scrapes.routes(host)]


def api(host: Host, path: str) -> Any:
    said = json.loads(host.check_output(f"curl -sf -m 10 --noproxy '*' '{API}/{path}'"))
    assert said["status"] == "success"
    return said["data"]


def query(host: Host, expression: str) -> list[tuple[dict[str, str], float]]:
    found = api(host, f"query?query={quote(expression)}")["result"]
    return [(one["metric"], float(one["value"][1])) for one in found]


@pytest.mark.service("monitoring")
def test_every_target_is_up_and_there_is_no_other(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    targets = api(host, "targets?state=active")["activeTargets"]
    seen = sorted((one["labels"]["job"], one["labels"]["host"], one["labels"]["instance"]) for one in targets)
    assert seen == sorted(
        (job.name, target.host, target.labels["instance"]) for job in scrapes.jobs(fleet) for target in job.targets
    )
    assert [(one["scrapeUrl"], one["lastError"]) for one in targets if one["health"] != "up"] == []


@pytest.mark.service("monitoring")
def test_every_health_check_is_well_from_outside(host: Host, spec: HostSpec) -> None:
    found = query(host, "probe_success")
    assert found
    assert [(labels["check"], labels["host"]) for labels, value in found if value != 1] == []


@pytest.mark.service("monitoring")
def test_every_rule_runs_and_is_the_deployments(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    found = [rule for group in api(host, "rules")["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    assert sorted(rule["name"] for rule in found if rule["type"] == "alerting") == sorted(
        alert.name for alert in rules.alerts(fleet)
    )


@pytest.mark.service("monitoring")
@pytest.mark.parametrize(
    "series",
    [
        'grader_queue_length{queue="contest"}', "grader_submissions_total", "grader_runners_available",
        "redis_connected_clients", "redis_used_memory_bytes", 'rabbitmq_queue_messages{queue="ContestQueue"}',
    ],
)  # fmt: skip
def test_names_of_the_spec_have_figures(host: Host, spec: HostSpec, series: str) -> None:
    assert query(host, series), f"{series} has no series"


@pytest.mark.service("monitoring")
def test_what_rules_are_made_from_is_there(host: Host, spec: HostSpec) -> None:
    """These have a series at all times; others (the lag of a replica, say) come with what they are about."""
    for name in (
        "fleet_host_up", "fleet_certificate_days", "fleet_restart_owed", "fleet_files_drifted", "fleet_apply_ok",
        "fleet_notes_time_seconds", "node_filesystem_avail_bytes", "node_systemd_unit_state", "redis_up", "mysql_up",
        "rabbitmq_identity_info", "haproxy_backend_active_servers", "phpfpm_listen_queue", "nginx_up",
        "worker_consuming", "frontend_api_request_total", "probe_ssl_earliest_cert_expiry",
    ):  # fmt: skip
        assert query(host, f"count({name})"), f"{name} has no series"


@pytest.mark.service("monitoring")
def test_only_the_watchdog_fires(host: Host, spec: HostSpec) -> None:
    firing = [one for one in api(host, "alerts")["alerts"] if one["state"] == "firing"]
    assert {one["labels"]["alertname"] for one in firing} == {"Watchdog"}, firing


@pytest.mark.service("monitoring")
def test_alertmanagers_have_what_prometheus_says(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    active = [one["url"] for one in api(host, "alertmanagers")["activeAlertmanagers"]]
    hosts = sorted(member.name for member in fleet.members("alertmanager"))
    assert sorted(url.split("/")[2].split(":")[0] for url in active) == hosts
    port = SERVICES["alertmanager"].port("api").number

    def held() -> list[dict[str, str]]:
        said = json.loads(host.check_output(f"curl -sf -m 10 --noproxy '*' http://127.0.0.1:{port}/api/v2/alerts"))
        return [one["labels"] for one in said]

    # Prometheus says a thing again after a minute, should Alertmanager not have been there the first time.
    assert soon(lambda: "Watchdog" in {labels["alertname"] for labels in held()})
    assert all("replica" not in labels for labels in held())


@pytest.mark.service("monitoring")
def test_the_status_page_names_every_host(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    page = host.check_output(f"curl -sf -m 10 http://127.0.0.1:{SERVICES['alert-log'].port('http').number}/")
    for other in fleet.hosts:
        assert f"<span>{other.name}</span>" in page
    assert "All is well" in page


@pytest.mark.service("monitoring")
def test_the_status_page_is_shown_to_people_alone(host: Host, spec: HostSpec) -> None:
    """No certificate of a host opens it, on the host itself, where no firewall stands between."""
    url = f"https://{spec.name}:{SERVICES['alert-log'].port('https').number}/"
    assert _code(host, "", url) == "000"
    for service in spec.services:
        if service.identity and service.identity.client:
            assert _code(host, f"{SSL_DIR}/{service.name}", url) == "403", service.name


def _code(host: Host, pair: str, url: str, options: str = "") -> str:
    keys = f"--cert {pair}.crt --key {pair}.key" if pair else ""
    curl = "curl -s -m 10 -o /dev/null -w '%{http_code}'"
    return str(host.run(f"{curl} --cacert {SSL_DIR}/ca.crt {keys} {options} '{url}'").stdout)


@pytest.mark.parametrize(("place", "route"), ROUTES, ids=[f"{host.name}{route.path}" for host, route in ROUTES])
def test_a_door_opens_to_monitoring_alone(place: HostSpec, route: scrapes.Route, fleet: Fleet) -> None:
    """From the monitoring host, which the firewall lets through: the certificate decides."""
    host = connection(fleet.members("monitoring")[0].name)
    url = f"https://{place.name}:{DOOR}{route.path}"
    pair, redis = f"{SSL_DIR}/monitoring", place.local(SERVICES["redis"], "cache")
    asked = f"?target=redis://127.0.0.1:{redis}" if route.inner == "/scrape" else ""
    assert _code(host, pair, url + asked) == "200"
    assert _code(host, "", url) == "000"
    assert _code(host, pair, url, "-X DELETE") == "404"
    assert _code(host, pair, f"{url}x") == "404", "something is served beside what is listed"


def test_a_certificate_of_another_role_opens_no_door(fleet: Fleet) -> None:
    """At the own door of each host that has one: the firewall does not stand between."""
    for place in fleet.hosts:
        for service in place.services:
            if service.identity and service.identity.client and service.name != scrapes.MONITORING:
                url = f"https://{place.name}:{DOOR}/node-exporter/exporter/metrics"
                assert _code(connection(place.name), f"{SSL_DIR}/{service.name}", url) == "403", service.name


def test_alerts_are_handed_over_to_monitoring_hosts_alone(fleet: Fleet) -> None:
    host = connection(fleet.members("monitoring")[0].name)
    empty = "-X POST -H 'Content-Type: application/json' -d '[]'"
    for place in fleet.hosts:
        url = f"https://{place.name}:{DOOR}{door.ALERTS}/api/v2/alerts"
        code = _code(host, f"{SSL_DIR}/monitoring", url, empty)
        assert code == ("200" if place.has("alertmanager") else "404"), place.name


def test_no_secret_is_in_a_figure(host: Host, spec: HostSpec) -> None:
    """No password of the host's own files is in anything that its exporters say."""
    secrets = host.check_output(
        "{ cat /etc/fleet/*.auth /etc/fleet/*.curl /etc/default/prometheus-* 2>/dev/null || true; } "
        "| grep -oE '[A-Za-z0-9]{32}' | sort -u || true"
    ).split()
    redis = spec.local(SERVICES["redis"], "cache")
    for route in scrapes.routes(spec):
        asked = f"?target=redis://127.0.0.1:{redis}" if route.inner == "/scrape" else ""
        text = host.check_output(f"curl -s -m 10 --noproxy '*' 'http://127.0.0.1:{route.port}{route.inner}{asked}'")
        assert not [route.path for secret in secrets if secret in text]


def test_notes_are_written(host: Host, spec: HostSpec) -> None:
    text = host.file("/var/lib/prometheus/node-exporter/fleet.prom").content_string
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    # They are what a busy host does last.
    assert float(host.check_output("date +%s")) - values["fleet_notes_time_seconds"] < rules.NOTES_OLD
    assert values["fleet_files_drifted"] == 0
    for service in spec.services:
        if service.identity:
            assert values[f'fleet_certificate_not_after_seconds{{certificate="{service.name}"}}'] > 1.7e9
