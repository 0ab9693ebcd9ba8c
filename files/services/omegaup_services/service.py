"""The life of an HTTPS service's process: start, READY, reload on SIGHUP, graceful stop on SIGTERM, exit
status.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from . import __version__, sdnotify
from .config import Listen, Log, ServiceConfig, load_file
from .health import Health
from .httpd import Rules, add_standard_routes, make_app
from .listening import Listener
from .logs import fields, setup
from .metrics import Metrics
from .schema import ConfigError
from .tls import Material

log = logging.getLogger(__name__)

EX_CONFIG = 78  # sysexits.h: a restart would not help; units say RestartPreventExitStatus=78
C = TypeVar("C")


class Service:
    """One HTTPS service. Subclasses add applications with `serve` and override the hooks `opened` and
    `closed`.
    """

    def __init__(self, name: str, config: ServiceConfig) -> None:
        """Raises ConfigError when the certificate files do not make a servable pair."""
        self.name = name
        self.tls = Material(config.tls)
        self.metrics = Metrics(name)
        self.metrics.not_after.set(self.tls.pair.not_after)
        self.health = Health(self.metrics)
        self.stopping = asyncio.Event()
        self._shutdown_seconds = config.shutdown_seconds
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, listen: Listen, rules: Rules, max_body_bytes: int = 1024 * 1024) -> web.Application:
        """An application to be served at `listen`, with /health and /metrics; the caller adds its routes."""
        app = make_app(rules, self.metrics, max_body_bytes)
        add_standard_routes(app, self.health, self.metrics, self.stopping)
        self._listeners.append(Listener(listen, app))
        return app

    @property
    def ports(self) -> list[int]:
        """Bound ports, in the order of `serve`."""
        return [listener.port for listener in self._listeners]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the service; it is cancelled at stop, and its failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work ended", exc_info=error)

    async def opened(self) -> None:
        """Called when listening, before READY: try dependencies, begin background work. Must not raise for an
        absent dependency: /health tells of it."""

    async def closing(self) -> None:
        """Called at stop, before requests in flight are waited for: end long polls and streams."""

    async def closed(self) -> None:
        """Called last, when no request is in flight."""

    async def start(self) -> None:
        """Bind, listen, try dependencies. Raises OSError if an address cannot be bound."""
        for listener in self._listeners:
            await listener.start(self.tls.server)
        await self.opened()

    async def reload(self) -> bool:
        """Serve the certificate files as they are now. False: they are unusable, logged, the old pair goes
        on.
        """
        try:
            self.tls.reload()
        except ConfigError as error:
            log.error("reload refused, still serving the old certificate", extra=fields(error=str(error)))
            self.metrics.reloads.labels("refused").inc()
            return False
        for listener in self._listeners:
            listener.replace_context(self.tls.server)
        self.metrics.not_after.set(self.tls.pair.not_after)
        self.metrics.reloads.labels("done").inc()
        log.info("reloaded", extra=fields(serial=self.tls.pair.serial))
        return True

    async def stop(self) -> None:
        """Stop listening, end what is in flight within the grace, release everything. May be called once."""
        self.stopping.set()
        for listener in self._listeners:
            listener.close()
        await self.closing()
        await asyncio.gather(*(listener.finish(self._shutdown_seconds) for listener in self._listeners))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.closed()

    def _status(self) -> str:
        return f"listening on {', '.join(map(str, self.ports))}; certificate {self.tls.pair.serial}"

    async def run(self) -> None:
        """Start, tell systemd, and serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        hangup = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        await self.start()
        sdnotify.ready(self._status())
        log.info("ready", extra=fields(ports=self.ports, serial=self.tls.pair.serial))
        self.spawn(self._reload_on(hangup))
        self.spawn(_feed_watchdog())
        await end.wait()
        sdnotify.stopping()
        log.info("stopping")
        await self.stop()
        log.info("stopped")

    async def _reload_on(self, hangup: asyncio.Event) -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            sdnotify.reloading()
            done = await self.reload()
            sdnotify.ready(self._status() if done else f"{self._status()}; last reload refused, see the log")


async def _feed_watchdog() -> None:
    # From the event loop, so that a loop that is stuck starves the watchdog and is restarted.
    interval = sdnotify.watchdog_interval()
    while interval is not None:
        sdnotify.watchdog()
        await asyncio.sleep(interval)


def arguments(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"omegaup-{name}", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON configuration file")
    parser.add_argument("--check", action="store_true", help="validate the configuration and its files, then exit")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args()


def main(name: str, config_class: type[C], get_log: Callable[[C], Log], run: Callable[[C, bool], None]) -> None:
    """A console script's whole body. `run(config, check_only)` may raise ConfigError or OSError.

    Exit status: 0 after SIGTERM or a successful --check; 78 for the configuration; 1 for the rest. Either
    error is one line on standard error.
    """
    options = arguments(name)
    try:
        config = load_file(config_class, options.config)
        setup(name, get_log(config))
        run(config, options.check)
    except ConfigError as error:
        _die(name, str(error), EX_CONFIG)
    except OSError as error:
        _die(name, error.strerror or str(error), 1)
    sys.exit(0)


def _die(name: str, message: str, status: int) -> None:
    print(f"omegaup-{name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def service_main(name: str, config_class: type[C], factory: Callable[[C], Service]) -> None:
    """`main` for an HTTPS service; the factory is called inside the event loop."""

    async def serve(config: C, check_only: bool) -> None:
        service = factory(config)
        if not check_only:
            await service.run()

    def run(config: C, check_only: bool) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(config, check_only))

    main(name, config_class, lambda config: getattr(config, "log"), run)  # noqa: B009 - C is any config class
