"""Listening sockets: who connects has to ask for something soon, and no address has more than its share.

A connection costs most while it is new (TLS and its buffers, nothing said yet), and asyncio's own server makes as many
at once as anybody likes. Here each address has a number of turns: who opens a thousand connections and says nothing
waits for himself alone. Certificates are replaced in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .config import Listen
from .logs import fields

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HANDSHAKE_SECONDS = 10.0
FIRST_SECONDS = 20.0
"""From being accepted, handshake included, until the whole head of the first request; also the wait for a turn."""
KEEPALIVE_SECONDS = 75.0
BACKLOG = 512
AT_ONCE = 64
"""New connections of one address that are worked at; more of them wait."""
AT_MOST = 2000
"""Connections of one address, those that wait included; one more is closed at once."""
LAST_SECONDS = 1.0
"""At a stop: for those who were accepted and have asked for nothing yet."""
TURN = 64
"""Connections that are accepted before others have their turn."""
EXHAUSTED_SECONDS = 1.0
"""Pause when the process may open no more files."""

# asyncio's TLS reads into a buffer of its own for each connection, 256 KiB, whatever it is used for. A record has 16.
sslproto.SSLProtocol.max_size = 32 * 1024


class _Malformed(logging.Filter):
    """A request that makes no sense is one line of the journal, not a traceback: who sends thousands would have the
    journal's bound cut off everybody else's.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            words = (error.message or type(error).__name__).partition("\n")[0]
            record.msg, record.args = f"malformed request: {words[:100]!r}", ()
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


logging.getLogger("aiohttp.server").addFilter(_Malformed())


@dataclass(eq=False)
class Guest:
    """A connection: whose it is, and whether it has asked for something, or ended."""

    address: str
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class _Guests:
    """All connections of one listener, by the protocol that serves them, and how many each address has."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._served: dict[Any, Guest] = {}

    def enter(self, address: str) -> Guest | None:
        """None: this address has as many as it may have."""
        if self._open[address] >= AT_MOST:
            return None
        self._open[address] += 1
        return Guest(address)

    def turn(self, guest: Guest) -> asyncio.Semaphore:
        return self._turns.setdefault(guest.address, asyncio.Semaphore(AT_ONCE))

    def serve(self, handler: Any, guest: Guest) -> None:
        self._served[handler] = guest

    def settle(self, handler: Any) -> None:
        """It has asked for something."""
        if handler in self._served:
            self._served[handler].settled.set()

    def end(self, handler: Any) -> None:
        """Its connection is no more."""
        guest = self._served.pop(handler, None)
        if guest is not None:
            guest.settled.set()
            self.leave(guest)

    def leave(self, guest: Guest) -> None:
        self._open[guest.address] -= 1
        if not self._open[guest.address]:
            del self._open[guest.address]
            self._turns.pop(guest.address, None)


class Listener:
    """One listening socket and the application behind it, whose TLS context can be replaced while it listens."""

    def __init__(self, listen: Listen, app: web.Application) -> None:
        self._listen = listen
        self._guests = _Guests()
        app.middlewares.insert(0, self._settle)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS)
        self._socket: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._new: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    @web.middleware
    async def _settle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._guests.settle(request.protocol)
        return await handler(request)

    @property
    def port(self) -> int:
        """The bound TCP port. Raises RuntimeError before `start`."""
        return int(self._bound().getsockname()[1])

    async def start(self, context: ssl.SSLContext | None) -> None:
        """Bind and listen; without a context, in plain HTTP. Raises OSError naming the address when it cannot be
        bound.
        """
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        lost = server.connection_lost

        def connection_lost(handler: Any, error: BaseException | None = None) -> None:
            lost(handler, error)
            self._guests.end(handler)

        server.connection_lost = connection_lost  # type: ignore[assignment, method-assign]
        host, port = self._listen.host, self._listen.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from None
        self._socket.setblocking(False)
        self._context = context
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def replace_context(self, context: ssl.SSLContext) -> None:
        """New handshakes use `context`; connections already made keep theirs, and no connection is refused."""
        self._context = context

    def close(self) -> None:
        """Stop accepting; requests in flight, and connections that were accepted, go on until `finish`."""
        if self._pause is not None:
            self._pause.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    async def finish(self, seconds: float) -> None:
        """Close idle connections, give requests in flight `seconds`, then cut them off."""
        if self._new:  # somebody who was accepted a moment ago has his answer
            await asyncio.wait(self._new, timeout=min(seconds, LAST_SECONDS))
        server = self._runner.server
        if server is not None:
            close_idle = getattr(server, "pre_shutdown", None)  # aiohttp >= 3.9; before, `shutdown` does it itself
            if close_idle is not None:
                close_idle()
            await server.shutdown(max(seconds, 0.1))
        new = list(self._new)
        for task in new:
            task.cancel()
        await asyncio.gather(*new, return_exceptions=True)
        await self._runner.cleanup()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(TURN):
            try:
                connection, address = self._bound().accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more files, or no memory: the queue of the kernel has them meanwhile
                log.error("cannot accept", extra=fields(error=str(error)))
                listening = self._bound().fileno()
                loop.remove_reader(listening)
                self._pause = loop.call_later(EXHAUSTED_SECONDS, loop.add_reader, listening, self._accept)
                return
            connection.setblocking(False)
            guest = self._guests.enter(str(address[0]))
            if guest is None:
                connection.close()
                continue
            task = loop.create_task(self._take(connection, guest))
            self._new.add(task)
            task.add_done_callback(self._new.discard)

    async def _take(self, connection: socket.socket, guest: Guest) -> None:
        """From being accepted to the first request."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FIRST_SECONDS
        server = self._runner.server
        assert server is not None
        served = False
        try:
            async with self._guests.turn(guest):
                if loop.time() > until:  # whoever opened it so long ago has gone, or holds all turns himself
                    return
                handler = server()
                seconds = HANDSHAKE_SECONDS if self._context is not None else None
                transport, _ = await loop.connect_accepted_socket(
                    lambda: handler, connection, ssl=self._context, ssl_handshake_timeout=seconds
                )
                served = True
                self._guests.serve(handler, guest)
                if handler.transport is None:  # it has ended already
                    self._guests.end(handler)
                try:
                    await asyncio.wait_for(guest.settled.wait(), max(until - loop.time(), 0.1))
                except TimeoutError:
                    transport.abort()
        except OSError:  # the handshake failed, or took too long
            pass
        finally:
            if not served:
                with contextlib.suppress(OSError):
                    connection.close()
                self._guests.leave(guest)

    def _bound(self) -> socket.socket:
        if self._socket is None:
            _not_listening()
        return self._socket


def _not_listening() -> NoReturn:
    raise RuntimeError("not listening")
