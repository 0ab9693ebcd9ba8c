"""JSON that comes from elsewhere, by RFC 8259 to the letter: what one service takes, every other takes as well.

Python's own reader takes more: other encodings, NaN, halves of surrogate pairs; and it raises different errors for what
is wrong, for what is too deep, and for a number of too many digits.
"""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 64
"""Lists and objects within one another; beyond some hundreds Python can neither read nor write them."""


def loads(sent: bytes) -> Any:
    """What the bytes say. Raises ValueError, whatever is wrong with them."""
    try:
        data = json.loads(sent.decode(), parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("too deep") from None
    _check_depth(data)
    if rb"\ud" in sent.lower():  # half of a pair, which no database and no other service would take
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("too deep")


def _no_number(word: str) -> float:
    raise ValueError(word)  # NaN, Infinity: Python's own, no JSON


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)
