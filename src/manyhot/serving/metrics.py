"""Counts of the server for Prometheus, and the ASGI layer that counts requests."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from manyhot.http.visitors import App, Receive, Scope, Send

__all__ = ["CONTENT_TYPE", "Measured", "Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All counts of one server; their names and meanings are in docs/serving.md.

    Arguments:
        paths: the places that are counted each for itself; others are counted together.
    """

    def __init__(self, paths: frozenset[str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.paths = paths
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.model = Info("manyhot_model", "The model that is served.", registry=self.registry)
        self.requests = Counter("manyhot_requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "manyhot_request_seconds", "From the head of a request to the end of its answer.", ["path"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("manyhot_requests_in_flight", "Requests not answered yet.", registry=self.registry)
        self.pictures = Counter(
            "manyhot_pictures", "Pictures by what became of them.", ["outcome"], registry=self.registry
        )
        for outcome in ("scored", "refused", "dropped"):
            self.pictures.labels(outcome)
        self.batches = Histogram(
            "manyhot_batch_pictures", "Pictures that went through the model together.",
            buckets=_SIZES, registry=self.registry,
        )  # fmt: skip
        self.model_seconds = Counter(
            "manyhot_model_seconds", "Seconds in which the model was at work.", registry=self.registry
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def ran(self, size: int, seconds: float) -> None:
        """A batch went through the model."""
        self.batches.observe(size)
        self.model_seconds.inc(seconds)

    def dropped(self, number: int) -> None:
        """The askers of so many pictures had gone."""
        self.pictures.labels("dropped").inc(number)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """Counts requests, by place and status, and how long they take.

    Arguments:
        app: what answers.
        metrics: where it is counted.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.in_flight.dec()
            path = scope["path"] if scope["path"] in self.metrics.paths else "other"
            self.metrics.requests.labels(path, str(status or "gone")).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
