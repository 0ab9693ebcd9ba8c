"""HTTPS with mutual TLS on aiohttp: who may call which route, and errors as JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from . import strict
from .health import Health
from .listening import Handler
from .logs import fields
from .metrics import CONTENT_TYPE, Metrics
from .tls import peer_name, peer_roles

log = logging.getLogger(__name__)

Rules = Mapping[str, frozenset[str]]  # prefix of a route's pattern -> roles that may call it

BODY_SECONDS = 60.0
"""Within which the whole body of a request has to come."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
"""Told apart in the figures; whatever else a client calls its method is counted as one."""


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


async def body(request: web.Request) -> bytes:
    """The request's whole body. Raises ApiError 408 when it does not come."""
    try:
        return await asyncio.wait_for(request.read(), BODY_SECONDS)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} s") from None


async def json_object(request: web.Request) -> dict[str, Any]:
    """The request's body as a JSON object. Raises ApiError 400, 408."""
    sent = await body(request)
    try:
        data = strict.loads(sent)
    except ValueError:
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
            answered = error_response(error.code, error.message)
            if error.code in (403, 408):
                # Whoever may not ask holds no connection; what is left of a body is not waited for.
                answered.force_close()
            return answered
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
        method = request.method if request.method in METHODS else "other"
        metrics.requests.labels(route, method, str(response.status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        level = logging.WARNING if response.status in (403, 500) else logging.DEBUG
        log.log(
            level,
            "request",
            extra=fields(
                method=method,
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
