"""How much boxes overlap, and which of many overlapping ones to keep."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Boxes: TypeAlias = NDArray[np.floating[Any]]
"""Float [..., 4]: x0, y0, x1, y1 in pixels, 0-based, x1 and y1 exclusive."""


def iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every box of one list with every box of another.

    With x1 and y1 exclusive this is the VOC kit's value, which adds 1 to the sides of boxes whose corners are 1-based
    and inclusive: xmax - xmin + 1 = x1 - x0.

    Arguments:
        first: float [M, 4].
        second: float [K, 4].

    Returns:
        float64 [M, K], 0…1; 0 where neither box has an area.
    """
    a_M14, b_1K4 = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(a_M14[..., 2:], b_1K4[..., 2:]) - np.maximum(a_M14[..., :2], b_1K4[..., :2])
    shared = sides.clip(min=0).prod(axis=-1)
    union = area(a_M14) + area(b_1K4) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def area(boxes: Boxes) -> NDArray[np.float64]:
    """Pixels that boxes [..., 4] cover, float64 [...]; 0 where x1 ≤ x0 or y1 ≤ y0."""
    sides = boxes[..., 2:].astype(np.float64) - boxes[..., :2]
    return np.asarray(sides.clip(min=0).prod(axis=-1))


def suppress(boxes: Boxes, scores: NDArray[np.floating[Any]], limit: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: rows to keep, best first.

    The best box stays and removes all that overlap it by an IoU of more than `limit`; then the best of the rest stays,
    and so on. Among equal scores the earlier row goes first.

    Arguments:
        boxes: float [M, 4].
        scores: float [M].
        limit: IoU, 0…1.
    """
    overlap_MM = iou(boxes, boxes)
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while waiting.size:
        best = waiting[0]
        kept.append(best)
        waiting = waiting[1:][overlap_MM[best, waiting[1:]] <= limit]
    return np.array(kept, np.intp)
