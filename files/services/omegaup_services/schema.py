"""Strict loading of JSON into frozen dataclasses: unknown keys, wrong types and values out of bounds are
refused.

The dataclass is the schema: a field without a default is required, `limits()` bounds a number, `choice()`
lists the words a string may be, and a `Secret` field X may be given as X or, to keep it out of the file, as
`X_file`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(Exception):
    """What is wrong with the configuration, in one line that names the key. Ends the process with EX_CONFIG
    (78).
    """


class Secret:
    """A value that shows itself only when asked by name, so that no log line or traceback can carry it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


def limits(minimum: float, maximum: float, default: Any = dataclasses.MISSING) -> Any:
    """A number field that must lie in [minimum, maximum]; required unless a default is given."""
    return dataclasses.field(default=default, metadata={"limits": (minimum, maximum)})


def choice(*words: str, default: Any = dataclasses.MISSING) -> Any:
    """A string field that must be one of `words`; required unless a default is given."""
    return dataclasses.field(default=default, metadata={"choice": words})


def load(cls: type[T], data: object, where: str = "") -> T:
    """Build `cls` from parsed JSON. `where` is the dotted path of `data`. Raises ConfigError naming the
    key.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the file'}: expected an object, found {_kind(data)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = dict(data)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        path = f"{where}.{name}" if where else name
        if hints[name] is Secret and f"{name}_file" in given:
            if name in given:
                raise ConfigError(f"{path}: give either {name} or {name}_file, not both")
            values[name] = _secret_from_file(given.pop(f"{name}_file"), f"{path}_file")
        elif name in given:
            values[name] = _value(hints[name], given.pop(name), path, field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{path}: required, but missing")
    if given:
        known = ", ".join(sorted(fields))
        unknown = ", ".join(sorted(map(str, given)))
        raise ConfigError(f"{where or 'the file'}: unknown key {unknown}; known keys are {known}")
    return cls(**values)


def _value(hint: Any, raw: object, path: str, metadata: Mapping[str, Any]) -> Any:
    if isinstance(hint, types.UnionType):  # only `X | None` is used
        if raw is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return load(hint, raw, path)
    if hint is Secret:
        return Secret(_plain(str, raw, path))
    value = _plain(hint, raw, path)
    if "limits" in metadata:
        low, high = metadata["limits"]
        if not low <= value <= high:
            raise ConfigError(f"{path}: {value} is outside {low}..{high}")
    if "choice" in metadata and value not in metadata["choice"]:
        raise ConfigError(f"{path}: {value!r} is not one of {', '.join(metadata['choice'])}")
    return value


def _plain(hint: type, raw: object, path: str) -> Any:
    if hint is Path:
        text = _plain(str, raw, path)
        if not text.startswith("/"):
            raise ConfigError(f"{path}: expected an absolute path, found {text!r}")
        return Path(text)
    # JSON's true is a Python int; a float field takes whole numbers.
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(raw, accepted) or (isinstance(raw, bool) and hint is not bool):
        raise ConfigError(f"{path}: expected {_name(hint)}, found {_kind(raw)}")
    return float(raw) if hint is float and isinstance(raw, int) else raw


def _secret_from_file(raw: object, path: str) -> Secret:
    file = _plain(Path, raw, path)
    try:
        return Secret(file.read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read {file}: {error}") from None


def _name(hint: type) -> str:
    return {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, hint.__name__)


def _kind(raw: object) -> str:
    # The value itself is not shown: it may be a password put under the wrong key.
    if raw is None:
        return "null"
    words = {bool: "true or false", str: "a string", int: "a whole number", float: "a number", list: "a list"}
    return words.get(type(raw), "an object" if isinstance(raw, Mapping) else type(raw).__name__)
