"""Where a run stands: all that changes while it trains, but for the tensors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class State:
    """Counters and history of a run, saved with every checkpoint.

    Arguments:
        epoch: epochs done, evaluated and recorded.
        step: steps done of the next epoch.
        total_steps: optimizer steps done in all.
        loss_sum: sum of the losses of this epoch's steps.
        images: pictures seen in this epoch.
        hits: those whose class had the highest score, in tasks of one class a picture.
        judged: pictures of a known class among them, hit or missed.
        seconds: time spent in this epoch's steps.
        waited: seconds of these in which the next batch was not ready.
        history: one line an epoch.
        best_epoch: the epoch of the best weights, from 1; 0 before the first.
        best_value: what it was chosen by.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    loss_sum: float = 0.0
    images: int = 0
    hits: int = 0
    judged: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def add_step(self, loss: float, images: int, seconds: float, waited: float = 0.0) -> None:
        """Count a step; `waited` of its seconds were spent waiting for the batch."""
        self.step += 1
        self.total_steps += 1
        self.loss_sum += loss
        self.images += images
        self.seconds += seconds
        self.waited += waited

    def add_hits(self, hits: int, judged: int) -> None:
        """Count pictures whose class had the highest score, and those that were judged."""
        self.hits += hits
        self.judged += judged

    def end_epoch(self, line: dict[str, Any]) -> None:
        """Record an epoch and start counting the next."""
        self.history.append(line)
        self.epoch += 1
        self.step, self.loss_sum, self.images, self.seconds, self.waited = 0, 0.0, 0, 0.0, 0.0
        self.hits, self.judged = 0, 0
