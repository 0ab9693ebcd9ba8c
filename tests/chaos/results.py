"""Figures of the fault suites: noted one by one, kept in .fleet/chaos.json, shown as the worst of each."""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / ".fleet/chaos.json"
_noted: dict[str, dict[str, list[float]]] = {}


def begin() -> None:
    _noted.clear()


def note(fault: str, **figures: float) -> None:
    """One repeat of a fault: figures by name; where more is worse."""
    for name, value in figures.items():
        _noted.setdefault(fault, {}).setdefault(name.replace("_", " "), []).append(round(value, 2))


def keep() -> None:
    """Into the file, over older figures of the same faults."""
    if not _noted:
        return
    FILE.parent.mkdir(exist_ok=True)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps(known | _noted, indent=1, sort_keys=True) + "\n")


def table(figures: dict[str, dict[str, list[float]]] | None = None) -> list[str]:
    """`fault | repeats | worst of each figure`, in Markdown."""
    found = _noted if figures is None else figures
    if not found:
        return []
    lines = ["", "| fault | repeats | worst |", "| --- | --- | --- |"]
    for fault, values in found.items():
        repeats = max(len(every) for every in values.values())
        lines.append(f"| {fault} | {repeats} | {', '.join(f'{name} {max(v):g}' for name, v in values.items())} |")
    return lines
