"""Progress of long work: a bar with rate and time left on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self, TypeVar

T = TypeVar("T")
log = logging.getLogger("manyhot.progress")

LOG_EVERY_SECONDS = 15.0


class Bar(Protocol):
    """What long work tells about itself."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is a short text beside the bar."""


class _Terminal:
    def __init__(self, total: int, what: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._unit = unit
        self._start = time.monotonic()
        self._done = 0
        self._task = self._progress.add_task(what, total=total, rate="", note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        rate = f"{self._done / max(time.monotonic() - self._start, 1e-9):.0f} {self._unit}/s"
        self._progress.update(self._task, advance=count, rate=rate, note=note)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, total: int, what: str, unit: str) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._start = self._last = time.monotonic()
        self._done = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < LOG_EVERY_SECONDS or not 0 < self._done < self._total:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        log.info(
            "%s: %d of %d, %.1f %s/s, %.0f s left%s",
            self._what, self._done, self._total, rate, self._unit, left, f", {note}" if note else "",
        )  # fmt: skip


@contextmanager
def progress(total: int, what: str, unit: str = "images") -> Iterator[Bar]:
    """A bar over `total` steps; a log line every 15 seconds elsewhere."""
    if sys.stderr.isatty() and not log.disabled:
        with _Terminal(total, what, unit) as bar:
            yield bar
    else:
        yield _Lines(total, what, unit)


def track(items: Iterable[T], total: int, what: str, unit: str = "images") -> Iterator[T]:
    """Iterate over `items` under a bar."""
    with progress(total, what, unit) as bar:
        for item in items:
            yield item
            bar.advance()
