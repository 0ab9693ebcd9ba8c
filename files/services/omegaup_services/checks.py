"""Checks of values that arrive from outside. Each raises ApiError 400 naming the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .httpd import ApiError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NUMBER = re.compile(r"[0-9]{1,18}")
"""Of at most 18 digits: `isdecimal` also takes other scripts' digits, and more of them than int() reads."""
LABEL = re.compile(r"[\x21-\x7e]{1,255}")


def matching(data: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = data.get(key)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ApiError(400, f"{key}: expected a string matching {pattern.pattern}")
    return value


def whole(data: Mapping[str, Any], key: str, minimum: int, maximum: int) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ApiError(400, f"{key}: expected a whole number in {minimum}..{maximum}")
    return value


def number(data: Mapping[str, Any], key: str, minimum: float, maximum: float) -> float:
    value = data.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ApiError(400, f"{key}: expected a number in {minimum:g}..{maximum:g}")
    return float(value)


def only_keys(data: Mapping[str, Any], *known: str) -> None:
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ApiError(400, f"unknown key {', '.join(unknown)}; known keys are {', '.join(known)}")
