"""How many objects a set of proposals can find at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from manyhot.detections import Objects
from manyhot.metrics.overlap import Boxes, iou

LEAST_IOUS = (0.5, 0.75, 0.9)


def best_overlaps(proposals: Mapping[str, Boxes], objects: Objects) -> NDArray[np.float64]:
    """Of each of M objects, the IoU with the proposal of its picture that fits it best.

    Arguments:
        proposals: boxes [R, 4] by picture id; a picture may have none.
        objects: the true boxes.

    Returns:
        float64 [M], 0…1; 0 where the picture has no proposal.
    """
    of_picture: dict[str, list[int]] = {}
    for row, id_ in enumerate(objects.ids):
        of_picture.setdefault(id_, []).append(row)
    best = np.zeros(len(objects))
    for id_, rows in of_picture.items():
        own = proposals.get(id_)
        if own is not None and len(own):
            best[rows] = iou(objects.boxes[rows], own).max(axis=1)
    return best


def recall(
    proposals: Mapping[str, Boxes], objects: Objects, least_ious: Sequence[float] = LEAST_IOUS
) -> dict[float, float]:
    """Share of the objects, difficult ones left out, that some proposal overlaps by at least each IoU.

    Source: Hosang et al., What makes for effective detection proposals?, PAMI 2016, section 4.

    Returns:
        by least IoU, 0…1; NaN where there is no object.
    """
    best = best_overlaps(proposals, objects)[~objects.difficult]
    return {least: float((best >= least).mean()) if best.size else float("nan") for least in least_ious}
