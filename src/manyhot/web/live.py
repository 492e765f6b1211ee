"""How a run goes while it trains: read from its folder, so it survives the run's end and its restart."""

from __future__ import annotations

import json
import time
from typing import Any

from manyhot.recipe import load_recipe
from manyhot.runs import Run


class Live:
    """Looks at a run folder; writes nothing into it, and never touches its lock.

    Arguments:
        run: the run, training or not.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def state(self) -> dict[str, Any]:
        """The lines of history.jsonl so far, the epochs planned, and how many seconds ago the run last wrote."""
        try:
            history = self._run.read_history()
        except (OSError, json.JSONDecodeError):
            history = []
        return {
            "history": history,
            "epochs": load_recipe(str(self._run.recipe)).training.epochs,
            "quiet": self._quiet(),
        }

    def _quiet(self) -> float | None:
        written = []
        for path in (self._run.log, self._run.history, self._run.last):
            try:
                written.append(path.stat().st_mtime)
            except OSError:
                continue
        return round(max(0.0, time.time() - max(written)), 1) if written else None
