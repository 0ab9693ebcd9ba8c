"""Every panel of every dashboard under load: data, finite, in its unit; each board reacts to a fault made for it."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator

import pytest

from deploy.model.dashboards import SHARES, Panel, dashboards
from tests.chaos import faults
from tests.chaos.application import PROBLEM, SUM, put_problem, web
from tests.chaos.failover import eventually, load, replica, settled, the_fleet, visiting
from tests.chaos.metrics import ask

pytestmark = pytest.mark.usefixtures("begun_well")

PANELS = [(board, panel) for board in dashboards(the_fleet()) for panel in board.panels]
WARM = 30
"""Seconds of load before the questions are asked: rates over five minutes need a few scrapes."""


def unwell(panel: Panel) -> str:
    """What is wrong with the answers to a panel's questions."""
    for query in panel.queries:
        values = ask(query.expression)
        if not values:
            return f"no data: {query.expression}"
        for series, value in values.items():
            if not math.isfinite(value):
                return f"{value} of {series}: {query.expression}"
            if value < 0 and panel.unit != "d":
                return f"{value} of {series} is below zero"
            if panel.unit in SHARES and value > 1.05:
                return f"{value} of {series} is no share"
    return ""


@pytest.fixture(scope="module")
def loaded() -> Iterator[None]:
    """Visitors, submissions, sessions, cache, messages and rows, for as long as the questions are asked."""
    web_host = the_fleet().members("frontend")[0].name
    put_problem()
    with load(web_host, f"boards-{secrets.token_hex(4)}"), visiting(web_host):
        until = time.monotonic() + WARM
        while time.monotonic() < until:
            web("/submit", {"problem": PROBLEM, "language": "py3", "source": SUM})
            web("/schools/rank")
            time.sleep(5)  # a submission now and then, not as many as can be
        yield


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(("board", "panel"), PANELS, ids=[f"{board.name}-{panel.title}" for board, panel in PANELS])
def test_a_panel_has_data(board: object, panel: Panel) -> None:
    # A scrape may be between two figures of one question.
    eventually(f"{panel.title} is answered ({unwell(panel)})", lambda: not unwell(panel), 60)


def reacts(name: str, title: str, wanted: Callable[[dict[str, float]], bool], seconds: float = 120) -> None:
    panel = next(panel for board, panel in PANELS if (board.name, panel.title) == (name, title))
    eventually(f"{name}: {title} shows it", lambda: wanted(ask(panel.queries[0].expression)), seconds)


@pytest.mark.thorough
def test_boards_react_to_a_runner_that_is_gone() -> None:
    runners = [host.name for host in the_fleet().members("runner")]
    with faults.killed_for_good(runners[0], "omegaup-runner"):
        reacts("grader", "Runners", lambda found: sum(found.values()) < len(runners))
    settled()
    reacts("grader", "Runners", lambda found: sum(found.values()) == len(runners))


def test_boards_react_to_a_worker_that_is_gone() -> None:
    worker = the_fleet().members("worker")[0].name
    with faults.killed_for_good(worker, "omegaup-worker@analytics"):
        reacts("queue", "Consumers", lambda found: min(found.values()) == 0)
    settled()


@pytest.mark.thorough
def test_boards_react_to_a_failover() -> None:
    before = set(ask("mysql_global_variables_read_only == bool 0"))
    assert before
    with faults.killed_for_good(replica(), "mariadb"):
        reacts("failover", "Database: who acknowledges", lambda found: max(found.values(), default=0) < 2)
        reacts("failover", "Proxies: who serves", lambda found: len(found) > 0)
    settled()


@pytest.mark.thorough
def test_boards_react_to_a_dead_host() -> None:
    hosts = len(the_fleet().hosts)
    with faults.power_cut(the_fleet().members("runner")[0].name):
        reacts("overview", "Hosts up", lambda found: sum(found.values()) == hosts - 1)
        reacts("overview", "Checks well", lambda found: max(found.values()) < 1)
    settled()
    reacts("overview", "Hosts up", lambda found: sum(found.values()) == hosts)
