"""GrabCut: a box of a heat map drawn anew round what the colours of the picture say hangs together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.data.images import open_image
from manyhot.errors import UserError
from manyhot.localization.boxes import Corners, HeatBox, Largest
from manyhot.localization.heat import Heat


class GrabCut:
    """Segments the picture from a heat map, and boxes the segment.

    Sure foreground is where the heat in the box is at least `sure` of its maximum, sure background what lies outside
    the box widened by `room` of its sides; the rest is decided by the colours. A segment that keeps less than `least`
    of the box's area leaves the box as it was: the colours said nothing.

    Source: Rother, Kolmogorov and Blake, GrabCut, SIGGRAPH 2004; seeded from heat maps as Simonyan, Vedaldi and
    Zisserman, Deep Inside Convolutional Networks, 2014, section 3.2, do it.

    Arguments:
        paths: of the pictures, by row.
        sure: share of the heat's maximum.
        room: share of the box's side, on each side.
        least: share of the box's area.
        rounds: of estimating colours and cutting.
        side: the longer side at which it is done, pixels.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        sure: float = 0.5,
        room: float = 0.05,
        least: float = 0.2,
        rounds: int = 3,
        side: int = 160,
    ) -> None:
        self.paths, self.sure, self.room, self.least, self.rounds, self.side = paths, sure, room, least, rounds, side
        self._cv2 = _opencv()
        self._last: tuple[int, NDArray[np.uint8]] | None = None

    def refine(self, row: int, heat: Heat, found: list[HeatBox]) -> list[HeatBox]:
        """The boxes of one map, in their order."""
        height, width = heat.shape
        scale = min(1.0, self.side / max(height, width))
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = self._picture(row, small)
        coarse = self._cv2.resize(np.asarray(heat, np.float32), small, interpolation=self._cv2.INTER_AREA)
        return [HeatBox(self._cut(picture, coarse, box.corners, (width, height)), box.heat) for box in found]

    def _picture(self, row: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        if self._last is None or self._last[0] != row or self._last[1].shape[1::-1] != size:
            pixels = np.asarray(open_image(self.paths[row]).resize(size))[..., ::-1]
            self._last = (row, np.ascontiguousarray(pixels))
        return self._last[1]

    def _cut(self, picture: NDArray[np.uint8], heat: Heat, corners: Corners, size: tuple[int, int]) -> Corners:
        cv2 = self._cv2
        height, width = heat.shape
        across, down = width / size[0], height / size[1]
        x0, y0, x1, y1 = corners[0] * across, corners[1] * down, corners[2] * across, corners[3] * down
        wide, high = self.room * (x1 - x0), self.room * (y1 - y0)
        inside = _window(heat.shape, x0, y0, x1, y1)
        near = _window(heat.shape, x0 - wide, y0 - high, x1 + wide, y1 + high)
        mask = np.full(heat.shape, cv2.GC_BGD, np.uint8)
        mask[near] = cv2.GC_PR_BGD
        mask[inside] = cv2.GC_PR_FGD
        hot = np.zeros(heat.shape, bool)
        hot[inside] = heat[inside] >= self.sure * heat[inside].max()
        mask[hot] = cv2.GC_FGD
        if not (mask == cv2.GC_BGD).any() or not hot.any():
            return corners  # nothing to tell the object from
        cv2.setRNGSeed(0)
        cv2.grabCut(picture, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), self.rounds, cv2.GC_INIT_WITH_MASK)
        kept = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
        (box,) = Largest(threshold=1.0).find(kept)
        a, b, c, d = box.corners
        if (c - a) * (d - b) < self.least * (x1 - x0) * (y1 - y0):
            return corners
        return round(a / across), round(b / down), min(size[0], round(c / across)), min(size[1], round(d / down))


def _window(shape: tuple[int, ...], x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
    rows = slice(max(0, int(y0)), min(shape[0], max(int(y0) + 1, int(np.ceil(y1)))))
    return rows, slice(max(0, int(x0)), min(shape[1], max(int(x0) + 1, int(np.ceil(x1)))))


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError(
            "GrabCut is part of OpenCV, which is not installed.", remedy="Run: pip install 'manyhot[proposals]'."
        ) from None
    return cv2
