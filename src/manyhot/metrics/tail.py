"""Tail accuracy: how right the confident predictions are, as an exact step function of the confidence asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels, Scores, check_one_class, per_class

_START = 0.5

# From 0.5 in steps of 0.005; at 1 no probability lies above the threshold.
_SAMPLES = np.arange(100, 200) / 200


@dataclass(frozen=True)
class TailCurve:
    """Tail accuracy of one class: `values[k]` holds for `starts[k]` ≤ t < `starts[k + 1]`, the last until `stop`.

    Arguments:
        starts: float64 [K], ascending; the first is 0.5, the others are the distinct scores above it but the highest.
        values: float64 [K], 0…1; the precision among images scored above t.
        stop: the highest score, where the curve ends because no image lies above; 0.5 where K is 0.
    """

    starts: NDArray[np.float64]
    values: NDArray[np.float64]
    stop: float

    def at(self, thresholds: ArrayLike) -> NDArray[np.float64]:
        """The curve at the given thresholds, shaped as they are; NaN below 0.5 and from `stop` on."""
        t = np.asarray(thresholds, np.float64)
        inside = (t >= _START) & (t < self.stop)
        step = self.starts.searchsorted(t, "right") - 1
        result = np.full(t.shape, np.nan)
        result[inside] = self.values[step[inside]]
        return result

    def mean(self) -> float:
        """The mean over the thresholds 0.5 ≤ t < `stop`, weighing each step by its length; NaN where K is 0."""
        if not self.starts.size:
            return float("nan")
        # np.average divides by the sum of the very weights, so that a curve of ones has the mean 1 exactly.
        return float(np.average(self.values, weights=np.diff(self.starts, append=self.stop)))


@dataclass(frozen=True)
class MeanTailCurve:
    """The tail curves of all classes averaged at sampled thresholds.

    Arguments:
        thresholds: float64 [T].
        mean: float64 [T], 0…1; the mean over the classes that count there, NaN where none does.
        n: int64 [T]; how many classes still have a score above the threshold.
    """

    thresholds: NDArray[np.float64]
    mean: NDArray[np.float64]
    n: NDArray[np.int64]


def tail_curve(scores: Scores, labels: Labels) -> TailCurve:
    """Tail accuracy of one class at every threshold t from 0.5 up to its highest score.

    Tailacc(t) = Σ_i [ŷ_i = y_i]·[f(x_i) > t] / Σ_i [f(x_i) > t] with ŷ_i = [f(x_i) > 0.5]. At t ≥ 0.5 every image
    counted is predicted present, so this is the precision among images scored above t.

    Arguments:
        scores: float32 or float64 [N], 0…1, finite.
        labels: int8 [N]; 1 present, 0 absent, -1 left out.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or infinite; a label is none of -1, 0, 1.
    """
    check_one_class(scores, labels)
    return _class_curve(scores, labels)


def tail_accuracy(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """The mean of each class's tail curve over the thresholds from 0.5 up to the class's highest score.

    The integral of the step function divided by its length: what the mean over evenly spaced thresholds tends to.

    Arguments:
        scores: float32 or float64 [N, C], 0…1, finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.

    Returns:
        float64 [C], 0…1; NaN for a class without a score above 0.5.

    Raises:
        UserError: as `tail_curve`.
    """
    return np.array(per_class(lambda _, s, y: _class_curve(s, y).mean(), scores, labels), np.float64)


def mean_tail_curve(scores: Scores, labels: Labels, thresholds: ArrayLike = _SAMPLES) -> MeanTailCurve:
    """The tail curves of all classes, averaged at each threshold over the classes with a score above it.

    Arguments:
        scores: float32 or float64 [N, C], 0…1, finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        thresholds: float [T], each 0.5 or more; 0.500, 0.505, … 0.995 unless given.

    Raises:
        UserError: as `tail_curve`; or a threshold is below 0.5.
    """
    return tails(scores, labels, thresholds)[1]


def tails(
    scores: Scores, labels: Labels, thresholds: ArrayLike = _SAMPLES
) -> tuple[NDArray[np.float64], MeanTailCurve]:
    """`tail_accuracy` and `mean_tail_curve` from one sort a class.

    Raises:
        UserError: as `mean_tail_curve`.
    """
    t = np.asarray(thresholds, np.float64)
    if t.ndim != 1 or not (t >= _START).all():
        raise UserError("the thresholds of a tail curve are a list of numbers of 0.5 or more.")

    def measure(_: int, scores_N: Scores, labels_N: Labels) -> tuple[float, NDArray[np.float64]]:
        # Only the samples are kept: the exact curves of a million images and many classes would not fit in memory.
        curve = _class_curve(scores_N, labels_N)
        return curve.mean(), curve.at(t)

    results = per_class(measure, scores, labels)
    accuracy = np.array([mean for mean, _ in results], np.float64)
    samples = np.array([sampled for _, sampled in results], np.float64).reshape(len(results), t.size)
    counted = ~np.isnan(samples)
    n = counted.sum(axis=0)
    total = np.where(counted, samples, 0.0).sum(axis=0)
    mean = np.divide(total, n, out=np.full(t.size, np.nan), where=n > 0)
    return accuracy, MeanTailCurve(t, mean, n)


def _class_curve(scores: Scores, labels: Labels) -> TailCurve:
    confident = scores > _START
    # Sorting the two kinds apart uses numpy's vectorised sort; float64 holds every float32 exactly.
    positives = np.sort(scores.compress(confident & (labels == 1))).astype(np.float64)
    negatives = np.sort(scores.compress(confident & (labels == 0))).astype(np.float64)
    distinct = np.unique(np.concatenate([positives, negatives]))
    if not distinct.size:
        return TailCurve(np.empty(0), np.empty(0), _START)
    starts = np.concatenate([[_START], distinct[:-1]])
    right = positives.size - positives.searchsorted(starts, "right")
    wrong = negatives.size - negatives.searchsorted(starts, "right")
    return TailCurve(starts, right / (right + wrong), float(distinct[-1]))
