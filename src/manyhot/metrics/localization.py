"""Points and boxes of classes that a picture is known to show: pointing, CorLoc, MaxBoxAcc and their baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manyhot.metrics.columns import Labels, Scores
from manyhot.metrics.overlap import Boxes, iou
from manyhot.metrics.ranking import average_precision

TOLERANCE = 18.0
"""Pixels by which a point may miss a box (Oquab et al., CVPR 2015, section 5.2)."""


def points_inside(
    points: NDArray[np.float64], boxes: Sequence[Boxes], tolerance: float = TOLERANCE
) -> NDArray[np.bool_]:
    """Whether each of P points lies in one of the boxes that belong to it, or at most `tolerance` beside it.

    Arguments:
        points: float [P, 2]: x, y as pixel indices (0 is the centre of the first pixel).
        boxes: P arrays [K, 4]; 0-based, x1 and y1 exclusive, so that the last pixel inside has index x1 - 1.
        tolerance: pixels, along each axis.

    Returns:
        bool [P].
    """
    assert len(points) == len(boxes), (len(points), len(boxes))
    hits = np.zeros(len(points), bool)
    for i, (point, own) in enumerate(zip(points, boxes, strict=True)):
        low, high = own[:, :2] - tolerance, own[:, 2:] - 1 + tolerance
        hits[i] = bool(((point >= low) & (point <= high)).all(axis=1).any())
    return hits


def pointing_ap(scores: Scores, labels: Labels, hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of "the picture shows the class, there": a wrong place is a false positive.

    Pictures are ranked by their score for the class. A positive picture whose point missed is retrieved as a false
    positive, and still counts among the positives that recall is a share of; so no class can get more than its share
    of hits. The rule is the non-interpolated one of `average_precision`.

    Source: Oquab et al., Is object localization for free?, CVPR 2015, section 5.2.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        hits: bool [N, C]; whether the point of the class lies on it; only read where the label is 1.

    Returns:
        float64 [C], 0…1; NaN for a class without a positive.

    Raises:
        UserError: as `average_precision`.
    """
    positive = labels == 1
    hit = positive & hits
    n_positive, n_hits = positive.sum(axis=0), hit.sum(axis=0)
    ap = average_precision(scores, np.where(positive & ~hits, 0, labels).astype(np.int8))
    share = np.divide(n_hits, n_positive, out=np.full(len(n_positive), np.nan), where=n_positive > 0)
    return np.asarray(np.where(n_hits > 0, ap * share, share))


def best_iou(boxes: Boxes, objects: Sequence[Boxes]) -> NDArray[np.float64]:
    """Of each of P boxes, the IoU with whichever of its objects it overlaps most.

    Arguments:
        boxes: float [P, 4]; NaN for no box, which overlaps nothing.
        objects: P arrays [K, 4], K ≥ 1.

    Returns:
        float64 [P], 0…1.
    """
    assert len(boxes) == len(objects), (len(boxes), len(objects))
    found = [iou(box[None], own).max() for box, own in zip(boxes, objects, strict=True)]
    return np.array(found, np.float64)


def corloc(overlaps: NDArray[np.float64], least_iou: float = 0.5) -> float:
    """Correct localisation: the share of positive (picture, class) pairs whose best box fits an instance of the class.

    Source: Deselaers, Alexe and Ferrari, Weakly supervised localization and learning with generic knowledge, IJCV
    2012, section 6.

    Arguments:
        overlaps: float [P], of `best_iou`.
        least_iou: from which a box fits.

    Returns:
        0…1; NaN where there is no pair.
    """
    return float((overlaps >= least_iou).mean()) if overlaps.size else float("nan")


def max_box_acc(overlaps: NDArray[np.float64], least_ious: Sequence[float] = (0.3, 0.5, 0.7)) -> dict[float, float]:
    """Box accuracy at the threshold that suits it best: the quality of a map apart from the choice of its threshold.

    The threshold is chosen on the pictures measured, so this is an upper bound, to compare maps with each other.

    Source: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, section 3.2.

    Arguments:
        overlaps: float [P, T]: IoU of each pair's box (the largest component) at each of T thresholds.
        least_ious: from which a box fits.

    Returns:
        for each least IoU the largest share over the thresholds, 0…1; NaN where there is no pair.
    """
    if not overlaps.size:
        return dict.fromkeys(least_ious, float("nan"))
    return {least: float((overlaps >= least).mean(axis=0).max()) for least in least_ious}


def centre_boxes(sizes: NDArray[np.float64], share: float = 0.5) -> NDArray[np.float64]:
    """The baseline that looks at nothing: a box in the middle, of the picture's shape.

    Arguments:
        sizes: float [P, 2]: width and height of the pictures, pixels.
        share: of the picture's area that the box covers; 1 is the whole picture.

    Returns:
        float64 [P, 4].
    """
    side = np.sqrt(share)
    return np.concatenate([sizes * (1 - side) / 2, sizes * (1 + side) / 2], axis=1)


def centre_points(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel index of the middle of pictures of these widths and heights, float64 [P, 2]."""
    return (np.asarray(sizes, np.float64) - 1) / 2


def best_proposals(proposals: Sequence[Boxes], objects: Sequence[Boxes]) -> NDArray[np.float64]:
    """What a perfect choice among proposals would reach: the highest IoU of any proposal with any object of the pair.

    Arguments:
        proposals: P arrays [R, 4], the proposals of each pair's picture.
        objects: P arrays [K, 4], K ≥ 1.

    Returns:
        float64 [P], 0…1; 0 where a picture has no proposal.
    """
    return np.array([iou(some, own).max(initial=0.0) for some, own in zip(proposals, objects, strict=True)], np.float64)
