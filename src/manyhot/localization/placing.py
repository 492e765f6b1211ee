"""Maps laid on the picture where their cells belong, by the geometry that the network declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.data.crops import Frame
from manyhot.models.geometry import Geometry

Size = tuple[int, int]
"""Width and height, pixels."""


@dataclass(frozen=True, eq=False)
class ViewMap:
    """Maps of one view of a picture.

    Arguments:
        cells: float [K, h, w]; K maps, in general one a class.
        geometry: where the cells lie in the view.
        frame: where the view lies in the picture.
    """

    cells: NDArray[np.floating[Any]]
    geometry: Geometry
    frame: Frame


def place(views: Sequence[ViewMap], size: Size) -> NDArray[np.float32]:
    """Maps at every pixel of a picture, averaged over the views that show the pixel.

    Between the centres of cells the value is bilinear; beyond the outermost centres it stays what it is there. A pixel
    that no view shows gets the lowest value of those shown.

    Arguments:
        views: one or more, of the same K maps, in whatever geometry and frame.
        size: width and height of the picture as displayed.

    Returns:
        float32 [K, height, width].
    """
    assert views, "a picture has at least one view"
    width, height = size
    total = np.zeros((len(views[0].cells), height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    for view in views:
        frame = view.frame
        x0, x1 = _shown(frame.left, frame.right, width)
        y0, y1 = _shown(frame.top, frame.bottom, height)
        columns = _cells(view, np.arange(x0, x1), (frame.left, frame.right), frame.width, frame.mirrored)
        rows = _cells(view, np.arange(y0, y1), (frame.top, frame.bottom), frame.height, mirrored=False)
        cells = np.asarray(view.cells, np.float32)
        total[:, y0:y1, x0:x1] += _interpolated(_interpolated(cells, rows, axis=1), columns, axis=2)
        count[y0:y1, x0:x1] += 1
    placed = np.divide(total, count, out=total, where=count > 0)
    if not count.all():
        lowest = np.where(count > 0, placed, np.inf).min(axis=(1, 2))
        placed = np.where(count > 0, placed, lowest[:, None, None]).astype(np.float32)
    return placed


def scaled(views: Sequence[ViewMap], by: tuple[float, float]) -> list[ViewMap]:
    """The same views in a picture resized by these factors of width and height: `place` then gives it at that size."""
    x, y = by
    return [
        replace(
            view,
            frame=replace(
                view.frame,
                left=view.frame.left * x,
                right=view.frame.right * x,
                top=view.frame.top * y,
                bottom=view.frame.bottom * y,
            ),
        )
        for view in views
    ]


def hottest_point(heat: NDArray[np.floating[Any]]) -> tuple[int, int]:
    """Pixel index (x, y) of the maximum of a map [H, W]; of several equal ones, that nearest to their centre."""
    ys, xs = np.nonzero(heat == heat.max())
    nearest = ((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2).argmin()
    return int(xs[nearest]), int(ys[nearest])


def _shown(start: float, end: float, length: int) -> tuple[int, int]:
    """First pixel whose centre the frame shows, and the one after the last."""
    first, last = np.ceil(start - 0.5 - 1e-6), np.ceil(end - 0.5 - 1e-6)
    return max(0, int(first)), min(length, int(last))


def _cells(
    view: ViewMap, pixels: NDArray[np.intp], ends: tuple[float, float], length: int, mirrored: bool
) -> NDArray[np.float64]:
    """From pixel indices of the picture to fractional cells of the view's map, along one axis."""
    start, end = ends
    edge = (pixels + 0.5 - start) * (length / (end - start))
    in_view = (length - edge if mirrored else edge) - 0.5
    return np.asarray((in_view - view.geometry.offset) / view.geometry.stride)


def _interpolated(maps: NDArray[np.float32], at: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Values of maps [K, h, w] at fractional places along one axis; constant beyond the ends."""
    last = maps.shape[axis] - 1
    inside = at.clip(0, last)
    low = np.floor(inside).astype(np.intp).clip(max=max(0, last - 1))
    share = (inside - low).astype(np.float32)
    if axis == 1:
        share = share[:, None]
    below, above = maps.take(low, axis), maps.take(np.minimum(low + 1, last), axis)
    return np.asarray(below * (1 - share) + above * share)
