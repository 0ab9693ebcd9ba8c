"""Every alert by its fault: it fires, reaches the receiver through Alertmanager, and is over after the mend.

The receiver is the log of alerts on the monitoring host, which Alertmanager calls as any other webhook. The
faults, and why some are not made, are in `alert_faults`; promtool has fired all (tests/unit/monitoring).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.model import rules
from deploy.model.catalog import SERVICES
from tests.chaos import faults, results
from tests.chaos.alert_faults import AT_ONCE, CACHE, FAULTS, NOT_MADE, SESSIONS
from tests.chaos.failover import database, eventually, hosts_of, load, primary, settled, the_fleet, visiting
from tests.chaos.metrics import WATCHER, ask
from tests.chaos.support import UNBOUNDED, altered, apply, fleet, on

pytestmark = pytest.mark.usefixtures("begun_well")

LOG = SERVICES["alert-log"].port("http").number
TELLING = 150
"""Seconds beyond an alert's own until it has to be told: scrapes, an evaluation, Alertmanager's grouping."""
OVER = 1200
"""Seconds until it has to be over: the longest look back of a rule, and the same way again."""
FIRING = 'ALERTS{alertstate="firing",alertname!="Watchdog"}'
SCRAPES = 240
"""An hour's, as often as they are by default."""
CLOSER = 2.0
"""Seconds from one to the next, where an hour's have to be had sooner."""


def told() -> list[dict[str, Any]]:
    """What Alertmanager has told the receiver, the newest first."""
    found: list[dict[str, Any]] = json.loads(on(WATCHER, f"curl -sf -m 10 http://127.0.0.1:{LOG}/alerts"))
    return found


def since_then(since: float) -> set[str]:
    """Which have fired."""
    return {one["name"] for one in told() if one["time"] > since and one["status"] == "firing"}


def over(since: float) -> set[str]:
    """Those whose last word is that they are over: one that looks back may be before the others have fired."""
    last: dict[str, str] = {}
    for one in told():
        if one["time"] > since:
            last.setdefault(one["name"], one["status"])
    return {name for name, status in last.items() if status == "resolved"}


def clock() -> float:
    return float(on(WATCHER, "date +%s.%N"))


def test_every_alert_is_fired_or_says_why_not() -> None:
    # Of which a fleet with one monitoring host has one less.
    names = {alert.name for alert in rules.alerts(the_fleet())} - {"Watchdog"} | {"AlertmanagersApart"}
    made = {fault.name for fault in FAULTS}
    assert made | set(NOT_MADE) == names
    assert not made & set(NOT_MADE)


@pytest.mark.thorough
@pytest.mark.parametrize("group", AT_ONCE)
def test_alerts_fire_by_their_faults_and_are_over_after_the_mend(group: str) -> None:
    lasts = {alert.name: alert.seconds for alert in rules.alerts(the_fleet())}
    names = {fault.name for fault in AT_ONCE[group]}
    since, begun = clock(), time.monotonic()
    with contextlib.ExitStack() as made:
        for fault in AT_ONCE[group]:
            made.enter_context(fault.made())
        patience = max(lasts[name] for name in names) + TELLING + 300
        fired = each("fires", names, lambda: since_then(since), patience, begun)
        mended = time.monotonic()
    for after in {fault.after for fault in AT_ONCE[group]}:
        after()
    ended = each("is over", names, lambda: over(since), OVER, mended)
    for fault in AT_ONCE[group]:
        figures = {"seconds_to_fire": fired[fault.name], "seconds_to_be_over": ended[fault.name]}
        results.note(f"alert {fault.name}: {fault.by}", **figures)


def each(what: str, names: set[str], told_of: Callable[[], set[str]], timeout: float, begun: float) -> dict[str, float]:
    """Wait until the receiver has been told of each; seconds from `begun` (monotonic) until it had been."""
    seen: dict[str, float] = {}

    def all_of_them() -> bool:
        for name in told_of() & names - seen.keys():
            seen[name] = time.monotonic() - begun
        return seen.keys() == names

    try:
        eventually(f"each {what}", all_of_them, timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {', '.join(sorted(names - seen.keys()))}") from None
    return seen


@pytest.mark.thorough
def test_one_dead_host_is_one_page() -> None:
    """Everything that the death of a data host, which led nothing, brings with it is held back."""
    leaders = {primary(CACHE), primary(SESSIONS), database()}
    host = next((name for name in hosts_of("redis") if name not in leaders), None)
    if host is None:
        pytest.skip("every data host leads something at the moment")
    since = clock()
    with faults.power_cut(host):
        eventually("HostDown fires", lambda: "HostDown" in since_then(since), 60 + TELLING)
        # As long as the slowest of those that it holds back would have taken.
        with pytest.raises(AssertionError, match="another is told"):
            eventually("another is told", lambda: since_then(since) != {"HostDown"}, 240)
    settled()
    eventually("it is over", lambda: "HostDown" in over(since), rules.BOOTS + TELLING)
    assert since_then(since) == {"HostDown"}, "nor is another when it is back"


@pytest.mark.thorough
def test_without_a_fault_nothing_fires(tmp_path: Path) -> None:
    """As many scrapes as an hour has, closer to one another, with visitors and writers all the time."""
    seconds = SCRAPES * CLOSER
    eventually("what was told of is over", lambda: ask(FIRING) == {}, OVER)
    quick = altered(tmp_path, f'{UNBOUNDED}monitoring = {{"scrape_interval": {CLOSER}}}')
    assert fleet("apply", inventory=quick).returncode == 0
    try:
        since = clock()
        # No messages: nobody takes those of the load, and that is something to tell of.
        writing, visits = load("web1", "quiet", "sessions", "cache", "rows", pause=0.2), visiting("web1", pause=1)
        with writing, visits, pytest.raises(AssertionError, match="one fires"):
            eventually("one fires", lambda: bool(since_then(since)), seconds)
        scrapes = min(ask(f"count_over_time(up[{seconds:.0f}s])").values())
        # What waits all the time would fire in a longer hour.
        waited = ask(f'max by (alertname) (count_over_time(ALERTS{{alertstate="pending"}}[{seconds:.0f}s]))')
    finally:
        apply()
    assert scrapes > 0.9 * SCRAPES
    assert {name for name, times in waited.items() if times > 0.8 * SCRAPES} == set()
    results.note("an hour's scrapes without a fault", scrapes=scrapes)


@pytest.mark.thorough
def test_what_monitoring_costs() -> None:
    """Memory and processor of all that only watches, on each host, over half a minute."""
    units = "'prometheus*' fleet-door.service fleet-alert-log.service"
    script = (
        f"systemctl show -p MainPID {units} | sed -n 's/^MainPID=//p' | sort -u | while read -r p; do [ $p = 0 ] || "
        "for c in $p $(pgrep -P $p); do awk '{ print \"ticks\", $14 + $15 }' /proc/$c/stat; "
        "sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/KiB \\1/p' /proc/$c/status; done; done"
    )

    def total(host: str, kind: str) -> int:
        return sum(int(line.split()[1]) for line in on(host, script).splitlines() if line.startswith(kind))

    for host in the_fleet().hosts:
        before = total(host.name, "ticks")
        time.sleep(30)  # the interval that is measured
        share = (total(host.name, "ticks") - before) / 30
        memory = total(host.name, "KiB") / 1024
        results.note(f"monitoring on {host.name}", MiB=memory, percent_of_a_core=share)
        assert memory < 700
