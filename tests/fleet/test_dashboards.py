"""Dashboards as they run: every question is answered by the real Prometheus, and what is declared is given.

Without load some answers are empty (there is no share of errors without requests); under load see tests/chaos.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from testinfra.host import Host

from deploy.model.catalog import SERVICES
from deploy.model.dashboards import dashboards
from deploy.model.fleet import Fleet, HostSpec
from deploy.model.metrics import KNOWN, RARE
from deploy.model.scrapes import jobs
from deploy.roles import grafana
from tests.fleet.conftest import loaded, soon
from tests.fleet.test_monitoring import API, query

BOARDS = dashboards(loaded()[1])
ASKED = [(board, panel, one) for board in BOARDS for panel in board.panels for one in panel.queries]
PAGE = f"http://127.0.0.1:{SERVICES['alert-log'].port('http').number}"
GRAFANA = f"http://127.0.0.1:{SERVICES['grafana'].port('http').number}"
REPLICAS_ONLY = frozenset({
    "redis_connected_slave_lag_seconds", "redis_master_link_up", "mysql_slave_status_seconds_behind_master",
    "mysql_slave_status_slave_io_running", "mysql_slave_status_slave_sql_running", "alertmanager_cluster_members",
    "mysql_global_variables_rpl_semi_sync_slave_enabled", "erlang_vm_dist_node_state",
})  # fmt: skip
"""There where there is more than one."""


@pytest.mark.service("monitoring")
def test_no_question_is_refused(host: Host, spec: HostSpec) -> None:
    for board, panel, one in ASKED:
        said = host.run(f"curl -s -m 10 --noproxy '*' '{API}/query?query={quote(one.expression)}'").stdout
        assert json.loads(said)["status"] == "success", (board.name, panel.title, said)


@pytest.mark.service("monitoring")
def test_what_is_declared_is_given_by_whom_it_says(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    """Counters come with the first event in some exporters: those of the spec's contract are there from the start."""
    here = {job.name for job in jobs(fleet)}
    alone = REPLICAS_ONLY if len(fleet.members("mysql")) == 1 else frozenset()
    wanted = [(job, name) for job, names in KNOWN.items() for name in names if job in here and name not in RARE | alone]

    def missing() -> list[tuple[str, str]]:
        return [(job, name) for job, name in wanted if not query(host, f'count({name}{{job="{job}"}})')]

    # What a host notes of itself comes within a minute of its first apply.
    soon(lambda: not missing())
    assert missing() == []


@pytest.mark.service("monitoring")
def test_each_dashboard_is_a_page(host: Host, spec: HostSpec) -> None:
    for board in BOARDS:
        html = host.check_output(f"curl -sf -m 30 --noproxy '*' {PAGE}/dashboards/{board.name}")
        assert html.count('<section class="panel">') == len(board.panels)
        assert "cannot be asked" not in html


@pytest.mark.service("grafana")
def test_grafana_has_the_dashboards_and_nobody_else_in(host: Host, spec: HostSpec) -> None:
    assert host.run(f"curl -s -o /dev/null -w '%{{http_code}}' {GRAFANA}/api/search").stdout == "401"
    login = f"$(cat {grafana.PASSWORD})"
    ask = (
        f'printf \'user = "admin:%s"\\n\' "{login}" | curl -sf -m 10 --noproxy "*" -K - {GRAFANA}/api/search?tag=fleet'
    )
    found = json.loads(host.check_output(ask))
    assert {one["uid"] for one in found} == {f"fleet-{board.name}" for board in BOARDS}
