"""How long a network may wait for its pictures."""

from __future__ import annotations

import time

# Seconds, and the share of them that a network may wait: "under 3 %" is what a pixel store is for.
PATIENCE_SECONDS, PATIENCE_SHARE = 4.0, 0.03


class Patience:
    """Notes how much of its time a consumer waits, while it is entered; it is over where that is too much."""

    def __init__(self) -> None:
        self._seen = self._waited = 0.0
        self._last = 0.0

    def start(self) -> None:
        """From here on time counts."""
        self._last = time.perf_counter()

    def __enter__(self) -> None:
        self._asked = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        if self._seen > PATIENCE_SECONDS:  # what was long ago tells little
            self._seen, self._waited = self._seen / 2, self._waited / 2
        self._waited += now - self._asked
        self._seen += now - self._last
        self._last = now

    @property
    def is_over(self) -> bool:
        """Whether it waited for more than its share of at least half a window."""
        return self._seen > PATIENCE_SECONDS / 2 and self._waited > PATIENCE_SHARE * self._seen
