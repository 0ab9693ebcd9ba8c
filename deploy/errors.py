"""The one error an operator sees: what was looked at, what was found, what was expected, what to do next.

Everything in ``deploy`` that refuses something raises :class:`FleetError`; the command line prints
:meth:`FleetError.message` (or :meth:`FleetError.to_dict` under ``--json``) and never a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TRACE_VARIABLE = "FLEET_TRACEBACK"
"""Environment variable for those who mend the program: errors nobody has foreseen are shown whole."""


class FleetError(Exception):
    """A refusal that can be acted upon.

    All fields are keyword-only, free text and must hold no secret value.

    host: the host concerned, ``None`` when the error is about the controller or the inventory as a whole.
    subject: the file, parameter or thing concerned, e.g. ``redis.cache.maxmemory``.
    found: what is there, with its unit; quote literal values with ``{value!r}`` so that ``''`` stays visible.
    expected: what should be there, with its unit and, in brackets, the reason.
    hint: what to do next, one or two whole sentences; may be empty.
    """

    def __init__(self, *, subject: str, found: str, expected: str, hint: str = "", host: str | None = None) -> None:
        self.host = host
        self.subject = subject
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(self.message())

    def message(self) -> str:
        """One line: ``data1: redis.cache.maxmemory: found '8gb', expected at most 5.6gb. Lower it.``"""
        where = f"{self.host}: {self.subject}" if self.host else self.subject
        text = f"{where}: found {_clause(self.found)}, expected {_clause(self.expected)}."
        hint = " ".join(self.hint.split())
        if not hint:
            return text
        return f"{text} {hint}" if hint.endswith((".", "!", "?")) else f"{text} {hint}."

    def to_dict(self) -> dict[str, str | None]:
        """The same fields for machines (``--json``), plus the rendered ``message``."""
        return {
            "error": type(self).__name__,
            "host": self.host,
            "subject": self.subject,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
            "message": self.message(),
        }

    def __str__(self) -> str:
        return self.message()

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles as a call with positional arguments, which keyword-only fields refuse;
        # errors cross process borders in parallel test runs and worker pools.
        fields = (self.subject, self.found, self.expected, self.hint, self.host)
        return (_rebuild, (type(self), *fields))


class Unsettled(FleetError):
    """A refusal of what may be otherwise in a moment: a failover under way, members that are still starting."""


def _rebuild(
    kind: type[FleetError], subject: str, found: str, expected: str, hint: str, host: str | None
) -> FleetError:
    return kind(subject=subject, found=found, expected=expected, hint=hint, host=host)


def _clause(text: str) -> str:
    """A field folded to one line without a closing full stop, so that it can stand inside the sentence."""
    return " ".join(text.split()).rstrip(".")


class FleetErrors(Exception):
    """Several things that are wrong at once, one message each."""

    def __init__(self, errors: Iterable[FleetError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(error.message() for error in self.errors))


def each_of(error: FleetError | FleetErrors) -> tuple[FleetError, ...]:
    """The one that it is, or those that it holds."""
    return error.errors if isinstance(error, FleetErrors) else (error,)


def unforeseen(error: Exception, host: str | None = None) -> FleetError:
    """What nobody has foreseen, as one message: where it came from, but not its text, which may hold a secret."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_globals.get('__name__', '?')}, line {trace.tb_lineno}" if trace else "an unknown place"
    return FleetError(
        host=host,
        subject="unforeseen",
        found=f"{type(error).__name__} in {where}",
        expected="every failure to be foreseen",
        hint=f"this is an error of the program: report it; {TRACE_VARIABLE}=1 shows all of it, secrets included",
    )
