"""`omegaup-worker`: READY when it consumes; SIGTERM finishes the message in hand; SIGHUP connects anew."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType

from .. import sdnotify
from ..config import WorkerConfig
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


def run(config: WorkerConfig, check_only: bool) -> None:
    """Consume until SIGTERM or SIGINT."""

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
    )
    if check_only:
        return

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
