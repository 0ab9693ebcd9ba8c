"""What clients were promised and what they saw, judged when it is over: lost writes, failed visits, members out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.chaos import results
from tests.chaos.failover import (
    PORTS,
    arrived,
    database,
    fresh_table,
    hosts_of,
    load,
    primary,
    redis,
    sql,
    the_fleet,
    visiting,
)
from tests.chaos.load import TABLE, Ledger
from tests.chaos.watching import watching

BAR = 5.0
"""Seconds: the longest that a write may wait while hosts are changed."""


def missing(ids: set[str], kind: str) -> set[str]:
    """Those of these that the Redis primary does not have. kind: cache or sessions."""
    port, key = PORTS[kind], "session:{}" if kind == "sessions" else "tags:{}"
    where = primary(port)
    gone: set[str] = set()
    names = sorted(ids)
    for begin in range(0, len(names), 500):
        part = names[begin : begin + 500]
        found = redis(where, port, "MGET", *(key.format(name) for name in part))
        gone |= {name for name, value in zip(part, found, strict=True) if value != name}
    return gone


def lost(ledgers: Mapping[str, Ledger], *kinds: str) -> dict[str, set[str]]:
    """Of each of these kinds of write: what was promised and is not there. The messages are taken out of their queues,
    so ask once.
    """
    found: dict[str, set[str]] = {}
    for kind in kinds:
        ids = ledgers[kind].ids()
        match kind:
            case "messages":
                found[kind] = ids - arrived(hosts_of("rabbitmq")[0], ids)
            case "rows":
                found[kind] = ids - set(sql(database(), f"SELECT id FROM {TABLE}"))
            case _:
                found[kind] = missing(set(ledgers[kind].kept), kind)
    return found


@contextmanager
def unnoticed(
    title: str, pause: float = 0.2, kinds: tuple[str, ...] = ("sessions", "messages", "rows")
) -> Iterator[None]:
    """Nobody notices what happens meanwhile: no write of these kinds that was promised is lost, none of any kind waits
    for as long as the bar, no visit fails, and never is more than one member of a service out. The site's limit of
    visits is to be out of the way (UNBOUNDED).

    pause: seconds from one write to the next of its kind; for a quarter of an hour and more the usual pace wants both
    processors.
    """
    fresh_table()
    with (
        load("web1", "unnoticed", pause=pause) as running, visiting("web1", pause=0.5) as visits,
        watching(the_fleet()) as watch,
    ):  # fmt: skip
        begun = time.time()
        yield
        until = time.time()
    ledgers = running.end()
    gone = lost(ledgers, *kinds)
    pauses = {kind: ledger.gap(begun, until) for kind, ledger in ledgers.items()}
    results.note(title, seconds=until - begun, **{f"seconds_without_{kind}": gap for kind, gap in pauses.items()})
    noticed = {
        **{f"{kind} lost": sorted(ids)[:5] for kind, ids in gone.items() if ids},
        **{f"seconds without {kind}": gap for kind, gap in pauses.items() if gap >= BAR},
        **{f"visits of {kind} failed": one.failed[:3] for kind, one in visits.items() if one.failed or not one.good},
        **{f"members of {service} out at once": out for service, out in watch.out.items() if len(out) > 1},
    }
    assert noticed == {}
