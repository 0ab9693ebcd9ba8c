"""Dashboards as static pages: the panels of the deployment's model, drawn here, without a script in the page.

What Grafana shows from the same panels, for where there is no Grafana.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Labels = Mapping[str, str]
Series = tuple[Labels, list[tuple[float, float]]]
AskRange = Callable[[str, float, float, float], list[Series]]
"""(expression, from, to, step) -> series of (time, value)."""

HOURS = (1, 6, 24, 168)
POINTS = 120
WIDTH, HEIGHT = 600, 160
SERIES_MAX = 24
"""More than that nobody reads; those with the largest values are drawn."""
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d")
STYLE = """
.boards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
.panel { border: 1px solid var(--edge); border-radius: .4rem; min-width: 0; padding: .6rem .8rem; }
.panel h3 { font-size: 1rem; margin: 0; } .panel p { font-size: .85rem; margin: .1rem 0 .4rem; opacity: .75; }
.panel svg { background: #8881; display: block; height: auto; width: 100%; }
.panel .axis { font-size: .75rem; opacity: .75; }
.panel ul { font-size: .8rem; list-style: none; margin: .3rem 0 0; padding: 0; }
.panel li { display: inline-block; margin-right: .8rem; overflow-wrap: anywhere; }
.panel li b { font-variant-numeric: tabular-nums; }
.panel .big { font-size: 2rem; font-weight: 600; }
nav { margin: .5rem 0; } nav a { display: inline-block; margin: 0 .8rem .3rem 0; } nav .here { font-weight: 700; }
"""


def shown(value: float, unit: str) -> str:
    """A value as a person reads it."""
    if not math.isfinite(value):
        return "?"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in {"bytes", "Bps"}:
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}" + ("/s" if unit == "Bps" else "")
        return f"{value:.3g} B" + ("/s" if unit == "Bps" else "")
    if unit in {"s", "dtdurations"}:
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.3g} ms"
    if unit == "d":
        return f"{value:.1f} d"
    text = f"{value:.0f}" if value == int(value) else f"{value:.3g}"
    return text + ("/s" if unit in {"reqps", "ops"} else "")


def called(legend: str, labels: Labels) -> str:
    """The legend with the series' labels in it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip() or "value"


def _drawn(series: Sequence[tuple[str, list[tuple[float, float]]]], begin: float, end: float, unit: str) -> str:
    """All series as lines, from zero or below to the highest value."""
    values = [value for _, points in series for _, value in points]
    low, high = min([0.0, *values]), max(values)
    if high <= low:
        high = low + 1
    lines = []
    for number, (_, points) in enumerate(series):
        across, up = WIDTH / (end - begin), (HEIGHT - 8) / (high - low)
        where = " ".join(
            f"{(time - begin) * across:.1f},{HEIGHT - 4 - (value - low) * up:.1f}" for time, value in points
        )
        colour = COLOURS[number % len(COLOURS)]
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{where}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="lines over time">{"".join(lines)}</svg>'
        f'<div class="axis">up to {shown(high, unit)}</div>'
    )


def panel(spec: Mapping[str, Any], ask: AskRange, begin: float, end: float) -> str:
    """One panel. A question that cannot be answered is said in its place, and the others are still shown."""
    unit, found = spec["unit"], []
    try:
        for query in spec["queries"]:
            step = max(1.0, (end - begin) / POINTS)
            first = end if spec["number"] else begin
            for labels, points in ask(query["expression"], first, end, step):
                finite = [(time, value) for time, value in points if math.isfinite(value)]
                if finite:
                    found.append((called(query["legend"], labels), finite))
        body = "<p>no data</p>"
    except (OSError, ValueError, KeyError) as error:
        body = f"<p>cannot be asked: {html.escape(str(error))}</p>"
    if found and spec["number"]:
        body = "".join(f'<div class="big">{shown(points[-1][1], unit)}</div>' for _, points in found)
    elif found:
        found.sort(key=lambda one: max(value for _, value in one[1]), reverse=True)
        left = len(found) - SERIES_MAX
        found = sorted(found[:SERIES_MAX])
        legend = "".join(
            f'<li><span style="color:{COLOURS[number % len(COLOURS)]}">&#9632;</span> {html.escape(name)} '
            f"<b>{shown(points[-1][1], unit)}</b></li>"
            for number, (name, points) in enumerate(found)
        )
        more = f"<li>and {left} with less</li>" if left > 0 else ""
        body = f"{_drawn(found, begin, end, unit)}<ul>{legend}{more}</ul>"
    return (
        f'<section class="panel"><h3>{html.escape(spec["title"])}</h3><p>{html.escape(spec["doc"])}</p>{body}</section>'
    )


def links(boards: Sequence[Mapping[str, Any]], here: str = "", hours: int = HOURS[0]) -> str:
    """To the status page and each dashboard; on a dashboard, to other spans of time."""
    found = ['<a href="/">Status</a>' if here else '<a class="here" href="/">Status</a>']
    for board in boards:
        mark = ' class="here"' if board["name"] == here else ""
        found.append(f'<a{mark} href="/dashboards/{board["name"]}">{html.escape(board["title"])}</a>')
    spans = ""
    if here:
        spans = "<br>" + "".join(
            f'<a{" class=here" if span == hours else ""} href="/dashboards/{here}?hours={span}">{span} h</a>'
            for span in HOURS
        )
    return f"<nav>{''.join(found)}{spans}</nav>"


def body(boards: Sequence[Mapping[str, Any]], board: Mapping[str, Any], ask: AskRange, now: float, hours: int) -> str:
    """A dashboard over the last hours."""
    begin = now - hours * 3600
    panels = "".join(panel(spec, ask, begin, now) for spec in board["panels"])
    heading = f'<p class="dim">{html.escape(board["doc"])}</p>'
    return f'{links(boards, board["name"], hours)}{heading}<div class="boards">{panels}</div>'
