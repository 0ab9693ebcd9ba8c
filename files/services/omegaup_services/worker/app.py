"""`omegaup-worker`: READY when it consumes; SIGTERM finishes the message in hand; SIGHUP connects anew."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, start_http_server

from .. import sdnotify
from ..config import Listen, WorkerConfig
from ..logs import fields
from ..service import main as service_main
from .consumer import Consumer
from .handlers import handler_for

log = logging.getLogger(__name__)


class Watchdog:
    """Feeds systemd's watchdog when called, not more often than needed."""

    def __init__(self) -> None:
        self._interval = sdnotify.watchdog_interval()
        self._due = 0.0

    def __call__(self) -> None:
        if self._interval is not None and time.monotonic() >= self._due:
            sdnotify.watchdog()
            self._due = time.monotonic() + self._interval


class WorkerMetrics:
    """What a worker counts. It serves nobody, so its figures have a plain port of their own, on the loopback."""

    def __init__(self, queue: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.messages = Counter(
            "worker_messages", "What became of messages.", ["queue", "result"], registry=self.registry
        )
        for result in ("done", "rejected", "failed", "waits"):
            self.messages.labels(queue, result)
        self.consuming = Gauge("worker_consuming", "1 while it takes messages.", ["queue"], registry=self.registry)
        self._queue = queue

    def count(self, result: str) -> None:
        self.messages.labels(self._queue, result).inc()

    def serve(self, listen: Listen, consuming: Callable[[], bool]) -> None:
        """In a thread of its own. Raises OSError when it cannot listen there."""
        self.consuming.labels(self._queue).set_function(lambda: float(consuming()))
        try:
            start_http_server(listen.port, listen.host, self.registry)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {listen.host} port {listen.port}: {error.strerror}") from None


def run(config: WorkerConfig, check_only: bool) -> None:
    """Consume until SIGTERM or SIGINT."""
    metrics = WorkerMetrics(config.queue)

    def consuming() -> None:
        sdnotify.ready(f"consuming {config.queue}")
        log.info("consuming", extra=fields(queue=config.queue))

    consumer = Consumer(
        config.rabbitmq,
        config.queue,
        handler_for(config),
        prefetch=config.prefetch,
        dead_letters=config.dead_letters,
        backoff=config.backoff,
        on_consuming=consuming,
        on_tick=Watchdog(),
        on_message=metrics.count,
    )
    if check_only:
        return
    if config.metrics is not None:
        metrics.serve(config.metrics, lambda: consumer.consuming)

    def stop(_: int, __: FrameType | None) -> None:
        sdnotify.stopping()
        consumer.stop()

    def hangup(_: int, __: FrameType | None) -> None:
        sdnotify.reloading()
        consumer.reconnect()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, hangup)
    consumer.run()
    log.info("stopped")


def main() -> None:
    service_main("worker", WorkerConfig, lambda config: config.log, run)
