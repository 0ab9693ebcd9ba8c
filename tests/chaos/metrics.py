"""Questions to the lab's Prometheus."""

from __future__ import annotations

import json
from urllib.parse import quote

from deploy.model.catalog import SERVICES
from tests.chaos.application import first
from tests.chaos.support import on

WATCHER = first("monitoring")
API = f"http://127.0.0.1:{SERVICES['monitoring'].port('prometheus').number}/api/v1"


def ask(expression: str) -> dict[str, float]:
    """Series, as text -> value."""
    said = json.loads(on(WATCHER, f"curl -sf -m 10 --noproxy '*' '{API}/query?query={quote(expression)}'"))
    return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in said["data"]["result"]}
