"""Dashboards and rules ask for what exists, in a form that Prometheus and Grafana read; nothing else is declared."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.converge import desired
from deploy.converge.inventory import folder, load
from deploy.errors import FleetErrors
from deploy.model import checks, rules
from deploy.model.catalog import CATALOG
from deploy.model.dashboards import Dashboard, Panel, dashboards
from deploy.model.fleet import Fleet
from deploy.model.metrics import KNOWN, MADE, RARE, UPSTREAM
from deploy.model.resources import File
from deploy.roles import grafana
from tests.unit.monitoring.fleets import FLEET, GROUPS, context, files, fleet
from tests.unit.monitoring.promql import jobs, metrics

BOARDS = dashboards(FLEET)
PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
IDS = [f"{board.name}-{panel.title}" for board, panel in PANELS]
WITH_GRAFANA = fleet({**GROUPS, "mon1": GROUPS["mon1"] | {"grafana"}})

sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="make venv: requirements.txt has changed")


def expressions() -> set[str]:
    return (
        {query.expression for _, panel in PANELS for query in panel.queries}
        | {alert.expression for alert in rules.alerts(FLEET)}
        | {record.expression for record in rules.records(FLEET)}
    )


def test_the_reader_of_expressions() -> None:
    assert metrics('sum by (host, le) (rate(a_total{x="b_total"}[5m])) / on (host) group_left (y) (c:d > bool 0)') == {
        "a_total", "c:d",
    }  # fmt: skip
    assert metrics("vector(1) or absent(a == 1) - 1e3 unless on () b offset 5m") == {"a", "b"}
    assert jobs("""up{job='x'} + up{job="y",job!="z"}""") == {"x", "y"}


def test_every_name_that_is_asked_for_is_given_by_somebody() -> None:
    given = {*MADE, *UPSTREAM, *(name for names in KNOWN.values() for name in names)}
    given |= {record.name for record in rules.records(FLEET)}
    asked = {name for expression in expressions() for name in metrics(expression)}
    assert asked - given == set()


def test_every_name_that_is_declared_is_asked_for() -> None:
    asked = {name for expression in expressions() for name in metrics(expression)}
    assert {*UPSTREAM, *(name for names in KNOWN.values() for name in names)} - asked == set()
    assert {*KNOWN} - {"blackbox"} <= {one.job for service in CATALOG for one in service.metrics}
    assert {name for names in KNOWN.values() for name in names} >= RARE


def test_every_record_is_asked_for_or_is_a_name_of_the_specs() -> None:
    asked = {name for expression in expressions() for name in metrics(expression)}
    spec = {"redis_used_memory_bytes", "rabbitmq_queue_messages"}
    assert {record.name for record in rules.records(FLEET)} - asked - spec == set()


def test_jobs_that_are_named_are_the_catalogs() -> None:
    known = {one.job for service in CATALOG for one in service.metrics} | {"blackbox"}
    assert {job for expression in expressions() for job in jobs(expression)} <= known


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here")
@pytest.mark.parametrize("name", ["lab", "single", "production"])
def test_prometheus_reads_every_question(tmp_path: Path, name: str) -> None:
    asked = [query for board in dashboards(load(folder(name))[1]) for panel in board.panels for query in panel.queries]
    listed = [{"record": f"panel:{number}", "expr": query.expression} for number, query in enumerate(asked)]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": listed}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "panels.yml")], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout


def test_the_dashboards_of_the_issue() -> None:
    assert [board.title for board in BOARDS] == [
        "System Overview", "Grader", "Cache", "Queue", "Replication & Failover", "Certificates",
    ]  # fmt: skip


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=IDS)
def test_a_panel_says_what_it_shows(board: Dashboard, panel: Panel) -> None:
    assert panel.doc.endswith(".")
    assert panel.queries
    for query in panel.queries:
        assert query.legend
        if panel.unit in {"reqps", "ops", "Bps"}:
            assert "rate" in query.expression, "a figure per second that is no rate"
        if panel.unit == "percentunit":
            assert "/" in query.expression or "ratio" in query.expression or "avg(" in query.expression or (
                "seconds_total" in query.expression
            )  # fmt: skip
        if panel.unit == "bytes":
            assert "bytes" in query.expression


def test_titles_differ() -> None:
    for board in BOARDS:
        titles = [panel.title for panel in board.panels]
        assert len(set(titles)) == len(titles)
    assert len({board.name for board in BOARDS}) == len(BOARDS)


def test_a_fleet_has_no_panel_about_what_it_has_not() -> None:
    alone = load(folder("single"))[1]
    text = json.dumps(
        [query.expression for board in dashboards(alone) for panel in board.panels for query in panel.queries]
    )
    for name in ("redis_master_link_up", "mysql_slave_status", "redis_sentinel"):
        assert name not in text
    assert "mysql_global_variables_read_only" in text


def written(of: Fleet = WITH_GRAFANA) -> dict[str, dict[str, Any]]:
    found = files(of, "mon1")
    return {path: json.loads(text) for path, text in found.items() if path.startswith(grafana.BOARDS)}


def test_grafanas_own_types_read_what_is_provisioned() -> None:
    every = written()
    assert len(every) == len(BOARDS)
    for path, document in every.items():
        again = sdk.Dashboard.from_json(document)
        assert json.loads(json.dumps(again, default=lambda one: one.to_json())) == document, path
        assert document["uid"] == f"fleet-{Path(path).stem}"
        assert document["editable"] is False
        taken: set[tuple[int, int]] = set()
        for panel in document["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            area = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not area & taken, "two panels in one place"
            taken |= area
            assert panel["datasource"]["uid"] == "fleet-prometheus"
            assert panel["type"] in {"timeseries", "stat"}


def test_grafana_shows_the_questions_of_the_model() -> None:
    for board in BOARDS:
        panels = written()[f"{grafana.BOARDS}/{board.name}.json"]["panels"]
        shown = [
            (one["title"], one["fieldConfig"]["defaults"]["unit"], [t["expr"] for t in one["targets"]])
            for one in panels
        ]
        assert shown == [
            (one.title, one.unit, [query.expression for query in one.queries]) for one in board.panels
        ]  # fmt: skip


def test_grafana_comes_only_where_the_inventory_says_so() -> None:
    assert grafana.CONFIG not in files(FLEET, "mon1")
    rendered = files(WITH_GRAFANA, "mon1")
    assert "secret of" not in rendered[grafana.CONFIG]
    assert "admin_password = $__file{/etc/fleet/grafana.password}" in rendered[grafana.CONFIG]
    assert "secret of" not in "".join(json.dumps(one) for one in written().values())
    source = json.loads(rendered[grafana.SOURCES_FILE])["datasources"][0]
    assert (source["uid"], source["url"]) == ("fleet-prometheus", "http://127.0.0.1:9090")


@pytest.mark.parametrize("candidate", ["11.6.3", "(none)", ""])
def test_a_source_without_grafana_is_said_before_anything_is_installed(tmp_path: Path, candidate: str) -> None:
    state = desired.host_state(context(WITH_GRAFANA, "mon1")).resources
    first = next(item for item in state if isinstance(item, File) and "grafana" in item.path)
    assert first.order == 0
    for tool, text in (
        ("apt-cache", f"[ -z '{candidate}' ] || printf 'grafana:\\n  Candidate: {candidate}\\n'"),
        ("apt-get", ":"),
    ):
        (tmp_path / tool).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / tool).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-eu"], input=first.check, text=True, capture_output=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    if candidate == "11.6.3":
        assert (done.returncode, done.stdout) == (0, "")
    else:
        assert done.returncode == 1
        assert "no package source of this host has the package grafana" in done.stdout


def test_grafana_without_prometheus_beside_it_is_refused() -> None:
    apart = fleet({**GROUPS, "web1": GROUPS["web1"] | {"grafana"}})
    with pytest.raises(FleetErrors, match="a host without Prometheus"):
        checks.check(apart)


def test_logs_need_a_file_for_each_host() -> None:
    with pytest.raises(FleetErrors, match="logs_max"):
        checks.check(fleet(GROUPS, logs_max="512mb"))
