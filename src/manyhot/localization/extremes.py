"""The best and the worst placed pictures of every class, kept while many go by."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manyhot.localization.boxes import Corners
from manyhot.localization.heat import Heat
from manyhot.metrics.overlap import Boxes

SIDE = 240
"""The longer side of the maps that are kept, pixels."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Where a class was seen in a picture that shows it.

    Arguments:
        row: of the picture.
        size: its width and height, pixels.
        score: of the class, 0…1.
        iou: of the best box with the object it fits best; 0 without a box.
        hit: the hottest point lies on an object.
        box: the best box; None where there is none.
        objects: true boxes [K, 4].
        heat: uint8 [h, w], 255 the hottest: the map, reduced.
    """

    row: int
    size: tuple[int, int]
    score: float
    iou: float
    hit: bool
    box: Corners | None
    objects: Boxes
    heat: NDArray[np.uint8]


class Extremes:
    """The pictures of the highest and of the lowest IoU of every class.

    Arguments:
        number: of pictures kept at each end.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._best: dict[int, list[tuple[float, int, Placed]]] = {}
        self._worst: dict[int, list[tuple[float, int, Placed]]] = {}

    def take(self, class_: int, placed: Placed) -> None:
        """One more picture of a class; of equal ones the earlier rows count as the better placed."""
        for kept, key in (
            (self._best, (-placed.iou, placed.row)),
            (self._worst, (placed.iou, -placed.row)),
        ):
            own = kept.setdefault(class_, [])
            entry = (*key, placed)
            if len(own) < self.number or entry[:2] < own[-1][:2]:
                bisect.insort(own, entry, key=lambda one: one[:2])
                del own[self.number :]

    def ends(self, class_: int) -> tuple[list[Placed], list[Placed]]:
        """The best placed pictures of a class, best first, and the worst, worst first; no picture in both.

        Of fewer pictures than both ends hold, half go to each.
        """
        kept = {placed.row: placed for ends in (self._best, self._worst) for _, _, placed in ends.get(class_, ())}
        ordered = sorted(kept.values(), key=lambda placed: (-placed.iou, placed.row))
        half = min(self.number, -(-len(ordered) // 2))
        return ordered[:half], ordered[half:][::-1]


def reduced(heat: Heat) -> NDArray[np.uint8]:
    """A map in 0…1 as bytes, its longer side at most `SIDE`."""
    height, width = heat.shape
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BOX))
    return (small.clip(0, 1) * 255).round().astype(np.uint8)
