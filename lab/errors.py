"""The one error a person sees from the lab."""

from __future__ import annotations


class LabError(Exception):
    """What went wrong, where, and what to do about it.

    `host` is the host (or "this machine", or a file) it concerns; `found` what
    is there, `expected` what should be, `hint` the next thing to do.
    """

    def __init__(self, host: str, found: str, expected: str = "", hint: str = "") -> None:
        super().__init__(host, found, expected, hint)
        self.host = host
        self.found = found
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.host}: {self.found}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)
