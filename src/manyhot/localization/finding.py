"""From heat maps of many pictures to points, boxes and their measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.data.manifest import Manifest
from manyhot.detections import Detections
from manyhot.localization.boxes import BoxRule, Corners, HeatBox, Largest
from manyhot.localization.extremes import Extremes, Placed, reduced
from manyhot.localization.heat import Heat, relative
from manyhot.localization.looking import Sight
from manyhot.localization.placing import Size, hottest_point
from manyhot.metrics.localization import TOLERANCE, best_iou, points_inside
from manyhot.metrics.overlap import Boxes
from manyhot.metrics.places import Places, measure_places


class Refiner(Protocol):
    """Something that draws the boxes of a heat map anew."""

    def refine(self, row: int, heat: Heat, found: list[HeatBox]) -> list[HeatBox]:
        """Boxes in place of those found for the picture of a row."""


CURVE = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds among which MaxBoxAcc finds the best."""

MIN_SCORE = 0.01
"""Classes that a picture scores lower give no detections in it."""


class Finder:
    """Collects points and boxes of the pictures of a manifest, and measures them.

    Arguments:
        manifest: of the pictures.
        rule: from a heat map to boxes.
        min_score: classes scored below give no detections.
        tolerance: pixels by which a point may miss a box.
        curve: thresholds for MaxBoxAcc; none of them leaves it out and saves half of the time.
        refiners: what is done to the boxes of the rule, one after the other; MaxBoxAcc knows nothing of it.
        proposals: boxes [R, 4] by row, for the oracle that chooses the best of them.
    """

    def __init__(
        self,
        manifest: Manifest,
        rule: BoxRule,
        *,
        min_score: float = MIN_SCORE,
        tolerance: float = TOLERANCE,
        curve: tuple[float, ...] = CURVE,
        refiners: Sequence[Refiner] = (),
        proposals: dict[int, Boxes] | None = None,
    ) -> None:
        self.refiners, self.proposals = tuple(refiners), proposals
        self.manifest, self.rule, self.min_score, self.tolerance = manifest, rule, min_score, tolerance
        self.curve = curve
        self._ids, self._labels = manifest.ids, manifest.labels
        self.extremes = Extremes(3 if len(manifest.classes) > 40 else 5)
        self._true = positive_pairs(manifest)
        self._scores: dict[int, NDArray[np.float32]] = {}
        self._boxes: list[tuple[int, int, float, Corners]] = []
        self._places: list[_Place] = []

    def wanted(self, row: int, scores: NDArray[np.float32]) -> list[int]:
        """Classes whose maps are needed: those scored high enough, and those known to be there."""
        return [c for c in range(len(scores)) if scores[c] >= self.min_score or (row, c) in self._true]

    def take(self, sight: Sight) -> None:
        """Boxes of a picture; of classes known to be there also the point, and the largest part at every threshold."""
        self._scores[sight.row] = sight.scores
        for c, heat in zip(sight.classes, relative(sight.heat), strict=True):
            found = self.rule.find(heat)
            for refiner in self.refiners:
                found = refiner.refine(sight.row, heat, found)
            score = float(sight.scores[c])
            if score >= self.min_score:
                self._boxes.extend((sight.row, c, score * box.heat, box.corners) for box in found)
            own = self._true.get((sight.row, c))
            if own is not None:
                best = found[0].corners if found else None
                point = hottest_point(heat)
                self._places.append(_Place(sight.row, c, sight.size, point, best, self._overlaps(heat, own)))
                overlap = 0.0 if best is None else float(best_iou(np.array([best]), [own])[0])
                hit = bool(points_inside(np.array([point], np.float64), [own], self.tolerance)[0])
                self.extremes.take(c, Placed(sight.row, sight.size, score, overlap, hit, best, own, reduced(heat)))

    def _overlaps(self, heat: Heat, own: Boxes) -> list[float]:
        """IoU of the largest part at each threshold of the curve with the true box that it fits best."""
        found = (Largest(threshold=share).find(heat) for share in self.curve)
        return [float(best_iou(np.array([some[0].corners]), [own])[0]) if some else 0.0 for some in found]

    def detections(self, source: dict[str, str] | None = None) -> Detections:
        """All boxes, picture by picture, the hottest of each class first."""
        classes = self.manifest.classes
        ordered = sorted(self._boxes, key=lambda box: (box[0], box[1]))
        return Detections.from_rows(
            ((self._ids[row], classes[c], score, corners) for row, c, score, corners in ordered), classes, source
        )

    def places(self) -> Places:
        """The positive pairs, picture by picture; rows count the pictures taken."""
        ordered = sorted(self._places, key=lambda place: (place.row, place.column))
        at = {row: i for i, row in enumerate(sorted(self._scores))}
        return Places(
            rows=np.array([at[place.row] for place in ordered], np.int64),
            columns=np.array([place.column for place in ordered], np.int64),
            sizes=np.array([place.size for place in ordered], np.float64).reshape(-1, 2),
            points=np.array([place.point for place in ordered], np.float64).reshape(-1, 2),
            boxes=np.array([place.best or (np.nan,) * 4 for place in ordered], np.float64).reshape(-1, 4),
            curve=np.array([place.overlaps for place in ordered], np.float64).reshape(len(ordered), len(self.curve)),
            objects=[self._true[place.row, place.column] for place in ordered],
        )

    def places_table(self) -> pl.DataFrame:
        """One row a positive pair: its point and best box, and whether they are right."""
        places, seen = self.places(), sorted(self._scores)
        hits = points_inside(places.points, places.objects, self.tolerance)
        overlaps = best_iou(places.boxes, places.objects)
        scores = [float(self._scores[seen[row]][c]) for row, c in zip(places.rows, places.columns, strict=True)]
        return pl.DataFrame(
            {
                "id": pl.Series([self._ids[seen[row]] for row in places.rows], dtype=pl.String),
                "class": pl.Series([self.manifest.classes[c] for c in places.columns], dtype=pl.String),
                "score": pl.Series(scores, dtype=pl.Float32),
                "x": pl.Series(places.points[:, 0], dtype=pl.Int32),
                "y": pl.Series(places.points[:, 1], dtype=pl.Int32),
                "hit": pl.Series(hits, dtype=pl.Boolean),
                **{
                    name: pl.Series(places.boxes[:, i], dtype=pl.Float32).fill_nan(None)
                    for i, name in enumerate(("x0", "y0", "x1", "y1"))
                },
                "iou": pl.Series(overlaps, dtype=pl.Float32),
            }
        )

    def measures(self, detections: Detections) -> dict[str, Any]:
        """Every measure of the pictures taken, without those that were damaged."""
        seen = sorted(self._scores)
        taken = self.manifest.rows([row in self._scores for row in range(len(self.manifest))])
        scores = np.array([self._scores[row] for row in seen], np.float32).reshape(len(seen), -1)
        return measure_places(
            self.places(),
            detections,
            taken.objects(),
            scores,
            taken.labels,
            tolerance=self.tolerance,
            proposals=None if self.proposals is None else self._seen_proposals(seen),
        )

    def _seen_proposals(self, seen: list[int]) -> dict[int, Boxes]:
        """Proposals by the place of the picture among those taken."""
        assert self.proposals is not None
        return {place: self.proposals[row] for place, row in enumerate(seen) if row in self.proposals}


def positive_pairs(manifest: Manifest) -> dict[tuple[int, int], Boxes]:
    """True boxes [K, 4] of each (row, class) whose label is 1 and whose boxes are known."""
    true_boxes, ids, classes = manifest.objects().places(), manifest.ids, manifest.classes
    found: dict[tuple[int, int], Boxes] = {}
    for row, c in np.argwhere(manifest.labels == 1).tolist():
        own = true_boxes.get((ids[row], classes[c]))
        if own is not None:
            found[row, c] = own
    return found


class _Place(NamedTuple):
    """What was seen of a positive pair."""

    row: int
    column: int
    size: Size
    point: tuple[int, int]
    best: Corners | None
    overlaps: list[float]
