"""Sizes and durations as people write them, kept as bytes and seconds."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(b|k|kb|kib|m|mb|mib|g|gb|gib)?$", re.IGNORECASE)
_POWER = {"b": 0, "k": 1, "m": 2, "g": 3}
_SPAN = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?$")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_size(value: Any) -> int:
    """Bytes from `2gb`, `512M`, `64k` or a number. Units are powers of 1024, as Redis and MariaDB read them."""
    if isinstance(value, bool):
        raise ValueError("a size is a number of bytes or a text such as '512mb'")
    if isinstance(value, int):
        return value
    match = _SIZE.match(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a size: write a number of bytes or a text such as '512mb'")
    unit = (match[2] or "b").lower()[0]
    return int(float(match[1]) * 1024 ** _POWER[unit])


def show_size(size: int) -> str:
    """The shortest exact text of a size: 2147483648 -> `2gb`."""
    for unit, power in (("gb", 3), ("mb", 2), ("kb", 1)):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def parse_span(value: Any) -> float:
    """Seconds from `30s`, `5min`, `365d` or a number."""
    if isinstance(value, bool):
        raise ValueError("a time span is a number of seconds or a text such as '30s'")
    if isinstance(value, int | float):
        return float(value)
    match = _SPAN.match(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is not a time span: write seconds or a text such as '30s' or '5min'")
    return float(match[1]) * _SECONDS[match[2] or "s"]


Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(show_size, when_used="json")]
Span = Annotated[float, BeforeValidator(parse_span)]
