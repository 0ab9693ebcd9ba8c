"""A consumer that acknowledges only what is done, and comes back when the broker does.

It declares nothing: exchange, queue and dead letters are the deployment's. A message is in one of three
cases: handled (acknowledged), Invalid (published to the dead letters with the reason in its headers, then
acknowledged), or NotNow (held, and tried again with growing waits, while heartbeats go on; requeueing would use up its
delivery limit).

A quorum queue counts a delivery against each message that a consumer had when it died or closed, the prefetched ones as
well. So that only what kills its consumer comes to the limit, and not what was next to it: a session takes what has
been delivered before one by one, without any prefetch, and consumers whose messages take longer than some milliseconds
have a prefetch of 1 altogether.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped]

from ..config import Backoff, Rabbitmq
from ..links import Delays
from ..logs import fields
from ..tls import upstream_context

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
BREATH_SECONDS = 0.5
REASON_HEADER, QUEUE_HEADER, TIME_HEADER = "x-reason", "x-rejected-by", "x-rejected-at"
REASON_LENGTH = 500
PERSISTENT = 2
BLOCKED_SECONDS = 300.0


class Invalid(Exception):
    """The message can never be handled; the text says why."""


class NotNow(Exception):
    """Something the message needs is away; the text says what."""


class _Stopping(Exception):
    """Work was broken off because the process is to end."""


Handle = Callable[[bytes, Callable[[], None]], None]
"""`handle(body, breathe)` returns when the message is done, or raises Invalid or NotNow.

Work that may take longer than some seconds calls `breathe` now and then: the broker and systemd hear of us, and a
process that is to end breaks the work off (it raises); so only where what is done so far may be done again.
"""


def connection_parameters(config: Rabbitmq, name: str) -> pika.ConnectionParameters:
    """`name`: as the broker shows the connection. Raises ConfigError when the TLS files are unusable."""
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
        client_properties={"connection_name": name},
    )


class Consumer:
    """For one thread."""

    def __init__(
        self,
        config: Rabbitmq,
        queue: str,
        handle: Handle,
        *,
        prefetch: int = 10,
        backoff: Backoff,
        dead_letters: str = "dead-letters",
        on_consuming: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`prefetch`: more than 1 only where a message takes milliseconds. `dead_letters`: the exchange that takes
        rejected messages, by the name of their queue. `on_consuming` is called at each (re)start of consumption,
        `on_tick` about every second in any state, `on_message` with what became of a message: done, rejected, failed
        (by a bug of ours) or waits.

        Raises ConfigError when the TLS files are unusable.
        """
        self._config = config
        self._queue = queue
        self._handle = handle
        self._prefetch = prefetch
        self._backoff = backoff
        self._dead_letters = dead_letters
        self._on_consuming = on_consuming
        self._on_tick = on_tick
        self._on_message = on_message
        self._stop = threading.Event()
        self._reconnect = threading.Event()
        self.consuming = False
        self.last_error = "not connected yet"
        self._name = f"omegaup-worker {queue}"
        connection_parameters(config, self._name)

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

    def _session(self, delays: Delays) -> None:
        connection = pika.BlockingConnection(connection_parameters(self._config, self._name))
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=self._prefetch)
            if self._prefetch > 1:
                self._suspects(channel, delays)
                if self._ending():
                    return
            for method, properties, body in channel.consume(self._queue, inactivity_timeout=TICK_SECONDS):
                self._began(delays)
                if self._ending():
                    break  # closing the channel returns what is not acknowledged, this message included
                self._on_tick()
                if method is not None:
                    self._one(channel, method.delivery_tag, properties, body)
            else:
                raise pika.exceptions.ConsumerCancelled("the broker cancelled the consumer (queue deleted or moved)")
        finally:
            if connection.is_open:
                connection.close()

    def _suspects(self, channel: BlockingChannel, delays: Delays) -> None:
        """Take one message at a time until there is one that was never delivered before, or none. What a consumer has
        returned is at the head of a quorum queue.
        """
        while not self._ending():
            method, properties, body = channel.basic_get(self._queue)
            self._began(delays)
            self._on_tick()
            if method is None:
                return
            self._one(channel, method.delivery_tag, properties, body)
            if not method.redelivered:
                return

    def _began(self, delays: Delays) -> None:
        if not self.consuming:
            self.consuming = True
            delays.reset()
            self._on_consuming()

    def _ending(self) -> bool:
        return self._stop.is_set() or self._reconnect.is_set()

    def _one(self, channel: BlockingChannel, tag: int, properties: Any, body: bytes) -> None:
        delays = Delays(self._backoff)
        while True:
            try:
                self._handle(body, self._breathing(channel))
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
            except _Stopping:
                channel.basic_nack(tag, requeue=True)
                return
            except Invalid as error:
                log.error("message rejected", extra=fields(queue=self._queue, reason=str(error)))
                self._on_message("rejected")
                self._reject(channel, tag, properties, body, str(error))
                return
            except pika.exceptions.AMQPError:
                raise  # the broker has gone while the handler breathed: the message will come again
            except Exception as error:
                # Our own bug. Dead-lettered it is kept for after the repair, and does not block the queue.
                log.exception("message rejected, handler failed", extra=fields(queue=self._queue))
                self._on_message("failed")
                self._reject(channel, tag, properties, body, f"handler failed: {type(error).__name__}: {error}")
                return
            channel.basic_ack(tag)
            self._on_message("done")
            return

    def _breathing(self, channel: BlockingChannel) -> Callable[[], None]:
        last = time.monotonic()

        def breathe() -> None:
            nonlocal last
            if self._stop.is_set():
                raise _Stopping
            if time.monotonic() - last >= BREATH_SECONDS:
                self._on_tick()
                channel.connection.process_data_events(0)
                last = time.monotonic()

        return breathe

    def _reject(self, channel: BlockingChannel, tag: int, properties: Any, body: bytes, reason: str) -> None:
        """To the dead letters, with the reason. The broker itself would put it there without; so it does if it does
        not take ours. A crash in between leaves it there twice, under one message id.
        """
        rejected = copy.copy(properties) if properties is not None else pika.BasicProperties()
        rejected.delivery_mode = PERSISTENT
        rejected.headers = {
            **(rejected.headers or {}),
            REASON_HEADER: reason[:REASON_LENGTH],
            QUEUE_HEADER: self._queue,
            TIME_HEADER: int(time.time()),
        }
        # A channel of its own: one that the broker closes, for want of a permission, would take the message along.
        try:
            aside = channel.connection.channel()
            aside.confirm_delivery()
            aside.basic_publish(self._dead_letters, self._queue, body, rejected, mandatory=True)
            aside.close()
        except (pika.exceptions.ChannelClosed, pika.exceptions.UnroutableError, pika.exceptions.NackError) as error:
            log.error("the dead letters refuse a message", extra=fields(queue=self._queue, error=_words(error)))
            channel.basic_reject(tag, requeue=False)
            return
        channel.basic_ack(tag)

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
