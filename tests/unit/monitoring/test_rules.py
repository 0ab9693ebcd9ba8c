"""Every rule through promtool, and every route through amtool: what fires, what does not, who is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.converge import desired
from deploy.converge.inventory import folder, load
from deploy.model import rules
from deploy.model.catalog import CATALOG, Check, Tls
from deploy.model.scrapes import PROBED, jobs
from deploy.roles import alertmanager, monitoring
from tests.unit.monitoring.cases import CASES, Case, steady
from tests.unit.monitoring.fleets import FLEET, GROUPS, files, pair

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/alerts.md").read_text()

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here")

ALERTS = rules.alerts(FLEET)
NAMES = sorted({alert.name for alert in ALERTS})


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def expected(case: Case) -> dict[str, Any]:
    alert = next(one for one in ALERTS if one.name == case.alert)
    labels = {"severity": alert.severity, **case.labels}
    if alert.host_explains:
        labels["host_explains"] = "yes"
    return {"exp_labels": labels, "exp_annotations": {"summary": case.summary, "runbook": alert.runbook}}


Question = tuple[str, int, dict[str, str], list[dict[str, Any]]]
"""Alert, seconds after the first sample, figures, what then fires."""


def rule_tests(cases: list[Question]) -> dict[str, Any]:
    return {
        "rule_files": ["rules.yml"],
        # As in the file; else an alert may be asked before what it is made of is there.
        "group_eval_order": ["fleet", "names", "alerts"],
        # The states of hours are of no interest at each quarter of a minute.
        "evaluation_interval": "15s" if cases[0][1] <= 7200 else "5m",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": series, "values": values} for series, values in figures.items()],
                "alert_rule_test": [{"eval_time": f"{seconds}s", "alertname": name, "exp_alerts": wanted}],
            }
            for name, seconds, figures, wanted in cases
        ],
    }


def rendered_rules(name: str) -> str:
    """This alert with the names it is made from: all of them, for each of the cases, would take minutes."""
    chosen = [alert for alert in ALERTS if alert.name == name]
    asked = " ".join(alert.expression for alert in chosen)
    records = [record for record in rules.records(FLEET) if record.name in asked]
    return desired.render("monitoring/fleet.rules.yml.j2", build="", records=records, alerts=chosen)


def proved(folder: Path, cases: list[Question]) -> None:
    (folder / "rules.yml").write_text(rendered_rules(cases[0][0]))
    (folder / "test.yml").write_text(json.dumps(rule_tests(cases)))
    run("promtool", "test", "rules", "test.yml", cwd=folder)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.alert}-{number}" for number, case in enumerate(CASES)])
def test_an_alert_fires_and_does_not_fire(tmp_path: Path, case: Case) -> None:
    cases = [(case.alert, case.seconds, dict(case.bad), [expected(case)])]
    if case.good:
        cases.append((case.alert, case.seconds, dict(case.good), []))
    proved(tmp_path, cases)


def test_a_host_that_answers_again_is_down_until_all_of_it_may_be_up(tmp_path: Path) -> None:
    """What its death brought is held back by it, and is over by then."""
    case = next(case for case in CASES if case.alert == "HostDown")
    # Down for ten minutes of four scrapes each, then up.
    back = {series: f"0x40 {values}" for series, values in (case.good or {}).items()}
    still, over = 600 + rules.BOOTS - 60, 600 + rules.BOOTS + 120
    proved(tmp_path, [("HostDown", still, back, [expected(case)]), ("HostDown", over, back, [])])


@pytest.mark.parametrize("missing", [job.name for job in jobs(FLEET)])
def test_targets_that_are_missed(tmp_path: Path, missing: str) -> None:
    """One less of a job than the catalog has; and none of it at all."""
    everything = {
        f'up{{job="{job.name}",host="{target.host}",n="{number}"}}': steady(1)
        for job in jobs(FLEET) for number, target in enumerate(job.targets)
    }  # fmt: skip
    of_it = [series for series in everything if f'job="{missing}"' in series]
    cases: list[Question] = [("TargetsMissing", 600, everything, [])]
    for gone in {1, len(of_it)}:
        left = {series: values for series, values in everything.items() if series not in of_it[:gone]}
        summary = f"{missing}: {len(of_it) - gone} of {len(of_it)} targets are known"
        wanted = {
            "exp_labels": {"severity": "warning", "job": missing},
            "exp_annotations": {"summary": summary, "runbook": "docs/alerts.md#targetsmissing"},
        }
        cases.append(("TargetsMissing", 600, left, [wanted]))
    proved(tmp_path, cases)


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} | {"TargetsMissing"} == set(NAMES)


def test_every_alert_has_a_section_in_the_runbook_and_no_section_is_left_over() -> None:
    sections = re.findall(r"^### (\w+)$", PAGE, flags=re.M)
    assert sorted(sections) == NAMES
    for name in NAMES:
        text = PAGE.split(f"### {name}\n")[1].split("\n##")[0].strip()
        assert len(text.split()) >= 15, f"{name}: what it means, where to look, what to do"


def test_every_alert_says_where_and_how_much() -> None:
    for alert in ALERTS:
        if alert.name != "Watchdog":
            asked = alert.expression.removesuffix(rules.OF_A_LIVE_HOST)
            assert "$value" in alert.summary or asked.endswith("== 0") or "== 1" in asked, alert
            by_host = re.search(r"\$labels\.host", alert.summary)
            names_cluster = re.search(r"Redis|RabbitMQ|database|site|grader|entinels|job", alert.summary)
            assert by_host or names_cluster or alert.name == "TargetsMissing", alert
        assert alert.severity in {"page", "warning", "none"}
        assert alert.seconds >= 0


def test_names_of_the_spec(tmp_path: Path) -> None:
    """From what exporters and the real judge call them."""
    series = {
        'redis_memory_used_bytes{host="data1",redis="cache"}': "104857600x10",
        'rabbitmq_detailed_queue_messages{host="data1",queue="ContestQueue",vhost="/"}': "10x10",
        'quark_grader_queue_total_length{host="app1"}': "5x10",
        'quark_grader_runs_total{host="app1"}': "150000x10",
        'quark_grader_runner_up{host="app1",runner_hostname="a",runner_public_ip="1"}': "1x10",
        'quark_grader_runner_up{host="app1",runner_hostname="b",runner_public_ip="2"}': "1x10",
        'quark_grader_runner_up{host="app1",runner_hostname="c",runner_public_ip="3"}': "0x10",
    }
    wanted = {
        "redis_used_memory_bytes": ('redis_used_memory_bytes{host="data1",redis="cache"}', 104857600),
        "rabbitmq_queue_messages": ('rabbitmq_queue_messages{queue="ContestQueue",vhost="/"}', 10),
        "grader_queue_length": ('grader_queue_length{host="app1",queue="total"}', 5),
        "grader_submissions_total": ('grader_submissions_total{host="app1"}', 150000),
        "grader_runners_available": ('grader_runners_available{host="app1"}', 2),
    }
    (tmp_path / "rules.yml").write_text(files(FLEET, "mon1")[monitoring.RULES])
    test = rule_tests([("Watchdog", 60, series, [])])
    test["tests"][0]["alert_rule_test"] = []
    test["tests"][0]["promql_expr_test"] = [
        {"expr": name, "eval_time": "60s", "exp_samples": [{"labels": labels, "value": value}]}
        for name, (labels, value) in wanted.items()
    ]
    (tmp_path / "test.yml").write_text(json.dumps(test))
    run("promtool", "test", "rules", "test.yml", cwd=tmp_path)


@pytest.mark.parametrize("name", ["lab", "single", "production", "pair"])
def test_prometheus_and_alertmanager_take_what_is_rendered(tmp_path: Path, name: str) -> None:
    fleet = FLEET if name == "pair" else load(folder(name))[1]
    for host in fleet.members("monitoring"):
        rendered = files(fleet, host.name)
        for path in (monitoring.CONFIG, monitoring.RULES, alertmanager.CONFIG):
            (tmp_path / Path(path).name).write_text(rendered[path].replace("/etc/prometheus/", f"{tmp_path}/"))
        run("promtool", "check", "rules", str(tmp_path / "fleet.rules.yml"))
        # That the certificates are there is for the host to see.
        run("promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))
        run("amtool", "check-config", str(tmp_path / "fleet.alertmanager.yml"))


SET = {
    "webhook": "https://pager.example.org/x", "deadman": "https://watch.example.org/y",
    "mail": {
        "to": ["ana@example.org"], "sender": "judge@example.org", "relay": "mail.example.org:587", "user": "judge",
    },
}  # fmt: skip


TOLD = pair(**SET)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, SET], ids=["as it comes", "with receivers"])
def test_each_alert_reaches_whom_it_concerns(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    path = tmp_path / "am.yml"
    path.write_text(files(TOLD if settings else FLEET, "mon1")[alertmanager.CONFIG])
    alert = next(one for one in ALERTS if one.name == name)
    told = run(
        "amtool", "config", "routes", "test", f"--config.file={path}", f"alertname={name}", f"severity={alert.severity}"
    ).strip()
    if name == "Watchdog":
        assert told == (alertmanager.DEADMAN if settings else "nobody")
    else:
        assert told == {"page": alertmanager.PEOPLE, "warning": alertmanager.EVERYBODY}[alert.severity]


def test_receivers_have_no_secret_in_the_configuration(tmp_path: Path) -> None:
    rendered = files(TOLD, "mon1")
    (tmp_path / "am.yml").write_text(rendered[alertmanager.CONFIG])
    run("amtool", "check-config", str(tmp_path / "am.yml"))
    assert "secret of" not in rendered[alertmanager.CONFIG]
    assert rendered[alertmanager.TOKEN_FILE] == "secret of monitoring/webhook"
    for path in (monitoring.CONFIG, monitoring.RULES, "/etc/haproxy/door.cfg"):
        assert "secret of" not in rendered[path]


def test_a_pair_differs_in_its_label_alone() -> None:
    first, second = (files(FLEET, name)[monitoring.CONFIG] for name in ("mon1", "mon2"))
    assert first != second
    assert first.replace('replica: "mon1"', "") == second.replace('replica: "mon2"', "")
    rendered = files(FLEET, "mon1")[alertmanager.DEFAULTS]
    assert f"--cluster.peer={FLEET.host('mon2').address}:9094" in rendered


def test_a_dead_host_is_one_page() -> None:
    """What a host that is down brings with it is held back: by its name, or by the mark of what a cluster misses."""
    held = {alert.name for alert in ALERTS if alert.host_explains}
    assert {"RedisReplicasMissing", "RabbitmqMemberMissing", "MysqlReplicasMissing", "SentinelsMissing"} <= held
    assert all(alert.severity == "warning" for alert in ALERTS if alert.host_explains)
    down = next(alert for alert in ALERTS if alert.name == "HostDown")
    for alert in ALERTS:
        if alert.host_explains or alert.name in {"TargetDown", "CheckFailed"}:
            assert down.seconds < alert.seconds, f"{alert.name} would be told before HostDown is"
        # A scrape that has begun, its time-out, and the evaluation after it.
        assert not alert.host_explains or down.seconds + 45 < alert.seconds, f"{alert.name} would be told before it"


@pytest.mark.parametrize(
    ("name", "series"), [("TargetDown", 'up{job="redis",host="data1"}'), ("CheckFailed", 'probe_success{host="data1"}')]
)
def test_what_a_dead_host_does_not_answer_is_not_told_of_it(tmp_path: Path, name: str, series: str) -> None:
    """Though the last of its targets was found silent half a minute after the first."""
    dead = {'up{job="node",host="data1"}': "1x2 " + steady(0), series: steady(0)}
    alive = {**dead, 'up{job="node",host="data1"}': steady(1)}
    asked: list[Question] = [(name, seconds, dead, []) for seconds in (60, 75, 90, 105, 120, 1800)]
    proved(tmp_path, asked)
    with pytest.raises(AssertionError, match=f'alertname="{name}"'):
        proved(tmp_path, [(name, 1800, alive, [])])


# -- targets and the catalog, both ways ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lab", "single", "production"])
def test_every_figure_of_the_catalog_has_its_targets_and_no_target_is_anything_else(name: str) -> None:
    fleet = load(folder(name))[1]
    seen = {job.name: sorted(target.host for target in job.targets) for job in jobs(fleet)}
    probes = seen.pop("blackbox")
    wanted: dict[str, list[str]] = {}
    for service in fleet.services():
        for metrics in service.metrics:
            wanted.setdefault(metrics.job, []).extend(host.name for host in fleet.members(service.name))
    assert seen == {job: sorted(hosts) for job, hosts in wanted.items()}
    # From outside: each check that is not the host's own business, and each certificate that monitoring is served.
    asked = [
        host.name
        for service in fleet.services() for host in fleet.members(service.name)
        for port in service.ports
        if not port.loopback and (
            sum(health.port == port.name and health.check in PROBED for health in service.health)
            or (port.tls is Tls.MUTUAL and "monitoring" in port.clients)
        )
    ]  # fmt: skip
    assert probes == sorted(asked)


def test_every_health_check_of_the_spec_is_asked_from_outside_or_by_an_exporter() -> None:
    asked = {target.labels["check"] for target in next(job for job in jobs(FLEET) if job.name == "blackbox").targets}
    for service in CATALOG:
        for health in service.health:
            if health.check in {Check.SENTINEL, Check.PROXY} or service.port(health.port).loopback:
                assert service.metrics, f"{service.name}: nobody would see that it is unwell"
            else:
                assert health.label in asked


def test_monitoring_may_reach_each_of_its_targets_and_nobody_else_a_door() -> None:
    for job in jobs(FLEET):
        for target in job.targets:
            if job.name == "blackbox":
                continue
            number = int(target.address.rpartition(":")[2])
            host = FLEET.host(target.host)
            service, port = next((s, p) for s in host.services for p in s.ports if p.number == number)
            sources = FLEET.sources(service, port, host)
            assert sources is not None
            watchers = {one.address for one in FLEET.members("monitoring") if one is not host}
            assert watchers <= set(sources)
            if service.name == "door":
                assert watchers == set(sources)


def test_exporters_listen_on_the_loopback_alone() -> None:
    for service in CATALOG:
        if service.name.endswith("-exporter") or service.name in {"blackbox", "alert-log"}:
            assert all(port.loopback or port.tls is Tls.MUTUAL for port in service.ports)
    for name in GROUPS:
        for path, content in files(FLEET, name).items():
            if path.startswith("/etc/default/prometheus"):
                for address in re.findall(r"listen-address=(\S+?):\d+", content):
                    host = FLEET.host(name).address
                    assert address == "127.0.0.1" or (address == host and "gossip" in content), (path, address)
