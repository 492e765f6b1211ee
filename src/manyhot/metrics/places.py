"""All measures of where, with the baselines beside them: the content of localization/SPLIT/metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.detections import Detections, Objects
from manyhot.metrics.columns import Labels, Scores
from manyhot.metrics.detection import detection_ap
from manyhot.metrics.localization import (
    TOLERANCE,
    best_iou,
    best_proposals,
    centre_boxes,
    centre_points,
    corloc,
    max_box_acc,
    pointing_ap,
    points_inside,
)
from manyhot.metrics.overlap import Boxes
from manyhot.metrics.ranking import mean_ap


@dataclass(frozen=True, eq=False)
class Places:
    """Where a model sees the class in each of P positive (picture, class) pairs whose true boxes are known.

    Arguments:
        rows: int64 [P], rows of the pictures in the tables of scores.
        columns: int64 [P], columns of the classes.
        sizes: float64 [P, 2], width and height of the pictures, pixels.
        points: float64 [P, 2], the hottest point: x, y as pixel indices.
        boxes: float64 [P, 4], the best box; NaN where there is none.
        curve: float64 [P, T], IoU of the largest component at each of T thresholds with the object it fits best.
        objects: P arrays [K, 4], the true boxes, difficult ones among them.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    sizes: NDArray[np.float64]
    points: NDArray[np.float64]
    boxes: NDArray[np.float64]
    curve: NDArray[np.float64]
    objects: Sequence[Boxes]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.rows)


def measure_places(
    places: Places,
    detections: Detections,
    objects: Objects,
    scores: Scores,
    labels: Labels,
    *,
    tolerance: float = TOLERANCE,
    proposals: Mapping[int, Boxes] | None = None,
) -> dict[str, Any]:
    """Every measure, for `json.dump`; None where undefined.

    A positive pair without a true box has an unknown place: it is left out of pointing and CorLoc, and ignored in the
    average precision of pointing.

    Arguments:
        places: of the positive pairs.
        detections: of all pictures and classes; their classes are the columns of the scores.
        objects: of all pictures.
        scores: float32 or float64 [N, C].
        labels: int8 [N, C]; 1 present, 0 absent, -1 ignored.
        tolerance: pixels by which a point may miss a box.
        proposals: boxes [R, 4] of the pictures, by row; None: there are none.
    """
    classes = detections.classes
    known = np.zeros(labels.shape, bool)
    known[places.rows, places.columns] = True
    placed = np.where((labels == 1) & ~known, -1, labels).astype(np.int8)
    hits = points_inside(places.points, places.objects, tolerance)
    middles = points_inside(centre_points(places.sizes), places.objects, tolerance)
    overlaps = best_iou(places.boxes, places.objects)
    found = detection_ap(detections, objects)
    point_ap = pointing_ap(scores, placed, _table(labels, places, hits))
    middle_ap = pointing_ap(scores, placed, _table(labels, places, middles))
    own = [places.columns == c for c in range(len(classes))]
    correct = np.array([corloc(overlaps[rows]) for rows in own])
    map_50, n_classes = mean_ap(found.area)
    reached = None
    if proposals is not None:
        of_pairs = [proposals.get(int(row), np.zeros((0, 4))) for row in places.rows]
        reached = best_proposals(of_pairs, places.objects)
    return {
        "n_images": len(scores),
        "n_pairs": len(places),
        "n_pairs_without_box": int(((labels == 1) & ~known).sum()),
        "pointing": {
            "accuracy": _number(_share(hits)),
            "ap": _number(mean_ap(point_ap)[0]),
            "tolerance_px": tolerance,
        },
        "corloc": _number(corloc(overlaps)),
        "mean_corloc": _number(mean_ap(correct)[0]),
        "detection": {
            "map_50": _number(map_50),
            "map_50_voc07": _number(mean_ap(found.voc07)[0]),
            "n_classes_in_map": n_classes,
            "n_boxes": len(detections),
        },
        "max_box_acc": {f"{least:g}": _number(value) for least, value in max_box_acc(places.curve).items()},
        "classes": [
            {
                "name": name,
                "n_positive": int(own[c].sum()),
                "n_objects": int(found.n_objects[c]),
                "pointing": _number(_share(hits[own[c]])),
                "pointing_ap": _number(point_ap[c]),
                "corloc": _number(correct[c]),
                "ap_50": _number(found.area[c]),
                "ap_50_voc07": _number(found.voc07[c]),
                "centre_point": _number(_share(middles[own[c]])),
            }
            for c, name in enumerate(classes)
        ],
        "baselines": {
            "centre_box": {"corloc": _number(_fitting(places, centre_boxes(places.sizes)))},
            "whole_image": {"corloc": _number(_fitting(places, centre_boxes(places.sizes, share=1)))},
            "centre_point": {"pointing": _number(_share(middles)), "ap": _number(mean_ap(middle_ap)[0])},
            "best_proposal": {"corloc": None if reached is None else _number(corloc(reached))},
        },
    }


def _fitting(places: Places, boxes: Boxes) -> float:
    return corloc(best_iou(boxes, places.objects))


def _table(labels: Labels, places: Places, hits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    table = np.zeros(labels.shape, bool)
    table[places.rows, places.columns] = hits
    return table


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if hits.size else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
