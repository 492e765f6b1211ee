"""Average precision of detections, by the rules of the VOC development kit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manyhot.detections import Detections, Objects, rows_by_pair
from manyhot.metrics.overlap import iou


@dataclass(frozen=True)
class DetectionAP:
    """Average precision of C classes at one IoU; NaN for a class without an object that is not difficult.

    Arguments:
        area: float64 [C], 0…1; area under the precision envelope, the rule of VOC from 2010 on.
        voc07: float64 [C], 0…1; 11-point rule.
        n_objects: int64 [C]; objects that are not difficult.
        n_detections: int64 [C]; boxes, those that were ignored among them.
    """

    area: NDArray[np.float64]
    voc07: NDArray[np.float64]
    n_objects: NDArray[np.int64]
    n_detections: NDArray[np.int64]


def detection_ap(
    detections: Detections, objects: Objects, classes: Sequence[str] | None = None, *, least_iou: float = 0.5
) -> DetectionAP:
    """Average precision of boxes against true objects.

    Boxes of a class are taken by falling score, equal scores in the order of their rows. Each goes to the object of its
    class and picture that it overlaps most, whether difficult or taken already, the first of equals. With an IoU of at
    least `least_iou` it is ignored if that object is difficult, a true positive if it is free, and a false positive if
    an earlier box took it; with less, or no object at all, it is a false positive.

    Source: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010, sections 4.2 and 4.4;
    `VOCevaldet.m` of the development kit for what is done about difficult objects and ties.

    Arguments:
        detections: of any order.
        objects: of all pictures that were looked at; pictures without objects need no row.
        classes: C names; None: those that the detections were looked for.
        least_iou: in 0…1, above 0.
    """
    assert 0 < least_iou <= 1, least_iou
    of_pair = rows_by_pair(objects.ids, objects.names)
    of_class: dict[str, list[int]] = {}
    for row, name in enumerate(detections.names):
        of_class.setdefault(name, []).append(row)
    n_objects: dict[str, int] = {}
    for name, difficult in zip(objects.names, objects.difficult, strict=True):
        n_objects[name] = n_objects.get(name, 0) + (not difficult)
    names = detections.classes if classes is None else classes
    averages = []
    for name in names:
        rows = np.array(of_class.get(name, []), np.intp)
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        true = _match(detections, objects, of_pair, name, rows, least_iou)
        averages.append(_average(true[true >= 0] == 1, n_objects.get(name, 0)))
    area, voc07 = np.array(averages, np.float64).reshape(-1, 2).T
    return DetectionAP(
        area=area,
        voc07=voc07,
        n_objects=np.array([n_objects.get(name, 0) for name in names], np.int64),
        n_detections=np.array([len(of_class.get(name, [])) for name in names], np.int64),
    )


@dataclass(frozen=True)
class Judged:
    """The boxes of one class by falling score, and what became of them.

    Arguments:
        rows: int64 [M], rows of the detections.
        verdicts: int8 [M]; 1 true positive, 0 false positive, -1 ignored.
        n_objects: objects that are not difficult.
    """

    rows: NDArray[np.intp]
    verdicts: NDArray[np.int8]
    n_objects: int

    @property
    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Recall and precision after each true positive, float64 [K] each; None where no object counts or is found.

        Precision is not made monotone: the measures by `detection_ap` are areas under its envelope.
        """
        counted = self.verdicts[self.verdicts >= 0] == 1
        if not self.n_objects or not counted.any():
            return None
        places = np.flatnonzero(counted)
        found = np.arange(1, len(places) + 1)
        return found / self.n_objects, found / (places + 1)


def judge(detections: Detections, objects: Objects, name: str, *, least_iou: float = 0.5) -> Judged:
    """What becomes of each box of a class by the rules of `detection_ap`.

    Arguments:
        detections: of any order.
        objects: of all pictures that were looked at.
        name: of the class.
        least_iou: in 0…1, above 0.
    """
    rows = np.flatnonzero([one == name for one in detections.names])
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    counted = [not hard for one, hard in zip(objects.names, objects.difficult, strict=True) if one == name]
    of_pair = rows_by_pair(objects.ids, objects.names)
    return Judged(rows, _match(detections, objects, of_pair, name, rows, least_iou), sum(counted))


def _match(
    detections: Detections,
    objects: Objects,
    of_pair: dict[tuple[str, str], list[int]],
    name: str,
    rows: NDArray[np.intp],
    least_iou: float,
) -> NDArray[np.int8]:
    """For each row: 1 true positive, 0 false positive, -1 ignored."""
    taken: set[int] = set()
    verdicts = np.zeros(len(rows), np.int8)
    for i, row in enumerate(rows):
        candidates = of_pair.get((detections.ids[row], name))
        if not candidates:
            continue
        overlap = iou(detections.boxes[row : row + 1], objects.boxes[candidates])[0]
        best = int(overlap.argmax())
        if overlap[best] < least_iou:
            continue
        if objects.difficult[candidates[best]]:
            verdicts[i] = -1
        elif candidates[best] not in taken:
            taken.add(candidates[best])
            verdicts[i] = 1
    return verdicts


def _average(true: NDArray[np.bool_], n_objects: int) -> tuple[float, float]:
    """Area under the envelope and 11-point average of verdicts in the order of the ranking."""
    if not n_objects:
        return np.nan, np.nan
    if not true.size:
        return 0.0, 0.0
    found = true.cumsum()
    precision = found / np.arange(1, true.size + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall ≥ j/10 in whole numbers, 10·found ≥ j·n: in floating point .1·3 is more than 3/10.
    places = found.searchsorted(-(-np.arange(11) * n_objects // 10), "left")
    eleven = np.where(places < true.size, envelope[np.minimum(places, true.size - 1)], 0.0)
    return float(envelope[true].sum()) / n_objects, float(eleven.mean())
