"""Dashboards in Grafana's own form, by Grafana's own library: its types are made from the schema that Grafana reads."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from deploy.model.dashboards import SHARES, Dashboard, Panel

SOURCE = "fleet-prometheus"
"""The data source's uid: fixed, since every panel names it."""
WIDTH, HEIGHT = 12, 8
"""Of a panel with lines, in Grafana's units: 24 are the width of the page."""
SMALL = 6, 4


def document(board: Dashboard, fleet: str) -> str:
    """The file that Grafana provisions."""
    made = (
        dashboard.Dashboard(f"{fleet}: {board.title}")
        .uid(f"fleet-{board.name}")
        .description(board.doc)
        .tags(["fleet"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )
    for panel in board.panels:
        made = made.with_panel(_number(panel) if panel.number else _lines(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=SOURCE)


def _targets(panel: Panel) -> list[prometheus.Dataquery]:
    found = []
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().datasource(_source()).expr(query.expression).legend_format(query.legend)
        target = target.ref_id(chr(ord("A") + number))
        found.append(target.instant() if panel.number else target.range())
    return found


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.doc)
        .datasource(_source())
        .unit(panel.unit)
        .span(WIDTH)
        .height(HEIGHT)
        .fill_opacity(8)
        .legend(legend.show_legend(True).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.unit in SHARES:
        made = made.min(0)
    for target in _targets(panel):
        made = made.with_target(target)
    return made


def _number(panel: Panel) -> stat.Panel:
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.doc)
        .datasource(_source())
        .unit(panel.unit)
        .span(SMALL[0])
        .height(SMALL[1])
        .graph_mode(BigValueGraphMode.NONE)
    )
    for target in _targets(panel):
        made = made.with_target(target)
    return made
