"""Pushes events to subscribers as they happen (server-sent events). Port 32672.

The last events of each contest are kept in memory for who reconnects with Last-Event-ID; a restart forgets
them. The ids of another process's life are recognised, and answered with all that is kept.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict, deque
from typing import Any

import redis.asyncio
import redis.exceptions
from aiohttp import web

from .checks import NAME, NUMBER, matching, only_keys
from .config import BroadcasterConfig, Events, Redis
from .health import Unwell
from .httpd import ApiError, json_object, roles
from .schema import ConfigError
from .service import Service, service_main
from .tls import upstream_context

RULES = {
    "/broadcast/": roles("grader"),
    "/events/": roles("frontend"),
    "/health": roles("grader", "frontend", "monitoring", "broadcaster"),
    "/metrics": roles("grader", "frontend", "monitoring", "broadcaster"),
}
RETRY = b"retry: 1000\n"  # milliseconds after which a browser comes back when its stream has ended
EVERYTHING = ""  # the channel of subscribers that name no contest


class Subscriber:
    """Messages on their way to one client; None ends the stream."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.open = True

    def put(self, message: bytes) -> bool:
        """False when the client is too far behind: its stream ends, and it may reconnect and catch up."""
        if self._queue.qsize() >= self._size:
            self.end()
            return False
        self._queue.put_nowait(message)
        return True

    def end(self) -> None:
        if self.open:
            self.open = False
            self._queue.put_nowait(None)

    async def get(self) -> bytes | None:
        return await self._queue.get()


class Channels:
    """History and subscribers of each contest. Not thread-safe: for the event loop only."""

    def __init__(self, limits: Events) -> None:
        self._limits = limits
        self._life = secrets.token_hex(4)
        self._number = 0
        self._history: OrderedDict[str, deque[tuple[int, bytes]]] = OrderedDict()
        self._subscribers: dict[str, set[Subscriber]] = {}
        self.dropped = 0

    @property
    def subscribers(self) -> int:
        return sum(map(len, self._subscribers.values()))

    def publish(self, contest: str | None, event: str, data: Any) -> int:
        """Keep and deliver; returns to how many. Without a contest only those who asked for everything get
        it.
        """
        self._number += 1
        payload = json.dumps(data, separators=(",", ":"))
        message = f"id: {self._life}-{self._number}\nevent: {event}\ndata: {payload}\n\n".encode()
        delivered = 0
        for channel in {contest or EVERYTHING, EVERYTHING}:
            self._keep(channel, message)
            for subscriber in list(self._subscribers.get(channel, ())):
                if subscriber.put(message):
                    delivered += 1
                else:
                    self.dropped += 1
                    self.leave(channel, subscriber)
        return delivered

    def _keep(self, channel: str, message: bytes) -> None:
        kept = self._history.setdefault(channel, deque(maxlen=self._limits.history))
        kept.append((self._number, message))
        self._history.move_to_end(channel)
        while len(self._history) > self._limits.max_contests:
            self._history.popitem(last=False)  # the contest that has been quiet for longest

    def join(self, channel: str, last_id: str | None) -> tuple[Subscriber, list[bytes]]:
        """A new subscriber, and what it has missed since `last_id` (None: it wants only what comes)."""
        subscriber = Subscriber(self._limits.subscriber_buffer)
        self._subscribers.setdefault(channel, set()).add(subscriber)
        if last_id is None:
            return subscriber, []
        life, _, number = last_id.partition("-")
        after = int(number) if life == self._life and NUMBER.fullmatch(number) else 0
        return subscriber, [message for at, message in self._history.get(channel, ()) if at > after]

    def leave(self, channel: str, subscriber: Subscriber) -> None:
        members = self._subscribers.get(channel, set())
        members.discard(subscriber)
        if not members:
            self._subscribers.pop(channel, None)

    def end(self) -> None:
        """End every stream."""
        for members in self._subscribers.values():
            for subscriber in members:
                subscriber.end()


