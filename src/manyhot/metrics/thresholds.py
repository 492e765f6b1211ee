"""Counts at a threshold and what follows from them: precision, recall, F-beta, accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyhot.errors import UserError, nearest
from manyhot.metrics.columns import Labels, Scores, per_class, row_blocks

Average: TypeAlias = Literal["macro", "micro", "samples"]
"""How F-beta is averaged: over classes, over all pairs together, or over images."""


@dataclass(frozen=True)
class Counts:
    """Known images of C classes by what was predicted and what is true, each int64 [C].

    Arguments:
        tp: predicted and present.
        fp: predicted and absent.
        fn: not predicted and present.
        tn: not predicted and absent.
    """

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    tn: NDArray[np.int64]

    def precision(self) -> NDArray[np.float64]:
        """tp / (tp + fp), float64 [C], 0…1; NaN for a class that is never predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    def recall(self) -> NDArray[np.float64]:
        """tp / (tp + fn), float64 [C], 0…1; NaN for a class without a positive."""
        return _ratio(self.tp, self.tp + self.fn)

    def f_beta(self, beta: float) -> NDArray[np.float64]:
        """(1+β²)·tp / ((1+β²)·tp + β²·fn + fp), float64 [C], 0…1; NaN for a class neither predicted nor present."""
        return _f_beta(self.tp, self.tp + self.fp, self.tp + self.fn, beta)

    def accuracy(self) -> float:
        """The share of known (image, class) pairs predicted right, 0…1; NaN where no pair is known."""
        right, wrong = int(self.tp.sum() + self.tn.sum()), int(self.fp.sum() + self.fn.sum())
        return right / (right + wrong) if right + wrong else float("nan")


def class_thresholds(thresholds: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """One threshold a class, float64 [C], from one number or C of them.

    Raises:
        UserError: another number of them, or one that is not finite.
    """
    t = np.asarray(thresholds, np.float64)
    if t.shape not in {(), (n_classes,)}:
        raise UserError(f"thresholds are one number or one for each of {n_classes} classes, not {list(t.shape)}.")
    if not np.isfinite(t).all():
        raise UserError("a threshold is NaN or infinite.")
    return np.broadcast_to(t, n_classes)


def threshold_counts(scores: Scores, labels: Labels, thresholds: ArrayLike = 0.5) -> Counts:
    """True and false positives and negatives of every class, predicted where score > threshold.

    Scores and thresholds are compared exactly: a float32 score is not above the float64 number next to it.

    Arguments:
        scores: float32 or float64 [N, C], finite; what the thresholds are stated for, as a rule probabilities.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        thresholds: a number, or float [C].

    Raises:
        UserError: shapes or dtypes do not fit; a score or threshold is NaN or infinite; a label is none of -1, 0, 1.
    """
    t = class_thresholds(thresholds, np.shape(scores)[1] if np.ndim(scores) == 2 else 0)

    def measure(c: int, scores_N: Scores, labels_N: Labels) -> tuple[int, int, int, int]:
        # t[c] is a float64 scalar, so numpy compares in float64; a Python float would be rounded to float32 first.
        predicted, present, absent = scores_N > t[c], labels_N == 1, labels_N == 0
        tp, fp = int(np.count_nonzero(predicted & present)), int(np.count_nonzero(predicted & absent))
        return tp, fp, int(np.count_nonzero(present)) - tp, int(np.count_nonzero(absent)) - fp

    table = np.array(per_class(measure, scores, labels), np.int64).reshape(-1, 4).T
    return Counts(*(np.ascontiguousarray(row) for row in table))


def f_beta(
    scores: Scores,
    labels: Labels,
    thresholds: ArrayLike = 0.5,
    beta: float = 2.0,
    average: Average = "macro",
    zero_division: float = 0.0,
) -> float:
    """F-beta, averaged as `sklearn.metrics.fbeta_score` does, over the pairs that are not ignored.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 ignored.
        thresholds: a number, or float [C]; predicted where score > threshold.
        beta: weight of recall, 0 or more.
        average: "macro" over classes, "micro" over all pairs together, "samples" over images. A class ("macro") or
            image ("samples") whose labels are all ignored is left out.
        zero_division: the value of a class or image with nothing predicted and nothing present; NaN leaves it out.

    Returns:
        0…1; NaN where nothing is known.

    Raises:
        UserError: as `threshold_counts`; or `beta` or `average` is out of range.
    """
    return f_beta_of(
        threshold_counts(scores, labels, thresholds), scores, labels, thresholds, beta, average, zero_division
    )


def f_beta_of(
    counts: Counts,
    scores: Scores,
    labels: Labels,
    thresholds: ArrayLike,
    beta: float,
    average: Average,
    zero_division: float = 0.0,
) -> float:
    """`f_beta`, given the counts that `threshold_counts` made of the same arrays."""
    if average not in get_args(Average):
        raise UserError(f"there is no average '{average}'.", remedy=nearest(average, get_args(Average)))
    if not (np.isfinite(beta) and beta >= 0):
        raise UserError(f"beta must be a number of 0 or more, not {beta}.")
    if average == "samples":
        values, known = _sample_f_beta(scores, labels, class_thresholds(thresholds, np.shape(scores)[1]), beta)
    elif average == "macro":
        values, known = counts.f_beta(beta), (counts.tp + counts.fp + counts.fn + counts.tn) > 0
    else:
        tp, fp, fn, tn = (np.array([part.sum()]) for part in (counts.tp, counts.fp, counts.fn, counts.tn))
        values, known = _f_beta(tp, tp + fp, tp + fn, beta), (tp + fp + fn + tn) > 0
    values = values[known]
    values[np.isnan(values)] = zero_division
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _sample_f_beta(
    scores: Scores, labels: Labels, thresholds: NDArray[np.float64], beta: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, known = np.empty(len(scores)), np.empty(len(scores), bool)
    for rows in row_blocks(*scores.shape):
        present, counted = labels[rows] == 1, labels[rows] != -1
        predicted = (scores[rows] > thresholds) & counted
        tp = (predicted & present).sum(axis=1)
        values[rows] = _f_beta(tp, predicted.sum(axis=1), present.sum(axis=1), beta)
        known[rows] = counted.any(axis=1)
    return values, known


def _f_beta(
    tp: NDArray[np.int64], predicted: NDArray[np.int64], present: NDArray[np.int64], beta: float
) -> NDArray[np.float64]:
    return _ratio((1 + beta**2) * tp, beta**2 * present + predicted)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
