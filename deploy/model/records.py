"""What the audit trail says: one line of JSON for each thing that happened, on the controller and on the host.

Every line has `at` (UTC, first, so that lines can be compared as text), `run` and `event`:
`begin` (who, from where, which command, which revision; on a host also by which login), `did` (steps on a host, on the
controller alone) and `end` (the outcome; on a host with its steps).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

HOST_FOLDER: Final = "/var/log/fleet"
HOST_FILE: Final = f"{HOST_FOLDER}/audit.jsonl"
HOST_MODE: Final = 0o640
HOST_GROUP: Final = "adm"
HOST_BYTES: Final = 1024**2
"""A host's file that has grown to this is set aside."""
KEPT: Final = 7
"""How many that were set aside are kept, on hosts and on the controller."""
CONTROLLER_FILE: Final = ".audit.jsonl"
"""Beside the inventory's lock."""
CONTROLLER_BYTES: Final = 8 * 1024**2
TAG: Final = "fleet-audit"
"""What the lines in a host's journal are tagged with."""

UNFINISHED: Final = "unfinished"
"""Outcome of a run without an end: it was interrupted, or goes on still."""


@dataclass(frozen=True)
class Record:
    """What one run did on one host. Times as in the lines: ISO 8601, UTC.

    who: the operator's account on the controller; origin: the controller, and from where the operator was logged in
    there; login: how the run logged in to the host, as its sshd said. sources: who has a line of it.
    """

    at: str
    run: str
    host: str
    command: str
    who: str
    origin: str
    login: str
    revision: str
    dirty: bool
    outcome: str
    ended: str
    steps: tuple[Mapping[str, Any], ...]
    sources: tuple[str, ...]


def parse(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The lines that are whole; one that was cut off in the middle of its writing counts as not written."""
    found = []
    for line in lines:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("at", "run", "event")):
            found.append(one)
    return found


def records(controller: Iterable[Mapping[str, Any]], hosts: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Record]:
    """One record for each run and host, in order of time, from the lines of both sides.

    What a host says of its own steps is believed before what the controller says: its file outlives a controller.
    """
    begun: dict[str, Mapping[str, Any]] = {}
    ended: dict[tuple[str, str], Mapping[str, Any]] = {}
    steps: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    sources: dict[tuple[str, str], list[str]] = {}
    whole: dict[str, Mapping[str, Any]] = {}

    def seen(key: tuple[str, str], line: Mapping[str, Any], source: str) -> None:
        first.setdefault(key, line)
        if source not in sources.setdefault(key, []):
            sources[key].append(source)

    for name, lines in hosts.items():
        for line in lines:
            key = (line["run"], name)
            seen(key, line, "host")
            if line["event"] == "begin":
                begun.setdefault(line["run"], line)
                first[key] = line
            elif line["event"] == "end":
                ended[key] = line
                steps[key] = _steps(line)
    for line in controller:
        if line["event"] == "begin":
            begun[line["run"]] = line
        elif line["event"] == "end":
            whole[line["run"]] = line
        elif line["event"] == "did" and isinstance(line.get("host"), str):
            key = (line["run"], line["host"])
            seen(key, line, "controller")
            if key not in ended:
                steps.setdefault(key, []).extend(_steps(line))
    found = []
    for (run, host), line in first.items():
        head = {**line, **begun.get(run, {})}
        end = ended.get((run, host)) or whole.get(run) or {}
        found.append(
            Record(
                at=line["at"], run=run, host=host, command=_text(head, "command"), who=_text(head, "who"),
                origin=_text(head, "origin"), login=_text(line, "login"), revision=_text(head, "revision"),
                dirty=bool(head.get("dirty")), outcome=_text(end, "outcome") or UNFINISHED, ended=_text(end, "at"),
                steps=tuple(steps.get((run, host), ())), sources=tuple(sources[run, host]),
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (one.at, one.run, one.host))


def _steps(line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = line.get("steps")
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []


def _text(line: Mapping[str, Any], key: str) -> str:
    return str(line.get(key) or "")