class RedisProbe:
    """PING, for /health."""

    def __init__(self, config: Redis) -> None:
        options: dict[str, Any] = {}
        if config.tls is not None:
            try:
                upstream_context(config.tls)
            except ConfigError as error:
                raise ConfigError(f"redis.tls: {error}") from None
            options = {
                "ssl": True,
                "ssl_ca_certs": str(config.tls.ca),
                "ssl_certfile": str(config.tls.certificate) if config.tls.certificate else None,
                "ssl_keyfile": str(config.tls.key) if config.tls.key else None,
                "ssl_check_hostname": config.tls.verify_hostname,
            }
        self._client = redis.asyncio.Redis(
            host=config.host,
            port=config.port,
            username=config.user,
            password=config.password.reveal() or None,
            socket_timeout=config.timeout_seconds,
            socket_connect_timeout=config.timeout_seconds,
            **options,
        )

    async def check(self) -> None:
        """Raises Unwell."""
        try:
            await self._ping()
        except (redis.exceptions.RedisError, OSError):
            # After a failover the first thing heard on the old connection is its end.
            try:
                await self._ping()
            except (redis.exceptions.RedisError, OSError) as error:
                raise Unwell(str(error) or type(error).__name__) from None

    async def _ping(self) -> None:
        # Not `ping()`, whose declared type differs between the client's versions.
        await self._client.execute_command("PING")  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._client.connection_pool.disconnect()


class Broadcaster(Service):
    def __init__(self, config: BroadcasterConfig) -> None:
        super().__init__("broadcaster", config)
        self._channels = Channels(config.events)
        self._ping_seconds = config.events.ping_seconds
        self._redis: RedisProbe | None = None
        if config.redis is not None:
            self._redis = RedisProbe(config.redis)
            self.health.add("redis", self._redis.check, required=config.redis.required)
        self._messages = self.metrics.counter("broadcaster_messages", "Events taken from the grader.")
        self.metrics.gauge("broadcaster_subscribers", "Open event streams.").set_function(
            lambda: self._channels.subscribers
        )
        self.metrics.gauge("broadcaster_subscribers_dropped", "Streams ended because they lagged.").set_function(
            lambda: self._channels.dropped
        )
        app = self.serve(config.listen, RULES)
        app.router.add_post("/broadcast/", self._broadcast)
        app.router.add_get("/events/", self._events)

    async def opened(self) -> None:
        await self.health.report()

    async def closing(self) -> None:
        self._channels.end()

    async def closed(self) -> None:
        if self._redis is not None:
            await self._redis.close()

    async def _broadcast(self, request: web.Request) -> web.Response:
        data = await json_object(request)
        only_keys(data, "contest", "event", "data")
        contest = matching(data, "contest", NAME) if data.get("contest") is not None else None
        event = matching(data, "event", NAME)
        if "data" not in data:
            raise ApiError(400, "data: required, but missing")
        self._messages.inc()
        delivered = self._channels.publish(contest, event, data["data"])
        return web.json_response({"status": "ok", "delivered": delivered})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        channel = matching(request.query, "contest", NAME) if "contest" in request.query else EVERYTHING
        subscriber, missed = self._channels.join(channel, request.headers.get("Last-Event-ID"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        try:
            await response.prepare(request)
            await response.write(RETRY + b": connected\n\n" + b"".join(missed))
            if self.stopping.is_set():
                return response
            while True:
                try:
                    message = await asyncio.wait_for(subscriber.get(), self._ping_seconds)
                except TimeoutError:
                    message = b": ping\n\n"  # keeps proxies from closing an idle stream, and finds the dead ones
                if message is None:
                    return response
                await response.write(message)
        except OSError:  # the client has gone, which is how most streams end
            return response
        finally:
            self._channels.leave(channel, subscriber)


def main() -> None:
    service_main("broadcaster", BroadcasterConfig, Broadcaster)
