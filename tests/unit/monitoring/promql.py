"""Names of metrics in an expression, without a parser of the whole language."""

from __future__ import annotations

import re

WORDS = frozenset(
    ("and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset")
)
"""Not names, though they stand where one could."""


def metrics(expression: str) -> set[str]:
    """The names of the metrics that an expression asks for."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', "", expression)
    text = re.sub(r"\{[^}]*\}", " ", text)
    text = re.sub(r"\[[^\]]*\]", " ", text)
    text = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    found = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", text)
    return {name for name in found if name.lower() not in WORDS}


def jobs(expression: str) -> set[str]:
    """Jobs that an expression asks for by name."""
    return set(re.findall(r"""job="([^"]+)\"""", expression.replace("'", '"')))
