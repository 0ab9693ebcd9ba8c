"""HTTPS with mutual TLS on aiohttp: who may call which route, errors as JSON, and certificates replaced in
flight.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from aiohttp import web

from .config import Listen
from .health import Health
from .logs import fields
from .metrics import CONTENT_TYPE, Metrics
from .tls import peer_name, peer_roles

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Rules = Mapping[str, frozenset[str]]  # prefix of a route's pattern -> roles that may call it

HANDSHAKE_SECONDS = 10.0
KEEPALIVE_SECONDS = 75.0
BACKLOG = 512


class ApiError(Exception):
    """A refusal with an HTTP status, sent as {"status": "error", "error": message}."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def error_response(code: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"status": "error", "error": message}, status=code, headers=headers)


def roles(*names: str) -> frozenset[str]:
    return frozenset(names)


async def json_object(request: web.Request) -> dict[str, Any]:
    """The request's body as a JSON object. Raises ApiError 400."""
    try:
        data = json.loads(await request.read())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body is not a JSON object")
    return data


def _peer(request: web.Request) -> Mapping[str, Any] | None:
    # None once the peer has gone, which then has no role either.
    certificate: Mapping[str, Any] | None = request.get_extra_info("peercert")
    return certificate


def _pattern(request: web.Request) -> str:
    """The matched route's own pattern ("/run/result/{id}"), never the path as sent: a path can be spelt in
    many ways.
    """
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _authorise(request: web.Request, rules: Rules) -> None:
    pattern = _pattern(request)
    if pattern:
        matching = [prefix for prefix in rules if pattern.startswith(prefix)]
        allowed = rules[max(matching, key=len)] if matching else frozenset()
    else:  # no such route: told only to those who may call some route
        allowed = frozenset().union(*rules.values())
    have = peer_roles(_peer(request))
    if have & allowed:
        return
    shown = ", ".join(sorted(have)) or "none"
    raise ApiError(403, f"role {shown} may not call {pattern or 'this'}")


def require_role(request: web.Request, *names: str) -> None:
    """For a method of a route that fewer roles may use than the route. Raises ApiError 403."""
    if not peer_roles(_peer(request)) & set(names):
        raise ApiError(403, f"only role {' or '.join(names)} may {request.method} this")


def make_app(rules: Rules, metrics: Metrics, max_body_bytes: int = 1024 * 1024) -> web.Application:
    """An application where each route needs a rule: without one nobody may call it. The longest prefix
    wins.
    """

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _authorise(request, rules)
            return await handler(request)
        except ApiError as error:
            return error_response(error.code, error.message)
        except web.HTTPException as error:  # aiohttp's own: 404, 405, 413
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return error_response(error.status, error.reason, allow)
        except Exception:
            log.exception("request failed", extra=fields(route=_pattern(request)))
            return error_response(500, "internal error")

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        peer = _peer(request)  # before the answer: it is gone with the connection
        response = await answer(request, handler)
        seconds = time.monotonic() - started
        route = _pattern(request) or "(none)"
        metrics.requests.labels(route, request.method, str(response.status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        level = logging.WARNING if response.status in (403, 500) else logging.DEBUG
        log.log(
            level,
            "request",
            extra=fields(
                method=request.method,
                route=route,
                code=response.status,
                milliseconds=round(seconds * 1000),
                peer=peer_name(peer),
                roles=",".join(sorted(peer_roles(peer))),
            ),
        )
        return response

    return web.Application(middlewares=[edge], client_max_size=max_body_bytes)


def add_standard_routes(app: web.Application, health: Health, metrics: Metrics, stopping: asyncio.Event) -> None:
    """GET /health and GET /metrics. While stopping, /health answers 503, so that a balancer looks
    elsewhere.
    """

    async def get_health(_: web.Request) -> web.Response:
        if stopping.is_set():
            return web.json_response({"status": "error", "checks": {"process": "stopping"}}, status=503)
        report = await health.report()
        return web.json_response({"status": report.status, "checks": dict(report.checks)}, status=report.code)

    async def get_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    for path in ("/health", "/health/"):
        app.router.add_get(path, get_health)
    app.router.add_get("/metrics", get_metrics)


class Listener:
    """One listening socket and the application behind it, whose TLS context can be replaced while it
    listens.
    """

    def __init__(self, listen: Listen, app: web.Application) -> None:
        self._listen = listen
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The bound TCP port. Raises RuntimeError before `start`."""
        return int(self._bound().getsockname()[1])

    async def start(self, context: ssl.SSLContext) -> None:
        """Bind and listen. Raises OSError naming the address when it cannot be bound."""
        await self._runner.setup()
        host, port = self._listen.host, self._listen.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from None
        self._server = await self._serve(context)

    async def replace_context(self, context: ssl.SSLContext) -> None:
        """New handshakes use `context`; connections already made keep theirs, and no connection is refused.

        asyncio binds a context to a server for life, so a second server is started on a duplicate of the same
        socket (one queue of waiting connections, two descriptors) before the first one stops accepting.
        """
        replacement = await self._serve(context)
        previous, self._server = self._server, replacement
        if previous is not None:
            await _retire(previous)  # closes its own duplicate only

    async def close(self) -> None:
        """Stop accepting; requests in flight go on until `finish`."""
        if self._server is not None:
            await _retire(self._server)
            self._server = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def finish(self, seconds: float) -> None:
        """Close idle connections, give requests in flight `seconds`, then cut them off."""
        server = self._runner.server
        if server is not None:
            close_idle = getattr(server, "pre_shutdown", None)  # aiohttp >= 3.9; before, `shutdown` does it itself
            if close_idle is not None:
                close_idle()
            await server.shutdown(max(seconds, 0.1))
        await self._runner.cleanup()

    async def _serve(self, context: ssl.SSLContext) -> asyncio.Server:
        assert self._runner.server is not None
        return await asyncio.get_running_loop().create_server(
            self._runner.server,
            sock=self._bound().dup(),
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            backlog=BACKLOG,
        )

    def _bound(self) -> socket.socket:
        if self._socket is None:
            _not_listening()
        return self._socket


async def _retire(server: asyncio.Server) -> None:
    """Close a server without dropping the connections that it has accepted this instant.

    asyncio accepts in one turn of the loop and attaches the connection to its server in the next; a server closed in
    between fails to take it, silently, and the client waits for ever.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    await asyncio.sleep(0)
    server.close()


def _not_listening() -> NoReturn:
    raise RuntimeError("not listening")
