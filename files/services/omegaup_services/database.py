"""Connections to MariaDB or MySQL that come back after a failover.

A connection that has seen any error is closed, not reused: after a switchover the old primary answers
"read-only" (1290) or "killed" (1927, 1053) on a socket that looks alive, and behind a proxy only a new
connection finds the new primary. Work is a function of a connection, run in one transaction, and is tried
once more on a new connection; so it must be safe to run twice (a commit whose answer was lost).
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import pymysql
from pymysql.constants import CLIENT, CR

from .config import Mysql
from .health import Unwell
from .tls import insists, upstream_context

T = TypeVar("T")
Connection = Any  # pymysql.connections.Connection, generic in its cursor only in the stubs

# The value is at fault, not the connection, the schema or the server: trying again cannot help.
BadValue = pymysql.err.DataError


class DatabaseDown(Exception):
    """The database could not be reached, or does not do its work (read-only, table missing). Try later."""


class Preferring(pymysql.connections.Connection):
    """With TLS where the server offers it, in plain text where not. (PyMySQL by itself would do the one or the other,
    by its version.)
    """

    server_capabilities: int
    client_flag: int

    def _get_server_information(self) -> None:
        super()._get_server_information()  # type: ignore[misc] # not in the stubs
        if not self.server_capabilities & CLIENT.SSL:
            self._without_tls()

    def _without_tls(self) -> None:
        self.ssl = False
        self.client_flag &= ~CLIENT.SSL


class Insisting(Preferring):
    """Leaves a server that offers no TLS, before the user or anything else is said."""

    def _without_tls(self) -> None:
        raise pymysql.err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server offers no TLS, and has to")


class Session:
    """At most one connection, opened when needed. For one thread."""

    def __init__(self, config: Mysql, isolation: Literal["READ COMMITTED", "REPEATABLE READ"] | None = None) -> None:
        """`isolation`: of its transactions; None: as the server has it. Raises ConfigError when the TLS files are
        unusable.
        """
        self._config = config
        self._isolation = isolation
        self._connection: Connection | None = None
        self._context()

    def run(self, work: Callable[[Connection], T]) -> T:
        """`work` in a transaction. Raises DatabaseDown or BadValue."""
        try:
            return self._once(work)
        except BadValue:
            raise
        except (pymysql.err.Error, OSError):
            pass  # most often a connection that died while idle; a new one tells whether the server did
        try:
            return self._once(work)
        except BadValue:
            raise
        except (pymysql.err.Error, OSError) as error:
            raise DatabaseDown(_words(error)) from error

    def _once(self, work: Callable[[Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            result = work(self._connection)
            self._connection.commit()
        except BaseException:
            self.close()
            raise
        return result

    def _context(self) -> ssl.SSLContext | None:
        # Made anew for each connection, so that replaced certificate files are used without a restart.
        return upstream_context(self._config.tls) if self._config.tls is not None else None

    def _connect(self) -> Connection:
        config = self._config
        kind: Callable[..., Connection] = pymysql.connect
        if config.tls is not None:
            kind = Insisting if insists(config.tls) else Preferring
        return kind(
            host=config.host,
            port=config.port,
            user=config.user,
            password=config.password.reveal(),
            database=config.database,
            charset="utf8mb4",
            autocommit=False,
            init_command=f"SET SESSION TRANSACTION ISOLATION LEVEL {self._isolation}" if self._isolation else None,
            connect_timeout=max(1, round(config.timeout_seconds)),
            read_timeout=config.timeout_seconds,
            write_timeout=config.timeout_seconds,
            ssl=self._context(),
        )

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Without the farewell packet, which could wait on a dead peer.
            connection._force_close()


def check_writable(connection: Connection) -> None:
    """Raises Unwell on a read-only server, which answers SELECT 1 happily."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@global.read_only")
        row = cursor.fetchone()
    # MySQL answers 0/1; MariaDB 12 answers OFF/ON/NO_LOCK/...
    if row is not None and str(row[0]).upper() not in ("0", "OFF"):
        raise Unwell("the server is read-only")


class Pool:
    """Sessions for asyncio: one a thread, so that a slow server does not hold up the event loop."""

    def __init__(self, config: Mysql) -> None:
        self._config = config
        self._local = threading.local()
        self._sessions: list[Session] = []
        self._threads = ThreadPoolExecutor(config.pool_size, thread_name_prefix="mysql")
        # The check has a connection of its own: it must answer, and in time, when all others wait.
        self._probe_thread = ThreadPoolExecutor(1, thread_name_prefix="mysql-check")
        self._probe = Session(config)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """See `Session.run`. A cancelled caller does not undo work that has begun."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._in_thread, work)

    async def probe(self, check: Callable[[Connection], None]) -> None:
        """Run a check on the connection kept for it. Raises DatabaseDown, or what `check` raises."""
        await asyncio.get_running_loop().run_in_executor(self._probe_thread, self._probe.run, check)

    def _in_thread(self, work: Callable[[Connection], T]) -> T:
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = Session(self._config)
            self._sessions.append(session)
        return session.run(work)

    async def close(self) -> None:
        """Wait for work that has begun, then disconnect."""

        def shut() -> None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._probe_thread.shutdown(wait=True, cancel_futures=True)
            for session in (*self._sessions, self._probe):
                session.close()

        await asyncio.to_thread(shut)


def _words(error: Exception) -> str:
    # pymysql's errors are (code, message); the message names host and cause, never the password.
    if len(error.args) >= 2:
        return f"{error.args[1]} ({error.args[0]})"
    return str(error) or type(error).__name__
