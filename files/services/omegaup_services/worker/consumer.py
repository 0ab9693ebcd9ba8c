"""A consumer that acknowledges only what is done, and comes back when the broker does.

It declares nothing: exchange, queue and dead letters are the deployment's. A message is in one of three
cases: handled (acknowledged), Invalid (rejected without requeueing, so that the broker dead-letters it), or
NotNow (held, and tried again with growing waits, while heartbeats go on; requeueing would use up its delivery
limit).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped]

from ..config import Backoff, Rabbitmq
from ..links import Delays
from ..logs import fields
from ..tls import upstream_context

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
BLOCKED_SECONDS = 300.0


class Invalid(Exception):
    """The message can never be handled; the text says why."""


class NotNow(Exception):
    """Something the message needs is away; the text says what."""


class Consumer:
    """`handle(body)` returns when the message is done, or raises Invalid or NotNow. For one thread."""

    def __init__(
        self,
        config: Rabbitmq,
        queue: str,
        handle: Callable[[bytes], None],
        *,
        prefetch: int = 10,
        backoff: Backoff,
        on_consuming: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_consuming` is called at each (re)start of consumption, `on_tick` about every second in any
        state, `on_message` with what became of a message: done, rejected, failed (by a bug of ours) or waits.

        Raises ConfigError when the TLS files are unusable.
        """
        self._config = config
        self._queue = queue
        self._handle = handle
        self._prefetch = prefetch
        self._backoff = backoff
        self._on_consuming = on_consuming
        self._on_tick = on_tick
        self._on_message = on_message
        self._stop = threading.Event()
        self._reconnect = threading.Event()
        self.consuming = False
        self.last_error = "not connected yet"
        self._parameters()

    def stop(self) -> None:
        """Finish the message in hand and return from `run`. From any thread or signal handler."""
        self._stop.set()

    def reconnect(self) -> None:
        """Connect anew after the message in hand, with the certificate files as they are then."""
        self._reconnect.set()

    def run(self) -> None:
        """Consume until `stop`."""
        delays = Delays(self._backoff)
        while not self._stop.is_set():
            self._reconnect.clear()
            try:
                self._session(delays)
                continue
            except (pika.exceptions.AMQPError, OSError) as error:
                self.last_error = _words(error)
            finally:
                self.consuming = False
            wait = delays.next()
            log.warning("broker away", extra=fields(queue=self._queue, error=self.last_error, retry_in=round(wait, 1)))
            self._idle(wait)

    def _parameters(self) -> pika.ConnectionParameters:
        config = self._config
        tls = None
        if config.tls is not None:
            tls = pika.SSLOptions(upstream_context(config.tls), config.host)
        return pika.ConnectionParameters(
            host=config.host,
            port=config.port,
            virtual_host=config.virtual_host,
            credentials=pika.PlainCredentials(config.user, config.password.reveal(), erase_on_connect=True),
            heartbeat=config.heartbeat_seconds,
            socket_timeout=config.timeout_seconds,
            stack_timeout=config.timeout_seconds,
            blocked_connection_timeout=BLOCKED_SECONDS,
            connection_attempts=1,
            ssl_options=tls,
            client_properties={"connection_name": f"omegaup-worker {self._queue}"},
        )

    def _session(self, delays: Delays) -> None:
        connection = pika.BlockingConnection(self._parameters())
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=self._prefetch)
            for method, _, body in channel.consume(self._queue, inactivity_timeout=TICK_SECONDS):
                if not self.consuming:
                    self.consuming = True
                    delays.reset()
                    self._on_consuming()
                if self._stop.is_set() or self._reconnect.is_set():
                    break  # closing the channel returns what is not acknowledged, this message included
                self._on_tick()
                if method is not None:
                    self._one(channel, method.delivery_tag, body)
            else:
                raise pika.exceptions.ConsumerCancelled("the broker cancelled the consumer (queue deleted or moved)")
        finally:
            if connection.is_open:
                connection.close()

    def _one(self, channel: BlockingChannel, tag: int, body: bytes) -> None:
        delays = Delays(self._backoff)
        while True:
            try:
                self._handle(body)
            except NotNow as error:
                wait = delays.next()
                self._on_message("waits")
                log.warning(
                    "message waits",
                    extra=fields(queue=self._queue, reason=str(error), retry_in=round(wait, 1)),
                )
                if not self._hold(channel, wait):
                    channel.basic_nack(tag, requeue=True)
                    return
                continue
            except Invalid as error:
                log.error("message rejected", extra=fields(queue=self._queue, reason=str(error)))
                self._on_message("rejected")
                channel.basic_reject(tag, requeue=False)
                return
            except Exception:
                # Our own bug. Dead-lettered it is kept for after the repair, and does not block the queue.
                log.exception("message rejected, handler failed", extra=fields(queue=self._queue))
                self._on_message("failed")
                channel.basic_reject(tag, requeue=False)
                return
            channel.basic_ack(tag)
            self._on_message("done")
            return

    def _hold(self, channel: BlockingChannel, seconds: float) -> bool:
        """Keep the connection alive meanwhile. False when asked to stop."""
        while seconds > 0:
            if self._stop.is_set():
                return False
            self._on_tick()
            channel.connection.sleep(min(seconds, TICK_SECONDS))
            seconds -= TICK_SECONDS
        return not self._stop.is_set()

    def _idle(self, seconds: float) -> None:
        while seconds > 0 and not self._stop.wait(min(seconds, TICK_SECONDS)):
            self._on_tick()
            seconds -= TICK_SECONDS


def _words(error: Exception) -> str:
    # pika nests the causes of a failed connection, and many of its errors have no text at all.
    inner = [word for argument in error.args if (word := str(getattr(argument, "exception", argument)))]
    return f"{type(error).__name__}: {', '.join(inner)}" if inner else type(error).__name__
