"""Thresholds chosen on one split, to be used on another: best F1, wanted precision, wanted recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels, Scores, per_class

# Steps of the tested sequence are at least this far apart: fewer steps are fewer chances to stop by bad luck.
_GROWTH = 1.02


@dataclass(frozen=True)
class ChosenThresholds:
    """A threshold for each of C classes; predicted where score > threshold.

    Arguments:
        rule: what was asked for, in words.
        thresholds: float64 [C]; the highest score that is not predicted, or the number next below the lowest score
            where all are. NaN where no threshold does what the rule asks.
        achieved: float64 [C], 0…1; F1, precision or recall at the threshold, on the images it was chosen on.
        bound: float64 [C], 0…1; the lower confidence bound at the threshold; NaN without a confidence.
    """

    rule: str
    thresholds: NDArray[np.float64]
    achieved: NDArray[np.float64]
    bound: NDArray[np.float64]

    def filled(self, missing: float = 1.0) -> NDArray[np.float64]:
        """The thresholds with `missing` for NaN, float64 [C], as `threshold_counts` and `measure` take them.

        No probability exceeds 1, so by default a class without a threshold is never predicted.
        """
        return np.where(np.isnan(self.thresholds), missing, self.thresholds)


def carried_over(chosen: ChosenThresholds, scores: Scores, moved: Scores, *, stricter: bool) -> NDArray[np.float64]:
    """Thresholds chosen on `scores`, stated for scores that a rising map has moved.

    The map may have been fitted on the labels and may tie scores: a search among its ties would look for luck, and no
    promise would hold (docs/metrics.md). So the choice is made before the map, and where a tie holds the threshold,
    the whole tie goes to one side.

    Arguments:
        chosen: for `scores`.
        scores: float32 or float64 [N, C].
        moved: float32 or float64 [N, C], rising with `scores` in every class.
        stricter: True: what is predicted was predicted before, as a promised precision wants it. False: what was
            predicted before still is, as a promised recall wants it.

    Returns:
        float64 [C]; NaN where `chosen` has it, and where the stricter side predicts nothing any more.
    """
    thresholds = np.full(chosen.thresholds.shape, np.nan)
    for c in np.flatnonzero(~np.isnan(chosen.thresholds)):
        column, above = moved[:, c].astype(np.float64), scores[:, c] > chosen.thresholds[c]
        below = column[~above] if stricter else column[column < column[above].min()]
        threshold = below.max() if below.size else np.nextafter(column.min(), -np.inf)
        if (column > threshold).any():
            thresholds[c] = threshold
    return thresholds


def best_f1(scores: Scores, labels: Labels) -> ChosenThresholds:
    """The threshold of each class that has the highest F1; of equally good ones the highest.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.

    Returns:
        a threshold a class; NaN for a class without a positive.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or infinite; a label is none of -1, 0, 1.
    """

    def choose(steps: _Steps) -> _Choice:
        if not steps.n_positive:
            return _NONE
        f1 = 2 * steps.true / (steps.predicted + steps.n_positive)
        best = int(f1.argmax())
        return _Choice(steps.threshold(best), float(f1[best]), np.nan)

    return _choose("best F1", choose, scores, labels)


def wanted_precision(
    scores: Scores, labels: Labels, precision: float, confidence: float | None = 0.9
) -> ChosenThresholds:
    """The lowest threshold of each class that promises a precision on new images of the same kind.

    With probability `confidence` or more over the draw of these images, the precision at the chosen threshold is
    `precision` or more. Thresholds are tested from the strictest down, each by the exact binomial test that the lower
    bound of Clopper and Pearson inverts, and the last one before the first failure is chosen. In such a fixed sequence
    every test may spend the whole 1 − confidence. The steps, fixed before any label is seen, are the least numbers of
    predicted images at which 0, 1, 2, … wrong ones pass, at least 2 % apart. The proof and what it assumes are in
    docs/metrics.md.

    Without a confidence, the lowest threshold whose precision on these very images is the wanted one. It is chosen for
    its luck, and on new images it fails about every second time.

    Source: Angelopoulos et al., Learn then Test, 2021 (fixed sequence testing); Clopper and Pearson,
    Biometrika 1934.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        precision: above 0, at most 1.
        confidence: between 0 and 1; None promises nothing.

    Returns:
        a threshold a class; NaN where none can promise. At precision 0.9 and confidence 0.9 the first step needs 22
        images, all of them right: a class with fewer positives has no threshold.

    Raises:
        UserError: as `best_f1`; or `precision` or `confidence` is out of range.
    """
    _check_share("precision", precision)
    rule = _rule("precision", precision, confidence)
    if confidence is None:

        def plain(steps: _Steps) -> _Choice:
            reached = np.flatnonzero(steps.true / steps.predicted >= precision)
            if not reached.size:
                return _NONE
            last = int(reached[-1])
            return _Choice(steps.threshold(last), float(steps.true[last] / steps.predicted[last]), np.nan)

        return _choose(rule, plain, scores, labels)

    risk = 1 - confidence
    sequence = _sequence(len(scores), precision, risk)

    def tested(steps: _Steps) -> _Choice:
        # Images of equal score are predicted together: a step inside a tie goes to its end.
        ends = steps.predicted.searchsorted(sequence[sequence <= steps.n_known], "left")
        true, predicted = steps.true[ends], steps.predicted[ends]
        failed = bdtr(predicted - true, predicted, 1 - precision) > risk
        passed = int(failed.argmax()) if failed.any() else failed.size
        if not passed:
            return _NONE
        t, k, n = steps.threshold(int(ends[passed - 1])), true[passed - 1], predicted[passed - 1]
        return _Choice(t, float(k / n), float(betaincinv(k, n - k + 1, risk)))

    return _choose(rule, tested, scores, labels)


def wanted_recall(scores: Scores, labels: Labels, recall: float, confidence: float | None = 0.9) -> ChosenThresholds:
    """The highest threshold of each class that promises a recall on new images of the same kind.

    With probability `confidence` or more over the draw of the n positives, the recall at the chosen threshold is
    `recall` or more. Nothing is scanned here: the recall at the r-th lowest of n positives is distributed as
    Beta(n + 1 − r, r) or lies above it, whatever the scores are, and r is the highest that keeps the promise.

    Without a confidence, the highest threshold whose recall on these very images is the wanted one.

    Source: Wilks, Determination of sample sizes for setting tolerance limits, Annals of Mathematical Statistics 1941.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        recall: above 0, at most 1.
        confidence: between 0 and 1; None promises nothing.

    Returns:
        a threshold a class; NaN where none can promise: at recall 0.9 and confidence 0.9, with fewer than 22 positives.

    Raises:
        UserError: as `best_f1`; or `recall` or `confidence` is out of range.
    """
    _check_share("recall", recall)
    rule = _rule("recall", recall, confidence)

    def choose(steps: _Steps) -> _Choice:
        n = steps.n_positive
        if not n:
            return _NONE
        if confidence is None:
            needed, bound = int((np.arange(1, n + 1) / n < recall).sum()) + 1, np.nan
        else:
            r = int((bdtr(np.arange(n), n, 1 - recall) <= 1 - confidence).sum())
            if not r:
                return _NONE
            needed, bound = n - r + 1, float(betaincinv(n - r + 1, r, 1 - confidence))
        step = int(steps.true.searchsorted(needed, "left"))
        return _Choice(steps.threshold(step), float(steps.true[step] / n), bound)

    return _choose(rule, choose, scores, labels)


class _Choice(NamedTuple):
    threshold: float
    achieved: float
    bound: float


_NONE = _Choice(np.nan, np.nan, np.nan)


class _Steps(NamedTuple):
    """What is predicted from each distinct score on, descending: `predicted[k]` images, `true[k]` of them positives."""

    distinct: NDArray[np.float64]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    n_positive: int
    n_known: int

    def threshold(self, k: int) -> float:
        """The number that just the images of the first k + 1 distinct scores exceed."""
        below = self.distinct[k + 1] if k + 1 < self.distinct.size else np.nextafter(self.distinct[k], -np.inf)
        return float(below)


def _choose(rule: str, choose: Callable[[_Steps], _Choice], scores: Scores, labels: Labels) -> ChosenThresholds:
    rows = per_class(lambda _, s, y: choose(_steps(s, y)), scores, labels)
    table = np.array(rows, np.float64).reshape(-1, 3).T
    return ChosenThresholds(rule, *(np.ascontiguousarray(row) for row in table))


def _steps(scores: Scores, labels: Labels) -> _Steps:
    positives, negatives = np.sort(scores.compress(labels == 1)), np.sort(scores.compress(labels == 0))
    distinct = np.unique(np.concatenate([positives, negatives]))[::-1]
    true = positives.size - positives.searchsorted(distinct, "left")
    false = negatives.size - negatives.searchsorted(distinct, "left")
    # float64 holds every float32 exactly.
    known = positives.size + negatives.size
    return _Steps(distinct.astype(np.float64), true, true + false, positives.size, known)


def _sequence(n_images: int, precision: float, risk: float) -> NDArray[np.int64]:
    """The numbers of predicted images to test at, ascending: the least ones that let 0, 1, 2, … wrong images pass."""
    wrong = [0]
    while wrong[-1] < n_images:
        wrong.append(max(wrong[-1] + 1, int(_GROWTH * wrong[-1])))
    errors = np.array(wrong, np.int64)
    # P(wrong ≤ e) falls as images are added; bisection finds the first number at which it is within the risk.
    low, high = errors.copy(), np.full(errors.size, n_images + 1)
    while (low + 1 < high).any():
        middle = np.maximum(low + 1, (low + high) // 2)
        passes = bdtr(errors, middle, 1 - precision) <= risk
        low, high = np.where(passes, low, middle), np.where(passes, middle, high)
    return high[high <= n_images]


def _rule(name: str, wanted: float, confidence: float | None) -> str:
    if confidence is None:
        return f"{name} ≥ {wanted:g} on these images"
    if not 0 < confidence < 1:
        raise UserError(f"a confidence lies between 0 and 1, not at {confidence}.")
    return f"{name} ≥ {wanted:g} with confidence {confidence:g}"


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise UserError(f"the wanted {name} is above 0 and at most 1, not {value}.")
