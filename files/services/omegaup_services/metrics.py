"""Prometheus metrics of one service, in a registry of its own, so that several can live in one process."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from . import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """What every service exposes: requests by route, the served certificate's end, reloads, unwell checks."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        info = Gauge("omegaup_service_info", "Always 1.", ["service", "version"], registry=self.registry)
        info.labels(service, __version__).set(1)
        self.requests = self.counter("omegaup_http_requests", "Requests answered.", "route", "method", "code")
        self.seconds = Histogram(
            "omegaup_http_request_seconds",
            "Time to answer, long polls included.",
            ["route"],
            registry=self.registry,
        )
        self.not_after = self.gauge("omegaup_certificate_not_after_seconds", "End of the served certificate (Unix).")
        self.reloads = self.counter("omegaup_reloads", "Reloads on SIGHUP.", "result")
        self.healthy = self.gauge("omegaup_check_ok", "1 if the part was well when last asked.", "check")

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter; `_total` is appended to its name in the exposition."""
        return Counter(name, text, labels, registry=self.registry)

    def counted(self, name: str, text: str, label: str, values: Iterable[str]) -> Counter:
        """A counter that has each value of its label from the start: a rate sees its first event."""
        counter = self.counter(name, text, label)
        for value in sorted(values):
            counter.labels(value)
        return counter

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def render(self) -> bytes:
        """The exposition as text, for /metrics."""
        return generate_latest(self.registry)
