"""A second model's scores of the same pictures: where the two disagree, class by class and over all classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.errors import UserError
from manyhot.metrics.columns import row_blocks
from manyhot.metrics.ranking import ranking_ap
from manyhot.predictions import Predictions

_NAMED = 3  # differing ids that a message names


@dataclass(frozen=True, eq=False)
class Compared:
    """Scores A and B of N pictures for C classes. Two models disagree by |A − B| of their scores.

    Arguments:
        names: what A and B are called.
        a: the predictions that the gallery shows.
        b: the others.
        rows: int64 [N]; the row of b of each picture of a; None where both stand in one order.
    """

    names: tuple[str, str]
    a: Predictions
    b: Predictions
    rows: NDArray[np.int64] | None

    def disagreement(self, class_index: int) -> bytes:
        """One class: little-endian float32 scores of B [N], then uint32 rows [N], the largest difference first."""
        b = np.ascontiguousarray(self._of_b(self.b.scores, slice(None), class_index), "<f4")
        difference = np.abs(self.a.scores[:, class_index] - b)
        return b.tobytes() + np.argsort(-difference, kind="stable").astype("<u4").tobytes()

    def overall(self) -> bytes:
        """All pictures by their largest difference over the classes, that first, ties in the order of the table.

        Little-endian, in that order: uint32 rows [N], uint32 classes [N], float32 scores of A [N] and of B [N], int8
        labels [N], each of the class with the largest difference (the first of equal ones).
        """
        n, width = len(self.a), len(self.a.classes)
        classes, scores = np.empty(n, np.int64), np.empty((2, n), np.float32)
        labels = np.empty(n, np.int8)
        for block in row_blocks(n, width):
            a, b = self.a.scores[block], self._of_b(self.b.scores, block)
            largest = np.abs(a - b).argmax(axis=1)
            own = np.arange(len(a)), largest
            classes[block], scores[0, block], scores[1, block] = largest, a[own], b[own]
            labels[block] = self.a.labels[block][own]
        order = np.argsort(-np.abs(scores[0] - scores[1]), kind="stable")
        parts = (order.astype("<u4"), classes[order].astype("<u4"), scores[:, order].astype("<f4"), labels[order])
        return b"".join(part.tobytes() for part in parts)

    def classes(self) -> list[dict[str, Any]]:
        """For each class: AP of A and B by A's labels, mean difference, pictures that one of them alone predicts.

        A class is predicted above the model's own threshold, at 0.5 where nothing is known of thresholds.
        """
        width = len(self.a.classes)
        thresholds = [np.array(one.thresholds or (0.5,) * width) for one in (self.a, self.b)]
        total, differ = np.zeros(width), np.zeros(width, np.int64)
        for block in row_blocks(len(self.a), width):
            a, b = self.a.scores[block], self._of_b(self.b.scores, block)
            total += np.abs(a - b).sum(axis=0, dtype=np.float64)
            differ += ((a > thresholds[0]) != (b > thresholds[1])).sum(axis=0)
        ap_a = ranking_ap(self.a.ranking, self.a.labels).ap
        ap_b = ranking_ap(self._of_b(self.b.ranking), self.a.labels).ap
        return [
            {"ap_a": _known(one), "ap_b": _known(other), "mean": float(mean), "differ": int(number)}
            for one, other, mean, number in zip(ap_a, ap_b, total / len(self.a), differ, strict=True)
        ]

    def _of_b(
        self, values: NDArray[np.float32], part: slice = slice(None), class_index: int | None = None
    ) -> NDArray[np.float32]:
        column = slice(None) if class_index is None else class_index
        return values[part if self.rows is None else self.rows[part], column]


def compared(a: Predictions, b: Predictions, names: tuple[str, str]) -> Compared:
    """Two tables of the same pictures, matched by id.

    Raises:
        UserError: other classes, or a picture that one of the tables lacks; the first that differ are named.
    """
    if a.classes != b.classes:
        first = next((pair for pair in zip(a.classes, b.classes, strict=False) if pair[0] != pair[1]), None)
        detail = f"'{first[0]}' and '{first[1]}'" if first else f"{len(a.classes)} and {len(b.classes)} of them"
        raise UserError(f"the classes of {names[0]} and {names[1]} differ; first: {detail}.")
    if a.ids == b.ids:
        return Compared(names, a, b, None)
    ours, theirs = (pl.DataFrame({"id": pl.Series(one.ids, dtype=pl.String)}).with_row_index("row") for one in (a, b))
    faults = []
    for one, other, name in ((ours, theirs, names[0]), (theirs, ours, names[1])):
        alone = one.join(other, on="id", how="anti", maintain_order="left")["id"]
        if len(alone):
            faults.append(f"{len(alone)} only in {name}: {', '.join(alone[:_NAMED])}{', …' * (len(alone) > _NAMED)}")
    if faults or len(ours) != len(theirs):
        what = "; ".join(faults) or "an id stands twice"
        raise UserError(f"the pictures differ ({what}).", remedy="Compare two evaluations of one split.")
    rows = ours.select("id").join(theirs, on="id", how="left", maintain_order="left")["row"]
    return Compared(names, a, b, rows.cast(pl.Int64).to_numpy())


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
