"""What runs changed, across hosts, in order of time: the hosts' own trails and the controller's, put together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyinfra.api import Config, Host, State
from pyinfra.context import ctx_state

from deploy.converge import audit, remote
from deploy.converge.inventory import connect_one, load
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.records import Record, parse, records

SECONDS = 120
_SPAN = re.compile(r"(\d{1,6})\s*(s|sec|min|m|h|d)")
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Found:
    """The records in order of time. `untold`: whose lines are missing, and why."""

    records: tuple[Record, ...]
    untold: tuple[str, ...] = ()


def moment(text: str, now: datetime) -> str:
    """`30min`, `2h`, `7d` ago, or a moment in UTC, as the lines have their times; empty: the beginning.

    Raises:
        FleetError: it is neither.
    """
    if not text:
        return ""
    if match := _SPAN.fullmatch(text):
        try:
            at = now - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
        except OverflowError:
            return ""
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise FleetError(
                subject="--since", found=repr(text), expected="a span such as 30min, 2h or 7d, or a moment in UTC",
                hint="for instance --since 7d, or --since '2026-01-31 13:30'",
            ) from None  # fmt: skip
        try:
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except OverflowError:
            return ""
    return f"{at.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


Read = Callable[[str, str], list[str]]
"""(host, script) -> lines. Raises FleetError."""


def gather(names: Sequence[str], own: Iterable[str], since: str, read: Read) -> Found:
    """What these hosts and the controller (its lines: `own`) say; of a host that is silent, the controller alone."""
    silent: dict[str, FleetError] = {}

    def one(name: str) -> list[str]:
        try:
            return read(name, audit.reading(since))
        except FleetError as error:
            silent[name] = error
            return []

    lines = together(names, one)
    found = records(parse(own), {name: parse(lines[name]) for name in names})
    untold = tuple(
        f"{name} does not answer ({silent[name].found}): what this controller did there is shown, others' is not"
        for name in names
        if name in silent
    )
    return Found(tuple(one for one in found if one.host in names), untold)


def trail(path: Path, since: str = "", host: str = "") -> Found:
    """The trail of an inventory. since: see `moment`. host: of this one alone.

    Raises:
        FleetError, FleetErrors: no such host, a time that is none, or what is wrong with the inventory.
    """
    begun = moment(since, datetime.now(UTC))
    inventory, fleet = load(path)
    names = [one.name for one in fleet.hosts]
    if host and host not in names:
        raise FleetError(subject="--host", found=repr(host), expected=f"one of {', '.join(names)}")
    chosen = [host] if host else names
    state = State(inventory, Config(CONNECT_TIMEOUT=10))
    hosts = {one.name: one for one in inventory}

    def read(name: str, text: str) -> list[str]:
        return _read(hosts[name], text)

    with ctx_state.use(state):
        try:
            return gather(chosen, audit.own(path, begun), begun, read)
        finally:
            for one in hosts.values():
                if one.connected:
                    one.disconnect()


def _read(host: Host, text: str) -> list[str]:
    if not host.connected:
        connect_one(host)
    reply = remote.run(host, text, seconds=SECONDS)
    if not reply.ok or reply.stdout[-1:] != ["end"]:
        raise FleetError(
            host=host.name, subject="audit trail", found=" ".join(reply.stderr[-2:]) or "it could not be read",
            expected="its lines, or none",
        )  # fmt: skip
    return reply.stdout[:-1]
