"""Beside each database server: says whether it is the primary, for the proxies' checks, and hands a physical copy of
itself to a new member.

The role is told in plain HTTP on a port of its own (`GET /primary`, `GET /replica`: 200 or 503 and why); copies go
over mutual TLS, to members of the database only. It runs as the server's own account, which the server knows by the
socket it comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pymysql
from aiohttp import web

from .config import MysqlAgentConfig
from .health import Unwell
from .httpd import roles
from .listening import Listener
from .logs import fields
from .service import Service, service_main

log = logging.getLogger(__name__)

RULES = {
    "/health": roles("mysql", "monitoring"),
    "/metrics": roles("mysql", "monitoring"),
    "/backup": roles("mysql"),
}
ANSWER_SECONDS = 1.0
"""What a hanging server may take; a proxy that asks more often gets the same answer."""
FRESH_SECONDS = 0.2
CHUNK = 1 << 18


class Standing:
    """What the server says of itself, asked at most every FRESH_SECONDS, on one connection."""

    def __init__(self, config: MysqlAgentConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._connection: Any = None
        self._last: tuple[float, dict[str, Any]] | None = None

    def ask(self) -> dict[str, Any]:
        """`read_only` and the columns of SHOW SLAVE STATUS, if it follows somebody. Raises Unwell."""
        if not self._lock.acquire(timeout=ANSWER_SECONDS):
            raise Unwell("the server does not answer")
        try:
            if self._last is not None and time.monotonic() - self._last[0] < FRESH_SECONDS:
                return self._last[1]
            answer = self._fetch()
            self._last = (time.monotonic(), answer)
            return answer
        except (pymysql.err.Error, OSError) as error:
            self._close()
            raise Unwell(f"the server does not answer: {error}") from None
        finally:
            self._lock.release()

    def _fetch(self) -> dict[str, Any]:
        if self._connection is None:
            self._connection = pymysql.connect(
                unix_socket=str(self._config.socket), user=self._config.user, connect_timeout=1,
                read_timeout=ANSWER_SECONDS, write_timeout=ANSWER_SECONDS, autocommit=True,
                cursorclass=pymysql.cursors.DictCursor,
            )  # fmt: skip
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT @@global.read_only AS read_only")
            answer: dict[str, Any] = cursor.fetchone()
            cursor.execute("SHOW SLAVE STATUS")
            return answer | (cursor.fetchone() or {})

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection._force_close()


def as_primary(answer: dict[str, Any]) -> str:
    """The primary's own words. Raises Unwell: it takes no writes, or follows somebody."""
    if answer.get("Master_Host"):
        raise Unwell(f"a replica of {answer['Master_Host']}")
    if str(answer["read_only"]) not in {"0", "OFF"}:
        raise Unwell("read-only: not proven to be the primary")
    return "primary"


def as_replica(answer: dict[str, Any], max_lag: float) -> str:
    """Fit for reads: a replica in step, or the primary itself. Raises Unwell with what is wrong."""
    if not answer.get("Master_Host"):
        return as_primary(answer)
    for thread in ("Slave_IO_Running", "Slave_SQL_Running"):
        if answer[thread] != "Yes":
            raise Unwell(f"{thread} {answer[thread]}")
    lag = answer["Seconds_Behind_Master"]
    if lag is None or float(lag) > max_lag:
        raise Unwell(f"{lag} s behind its primary")
    return f"replica of {answer['Master_Host']}"


class MysqlAgent(Service):
    def __init__(self, config: MysqlAgentConfig) -> None:
        super().__init__("mysql-agent", config)
        self._config = config
        self._standing = Standing(config)
        self._busy = asyncio.Lock()
        self._plain = Listener(config.role_listen, self._roles())
        self.health.add("server", self._answers)
        app = self.serve(config.listen, RULES)
        app.router.add_get("/backup", self._backup)

    def _roles(self) -> web.Application:
        plain = web.Application()
        plain.router.add_get("/primary", self._say(as_primary))
        plain.router.add_get("/replica", self._say(lambda answer: as_replica(answer, self._config.max_lag_seconds)))
        return plain

    async def opened(self) -> None:
        await self._plain.start(None)

    async def closed(self) -> None:
        self._plain.close()
        await self._plain.finish(0)

    @property
    def role_port(self) -> int:
        return self._plain.port

    async def _answers(self) -> None:
        await asyncio.to_thread(self._standing.ask)

    def _say(self, judge: Callable[[dict[str, Any]], str]) -> Callable[[web.Request], Any]:
        async def say(_: web.Request) -> web.Response:
            try:
                if self._config.drain_file.exists():
                    raise Unwell("drained: being taken out of service")
                answer = await asyncio.wait_for(asyncio.to_thread(self._standing.ask), ANSWER_SECONDS * 2)
                return web.Response(text=judge(answer) + "\n")
            except (Unwell, TimeoutError) as error:
                return web.Response(status=503, text=f"{error or 'the server does not answer'}\n")

        return say

    async def _backup(self, request: web.Request) -> web.StreamResponse:
        """The server's files, as mbstream; cut off without an end if the copy did not come about."""
        # One at a time: the next one waits.
        async with self._busy:
            with tempfile.TemporaryDirectory(prefix="mysql-backup-") as folder:
                command = [
                    "mariadb-backup", "--backup", "--stream=mbstream", f"--user={self._config.user}",
                    f"--socket={self._config.socket}", f"--target-dir={folder}",
                ]  # fmt: skip
                process = await asyncio.create_subprocess_exec(
                    *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=folder
                )
                return await self._stream(request, process)

    async def _stream(self, request: web.Request, process: asyncio.subprocess.Process) -> web.StreamResponse:
        assert process.stdout is not None
        assert process.stderr is not None
        words = asyncio.create_task(_last_words(process.stderr))
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        try:
            await response.prepare(request)
            while chunk := await process.stdout.read(CHUNK):
                await response.write(chunk)
            if (code := await process.wait()) != 0:
                log.error("copy failed", extra=fields(code=code, words=await words))
                # No last chunk: the receiver must not take it for whole.
                if request.transport is not None:
                    request.transport.abort()
                return response
            await response.write_eof()
            return response
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await words


async def _last_words(stream: asyncio.StreamReader) -> str:
    last = b""
    while chunk := await stream.read(CHUNK):
        last = (last + chunk)[-800:]
    return last.decode(errors="replace")


def main() -> None:
    service_main("mysql-agent", MysqlAgentConfig, MysqlAgent)
