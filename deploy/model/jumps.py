"""Which changes of a server's version a rolling change may make: pure.

Sources: rabbitmq.com/docs/upgrade and /docs/feature-flags (one series after the other; 3.12 needs 3.11.18 or newer);
mariadb.com, "Upgrading Between Major MariaDB Versions" (from any earlier version; a replica may be newer than its
primary) and "Downgrading MariaDB" (not supported between series); dev.mysql.com, "Upgrade Paths" (from one long-term
series to the next, no downgrade); redis.io (a newer server reads what an older one wrote, never the other way round
between series).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deploy.errors import FleetError

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Rule:
    """Of one server. `series`: those that have to be taken one after the other, empty where any later one may follow.

    `least`: series -> what must run before it is begun.
    """

    name: str
    series: tuple[tuple[int, int], ...] = ()
    least: tuple[tuple[tuple[int, int], Version], ...] = ()


RULES = {
    "rabbitmq-server": Rule(
        "RabbitMQ", ((3, 8), (3, 9), (3, 10), (3, 11), (3, 12), (3, 13), (4, 0), (4, 1), (4, 2)),
        (((3, 12), (3, 11, 18)),),
    ),
    "mariadb": Rule("MariaDB"),
    "mysql": Rule("MySQL", ((5, 7), (8, 0), (8, 4), (9, 7))),
    "redis": Rule("Redis"),
}  # fmt: skip
"""Debian source package -> its rule; others may change to any version."""


def version(text: str) -> Version | None:
    """The upstream part of a Debian version, as numbers; None for what has none.

    >>> version("1:10.11.19-0+deb12u1")
    (10, 11, 19)
    """
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def refusal(host: str, source: str, have: str, want: str) -> FleetError | None:
    """Why this change of version is not made, and what is made instead; None where it may be."""
    rule, old, new = RULES.get(source), version(have), version(want)
    if rule is None or old is None or new is None or old[:2] == new[:2]:
        return None
    if new < old:
        return _refused(
            host, source, have, want, f"{rule.name} not to go back to an earlier series, which would not read its data",
            f"pin {_words(old[:2])} or later in packages.pins; earlier data comes back from a backup only",
        )  # fmt: skip
    path = _path(rule, old[:2], new[:2])
    if len(path) > 2:
        return _refused(
            host, source, have, want, f"{rule.name} to go from one series to the next",
            f"the path is {' -> '.join(_words(one) for one in path)}: pin each in packages.pins, apply and roll, "
            "and begin the next when that roll has ended",
        )  # fmt: skip
    least = dict(rule.least).get(new[:2])
    if least and old < least:
        return _refused(
            host, source, have, want, f"at least {_words(least)} before {_words(new[:2])}",
            f"the path is {_words(old)} -> {_words(least)} -> {_words(new)}: pin each in packages.pins, apply and roll",
        )  # fmt: skip
    return None


def _path(rule: Rule, old: tuple[int, int], new: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    between = tuple(one for one in rule.series if old < one < new)
    return (old, *between, new)


def _refused(host: str, source: str, have: str, want: str, expected: str, hint: str) -> FleetError:
    return FleetError(
        host=host, subject=f"package {source}", found=f"{have} -> {want}", expected=expected,
        hint=f"{hint}. Nothing was changed",
    )  # fmt: skip


def _words(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
