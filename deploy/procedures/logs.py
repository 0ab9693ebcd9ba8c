"""What services said, across hosts, in the order in which it was said.

Each host is asked for its own journal. For one that does not answer, the store on the monitoring host is: it has what
the host sent before.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api import Config, Host, State
from pyinfra.context import ctx_state

from deploy.converge import remote
from deploy.converge.inventory import connect_one, load
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.catalog import RELEASES
from deploy.model.fleet import Fleet
from deploy.roles.log_store import STORE, source, store

SECONDS = 60
FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,UNIT,_SYSTEMD_UNIT"
SPAN = re.compile(r"\d{1,6}\s*(s|sec|min|m|h|d)")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?")
UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]*\.(service|timer|socket|mount)")


@dataclass(frozen=True)
class Line:
    """`time`: seconds since 1970, by the clock of the host. `priority`: syslog's, 0 the worst to 7.

    `stored`: read from the monitoring host.
    """

    time: float
    host: str
    unit: str
    priority: int
    text: str
    stored: bool = False


@dataclass(frozen=True)
class Logs:
    """The lines in order of time. `untold`: what may be missing, and why. `cut`: hosts of which there is more."""

    lines: tuple[Line, ...]
    untold: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def since(text: str) -> str:
    """As journalctl takes it: `10min`, `2h`, `1d` ago, or a moment in UTC.

    Raises:
        FleetError: it is neither.
    """
    if SPAN.fullmatch(text):
        return f"-{text.replace(' ', '')}"
    if MOMENT.fullmatch(text):
        return f"{text.replace('T', ' ')} UTC"
    raise FleetError(
        subject="--since", found=repr(text), expected="a span such as 30min, 2h or 1d, or a moment in UTC",
        hint="for instance --since 2h, or --since '2026-01-31 13:30'",
    )  # fmt: skip


def units(fleet: Fleet, service: str) -> tuple[str, ...]:
    """The units of a service of the catalog, or the unit of this name.

    Raises:
        FleetError: it is neither.
    """
    for one in fleet.services():
        if one.name == service and one.units:
            return one.units_on(RELEASES["12"])
    if UNIT.fullmatch(service):
        return (service,)
    known = ", ".join(one.name for one in fleet.services() if one.units)
    raise FleetError(
        subject=f"service {service}", found="no service of this fleet with a unit of its own",
        expected=f"one of {known}; or a unit's whole name",
        hint="fleet logs NAME ssh.service reads any unit",
    )  # fmt: skip


def script(wanted: Iterable[str], after: str, count: int, files: str = "") -> str:
    """Reads the newest `count` lines of these units. files: a pattern of files; empty: the host's own journal."""
    chosen = " ".join(f"--unit={shlex.quote(unit)}" for unit in wanted)
    where = f"--file={shlex.quote(files)}" if files else ""
    # From the end: with --since, systemd 252 would count the lines from there.
    read = f"journalctl --no-pager --quiet --reverse --output=json --output-fields={FIELDS} --lines={count}"
    # A pattern that names no file is an error to journalctl, and means that nothing was ever sent.
    before = f"ls -d {files} >/dev/null 2>&1 || exit 0\n" if files else ""
    return f"{before}{read} --since={shlex.quote(after)} {where} {chosen}\n"


def parse(host: str, output: Iterable[str], *, stored: bool = False) -> list[Line]:
    """journalctl's lines of JSON, the newest first: in their order.

    A message that is not text is a list of its bytes there, one that is huge is null.
    """
    found = []
    for text in output:
        try:
            entry = json.loads(text)
        except ValueError:
            continue
        if not isinstance(entry, dict) or "__REALTIME_TIMESTAMP" not in entry:
            continue
        message = entry.get("MESSAGE")
        if isinstance(message, list):
            message = bytes(byte for byte in message if byte in range(256)).decode(errors="replace")
        # systemd's own words about a unit name it in UNIT.
        unit = entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER") or "?"
        found.append(
            Line(
                int(entry["__REALTIME_TIMESTAMP"]) / 1e6, host, str(unit), int(entry.get("PRIORITY") or 6),
                _shown("(too long to be shown)" if message is None else str(message)), stored,
            )
        )  # fmt: skip
    return found[::-1]


def _shown(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\t" else " " for char in text).rstrip()


Read = Callable[[str, str], list[str]]
"""(host, script) -> lines. Raises FleetError."""


def gather(fleet: Fleet, service: str, after: str, count: int, hosts: Iterable[str], read: Read) -> Logs:
    """Lines of a service on these hosts, the newest `count` of each.

    Raises:
        FleetError: no such service, or a time that is none.
    """
    wanted, begun = units(fleet, service), since(after)
    named = any(one.name == service for one in fleet.services())
    names = [name for name in hosts if not named or fleet.host(name).has(service)]
    silent: dict[str, FleetError] = {}

    def own(name: str) -> list[Line]:
        try:
            return parse(name, read(name, script(wanted, begun, count)))
        except FleetError as error:
            silent[name] = error
            return []

    found = together(names, own)
    lines = {name: found[name] for name in names}
    untold = []
    keeper = store(fleet)
    for name in names:
        if name not in silent:
            continue
        why = f"{name} does not answer ({silent[name].found})"
        if keeper is None or keeper.name == name:
            untold.append(f"{why}, and nobody else has its lines")
            continue
        try:
            # Both what is being written and what was before.
            pattern = f"{STORE}/remote-{source(name)}[.@]*"
            said = read(keeper.name, script(wanted, begun, count, pattern))
            lines[name] = parse(name, said, stored=True)
            untold.append(f"{why}: what it had sent to {keeper.name} is shown")
        except FleetError as error:
            untold.append(f"{why}, nor does {keeper.name} ({error.found})")
    cut = tuple(name for name in names if len(lines[name]) >= count)
    return Logs(_ordered(lines), tuple(untold), cut)


def _ordered(lines: Mapping[str, list[Line]]) -> tuple[Line, ...]:
    """By time; lines of one host that have the same time stay in their order."""
    return tuple(sorted((line for part in lines.values() for line in part), key=lambda line: line.time))


def logs(path: Path, service: str, after: str, count: int, limit: str = "") -> Logs:
    """Ask the hosts of an inventory. limit: hosts, comma-separated; empty: all.

    Raises:
        FleetError: no such service or host, or a time that is none.
    """
    inventory, fleet = load(path)
    chosen = [name for name in limit.split(",") if name] or [host.name for host in fleet.hosts]
    if unknown := sorted(set(chosen) - {host.name for host in fleet.hosts}):
        raise FleetError(
            subject="--limit", found=", ".join(unknown), expected=", ".join(host.name for host in fleet.hosts)
        )
    state = State(inventory, Config(CONNECT_TIMEOUT=10))
    hosts = {host.name: host for host in inventory}

    def read(name: str, text: str) -> list[str]:
        return _read(hosts[name], text)

    with ctx_state.use(state):
        try:
            return gather(fleet, service, after, count, chosen, read)
        finally:
            for host in hosts.values():
                if host.connected:
                    host.disconnect()


def _read(host: Host, text: str) -> list[str]:
    if not host.connected:
        connect_one(host)
    reply = remote.run(host, text, seconds=SECONDS)
    if not reply.ok:
        raise FleetError(
            host=host.name, subject="journalctl", found=" ".join(reply.stderr[-2:]) or "it failed",
            expected="the lines of the journal",
        )  # fmt: skip
    return reply.stdout
