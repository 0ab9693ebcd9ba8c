"""HTTPS calls to another service with our certificate, through one pool of connections a process."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from .config import Backoff
from .tls import Material


class LinkDown(Exception):
    """The service could not be reached, or answered with an error of its own (5xx). Try later."""


class Refused(Exception):
    """The service answered 4xx: this request will not succeed by repeating it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Link:
    """One service, by its base URL. `open` inside the event loop before the first call."""

    def __init__(self, url: str, timeout_seconds: float, tls: Material) -> None:
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        extra_seconds: float = 0.0,
    ) -> dict[str, Any]:
        """The JSON object of a 2xx answer ({} for 204). `extra_seconds`: how long the other side may hold a
        long poll.

        Raises LinkDown or Refused.
        """
        assert self._session is not None, "not opened"
        where = f"{method} {self._url}{path}"
        try:
            async with self._session.request(
                method,
                self._url + path,
                json=body,
                headers=headers,
                # Given with each request: after a reload the pool's connections of the old certificate are
                # not used.
                ssl=self._tls.client,
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds + extra_seconds),
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        except TimeoutError:
            raise LinkDown(f"{where}: no answer within {self._timeout_seconds + extra_seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # A connector's error shows its SSL context as an address in memory; its cause is what one wants to read.
            cause = getattr(error, "os_error", None) or error
            raise LinkDown(f"{where}: {str(cause) or type(cause).__name__}") from None
        if response.status == 204:
            return {}
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError):  # ValueError: also a number of more digits than Python reads
            data = None
        if 200 <= response.status < 300 and isinstance(data, dict):
            return data
        message = str(data.get("error", data)) if isinstance(data, dict) else "not a JSON object"
        if 400 <= response.status < 500:
            raise Refused(response.status, f"{where}: {response.status}: {message}")
        raise LinkDown(f"{where}: {response.status}: {message}")


def segment(text: str) -> str:
    """`text` as one segment of a URL's path."""
    return quote(text, safe="")


class Delays:
    """Waits that grow: uniform in [initial/2, min(max, initial * 2^n)], so that clients of a server do not
    return at once.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        ceiling = min(self._backoff.max_seconds, self._backoff.initial_seconds * 2.0 ** min(self._failures, 32))
        self._failures += 1
        # No secret: so that not all come back at once.
        return random.uniform(min(self._backoff.initial_seconds / 2, ceiling), ceiling)  # noqa: S311  # nosec B311

    def reset(self) -> None:
        self._failures = 0
