"""Which box rule, at which threshold, fits the true boxes of a split best: the choice that a bundle keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from manyhot.localization.boxes import BoxRule
from manyhot.localization.finding import Refiner
from manyhot.localization.heat import relative
from manyhot.localization.looking import Sight
from manyhot.metrics.localization import best_iou, corloc
from manyhot.metrics.overlap import Boxes


class Choice(NamedTuple):
    """A box rule with the threshold chosen for it, and the CorLoc that it had where it was chosen."""

    rule: BoxRule
    corloc: float


class Chooser:
    """Tries every threshold of some rules on the same maps.

    Arguments:
        rules: those to choose among.
        objects: true boxes [K, 4] of each positive (row, class) pair.
        refiners: what is done to the boxes of every rule, one after the other.
    """

    def __init__(
        self, rules: Sequence[BoxRule], objects: dict[tuple[int, int], Boxes], refiners: Sequence[Refiner] = ()
    ) -> None:
        self._refiners = tuple(refiners)
        self._tried = [rule.at(threshold) for rule in rules for threshold in rule.candidates]
        self._objects = objects
        self._overlaps: list[list[float]] = [[] for _ in self._tried]

    def take(self, sight: Sight) -> None:
        """The boxes that every rule finds for the classes that are known to be in the picture."""
        for c, heat in zip(sight.classes, relative(sight.heat), strict=True):
            own = self._objects.get((sight.row, c))
            if own is None:
                continue
            for overlaps, rule in zip(self._overlaps, self._tried, strict=True):
                found = rule.find(heat)[:1]
                for refiner in self._refiners:
                    found = refiner.refine(sight.row, heat, found)
                overlaps.append(float(best_iou(np.array([found[0].corners]), [own])[0]) if found else 0.0)

    @property
    def table(self) -> list[Choice]:
        """Every rule at every threshold with its CorLoc, in the order in which they are tried; NaN without a pair."""
        return [
            Choice(rule, corloc(np.array(overlaps))) for rule, overlaps in zip(self._tried, self._overlaps, strict=True)
        ]

    def best(self) -> Choice | None:
        """The highest CorLoc at IoU .5, the first of equals; None where no pair with true boxes was seen."""
        return max(self.table, key=lambda choice: choice.corloc) if self._overlaps[0] else None
