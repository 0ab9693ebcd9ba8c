"""One line per event on standard error, for the journal: JSON, or key=value for people.

Extra fields are passed as `extra=fields(key=value)`. Nothing logs request bodies, sources or passwords.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from .config import Log


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Structured fields of a log record: `log.info("leased", extra=fields(run=7))`."""
    return {"fields": values}


class LineFormatter(logging.Formatter):
    """Formats a record as one line, a traceback included (its line breaks escaped)."""

    def __init__(self, service: str, as_json: bool) -> None:
        super().__init__()
        self._service = service
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        data: dict[str, Any] = {
            "level": record.levelname.lower(),
            "service": self._service,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(data, default=str)
        return " ".join(f"{key}={json.dumps(str(value))}" for key, value in data.items())


def setup(service: str, config: Log) -> None:
    """Route every logger of this process to standard error. The time is the journal's to add."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(service, config.format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    # pika tells every reconnection attempt in a dozen lines; the worker logs its own one.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    # asyncio reports each refused TLS handshake with a traceback at error level only in debug mode; keep it
    # so.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
