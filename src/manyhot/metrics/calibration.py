"""Calibration: how far scores are from frequencies, and two maps that bring them nearer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from manyhot.errors import UserError, nearest
from manyhot.metrics.columns import Labels, Scores, check_one_class, per_class

Binning: TypeAlias = Literal["mass", "width"]
"""How scores are put into bins: as many images in each, or equally wide ones on 0…1."""

Knots: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Points of a rising line: scores, ascending, and what they become."""

_IDENTITY: Knots = ((0.0, 1.0), (0.0, 1.0))

# A split that the scores separate without a fault would ask for temperature 0, one they order backwards for infinity.
_HOTTEST = 20.0


class ReliabilityCurve(NamedTuple):
    """The reliability diagram of one class: a point for each bin that holds an image.

    Arguments:
        score: float64 [B], 0…1, ascending; mean score of the bin's images.
        share: float64 [B], 0…1; share of them that show the class.
        n: int64 [B]; how many they are.
    """

    score: NDArray[np.float64]
    share: NDArray[np.float64]
    n: NDArray[np.int64]

    def error(self) -> float:
        """Expected calibration error: Σ n_b / n · |share_b − score_b|, 0…1; NaN without an image."""
        return float(np.average(np.abs(self.share - self.score), weights=self.n)) if self.n.size else float("nan")


@dataclass(frozen=True)
class Calibration:
    """A rising map from scores to calibrated scores for each of C classes, fitted on one split, applied to others.

    Arguments:
        method: "temperature" or "isotonic".
        temperatures: C of them, above 0; empty for "isotonic".
        knots: C of them; empty for "temperature".
    """

    method: Literal["temperature", "isotonic"]
    temperatures: tuple[float, ...] = ()
    knots: tuple[Knots, ...] = ()

    def apply(self, scores: Scores) -> NDArray[np.float64]:
        """Calibrated scores.

        Temperature keeps the order of scores, and so every average precision. Isotonic gives one value to a whole
        plateau of scores, which then tie: average precision may fall or rise. Rank by the scores as they were.
        In float32 the results of temperature may tie as well, so they are float64.

        Arguments:
            scores: float32 or float64 [N, C], 0…1.

        Returns:
            float64 [N, C], 0…1.

        Raises:
            UserError: another number of classes; a score is NaN or outside 0…1.
        """
        n_classes = len(self.temperatures or self.knots)
        if scores.ndim != 2 or scores.shape[1] != n_classes:
            raise UserError(f"the calibration is for {n_classes} classes; the scores are {list(scores.shape)}.")
        _check_probabilities(scores)
        if self.method == "temperature":
            calibrated: NDArray[np.float64] = _sigmoid(_logits(scores) / np.array(self.temperatures))
            return calibrated
        out = np.empty(scores.shape)
        for c, (x, y) in enumerate(self.knots):
            out[:, c] = np.interp(scores[:, c].astype(np.float64), x, y)
        return out

    def without_plateaus(self, share: float = 0.001) -> Calibration:
        """The same map with a small share of the score itself mixed in: (1 − share) · calibrated + share · score.

        An isotonic map then rises everywhere on 0…1, also beyond its ends, and moves by `share` at most: scores that
        a plateau would tie stay apart, but for those that float32 cannot tell apart. A temperature has no plateau and
        stays.

        Arguments:
            share: above 0, below 1.
        """
        knots = []
        for x, y in self.knots:
            ends = (([0.0], [y[0]]) if x[0] > 0 else ([], []), ([1.0], [y[-1]]) if x[-1] < 1 else ([], []))
            (left_x, left_y), (right_x, right_y) = ends
            full_x, full_y = [*left_x, *x, *right_x], [*left_y, *y, *right_y]
            mixed = [(1 - share) * b + share * a for a, b in zip(full_x, full_y, strict=True)]
            knots.append((tuple(full_x), tuple(mixed)))
        return replace(self, knots=tuple(knots))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for `json.dump`."""
        if self.method == "temperature":
            return {"method": self.method, "temperatures": list(self.temperatures)}
        return {"method": self.method, "knots": [{"score": list(x), "calibrated": list(y)} for x, y in self.knots]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """What `to_json` gave.

        Raises:
            UserError: something else; a temperature that is not above 0; knots that do not rise.
        """
        try:
            if content["method"] == "temperature":
                calibration = cls("temperature", temperatures=tuple(float(t) for t in content["temperatures"]))
                sound = all(0 < t < np.inf for t in calibration.temperatures)
            elif content["method"] == "isotonic":
                pairs = [(one["score"], one["calibrated"]) for one in content["knots"]]
                knots = tuple((tuple(map(float, x)), tuple(map(float, y))) for x, y in pairs)
                calibration = cls("isotonic", knots=knots)
                sound = all(_rises(x, y) for x, y in knots)
            else:
                raise UserError(
                    f"there is no calibration '{content['method']}'.", remedy="Known: isotonic, temperature."
                )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"this is not a calibration ({type(error).__name__}: {error}).") from None
        if not sound:
            raise UserError("a calibration has temperatures above 0, or knots that rise within 0…1.")
        return calibration


def reliability_curve(scores: Scores, labels: Labels, bins: int = 15, binning: Binning = "mass") -> ReliabilityCurve:
    """The reliability diagram of one class: how often images of about equal score show the class.

    A bin holds the scores above its lower edge up to and with its upper edge. With "width" the edges are 0, 1/bins, …
    1; with "mass" they are the quantiles of the scores, so that bins hold equally many images but for ties, which stay
    together. The points are those of `sklearn.calibration.calibration_curve`, "width" being its "uniform".

    Arguments:
        scores: float32 or float64 [N], 0…1.
        labels: int8 [N]; 1 present, 0 absent, -1 left out.
        bins: 1 or more.
        binning: "mass" or "width".

    Raises:
        UserError: as `expected_calibration_error`.
    """
    _check_bins(bins, binning)
    check_one_class(scores, labels)
    _check_probabilities(scores)
    return _class_curve(scores, labels, bins, binning)


def expected_calibration_error(
    scores: Scores, labels: Labels, bins: int = 15, binning: Binning = "mass"
) -> NDArray[np.float64]:
    """Expected calibration error of every class: Σ_b n_b / n · |share of positives in b − mean score of b|.

    Each class is a yes or no of its own: this is not the error of the highest score of an image. Few images a bin make
    it too high, since what is left of chance in a bin counts as error whatever its sign.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3 (equal width); Nixon et al.,
    Measuring Calibration in Deep Learning, 2019 (equal mass).

    Arguments:
        scores: float32 or float64 [N, C], 0…1.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        bins: 1 or more.
        binning: "mass" or "width"; see `reliability_curve`.

    Returns:
        float64 [C], 0…1; NaN for a class of which nothing is known.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or outside 0…1; a label is none of -1, 0, 1; `bins` or
            `binning` is out of range.
    """
    _check_bins(bins, binning)

    def measure(_: int, scores_N: Scores, labels_N: Labels) -> float:
        _check_probabilities(scores_N)
        return _class_curve(scores_N, labels_N, bins, binning).error()

    return np.array(per_class(measure, scores, labels), np.float64)


def fit_temperature(scores: Scores, labels: Labels, *, shared: bool = False) -> Calibration:
    """One temperature T a class, or one for all, that makes the labels likeliest under sigmoid(logit(score) / T).

    The mean negative log-likelihood is convex in 1/T; Newton's method, kept inside a shrinking bracket, finds its only
    minimum. T stays within 1/20…20. A class without a positive or without a negative keeps T = 1. Scores after a
    softmax are treated as so many yes or no questions, and no longer sum to 1 afterwards.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2, for one yes or no a class.

    Arguments:
        scores: float32 or float64 [N, C], 0…1; of a split that nothing was trained on.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        shared: one temperature for all classes, from all known pairs together.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or outside 0…1; a label is none of -1, 0, 1.
    """

    def known(_: int, scores_N: Scores, labels_N: Labels) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        _check_probabilities(scores_N)
        there = labels_N != -1
        return _logits(scores_N.compress(there)), labels_N.compress(there) == 1

    if shared:
        pairs = per_class(known, scores, labels)
        logits, present = (np.concatenate(part) for part in zip(*pairs, strict=True)) if pairs else ((), ())
        temperature = _temperature(np.asarray(logits), np.asarray(present, bool))
        return Calibration("temperature", temperatures=(temperature,) * scores.shape[1])
    fitted = per_class(lambda c, s, y: _temperature(*known(c, s, y)), scores, labels)
    return Calibration("temperature", temperatures=tuple(fitted))


def fit_isotonic(scores: Scores, labels: Labels) -> Calibration:
    """The rising step-like line a class that is nearest to the labels, by scikit-learn's `IsotonicRegression`.

    Between its knots the line is straight; beyond the first and last score of the split it goes on level. It follows
    any rising shape, but wants many more images than a temperature, and it has plateaus (see `Calibration.apply`).
    A class without a positive or without a negative keeps its scores.

    Source: Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    Arguments and errors are those of `fit_temperature`.
    """
    from sklearn.isotonic import IsotonicRegression

    def fit(_: int, scores_N: Scores, labels_N: Labels) -> Knots:
        _check_probabilities(scores_N)
        there = labels_N != -1
        x, y = scores_N.compress(there).astype(np.float64), labels_N.compress(there)
        if not y.size or y.min() == y.max():
            return _IDENTITY
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y.astype(np.float64))
        return tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist())

    return Calibration("isotonic", knots=tuple(per_class(fit, scores, labels)))


def _class_curve(scores: Scores, labels: Labels, bins: int, binning: Binning) -> ReliabilityCurve:
    there = labels != -1
    x, y = scores.compress(there).astype(np.float64), labels.compress(there).astype(np.float64)
    at = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    edges = np.quantile(x, at) if binning == "mass" and x.size else at
    place = edges.searchsorted(x, "left")
    n = np.bincount(place, minlength=bins)
    filled = n > 0
    score, share = (np.bincount(place, weights=one, minlength=bins)[filled] / n[filled] for one in (x, y))
    return ReliabilityCurve(score, share, n[filled])


def _temperature(logits: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    if not present.any() or present.all():
        return 1.0

    def slope(a: float) -> tuple[float, float]:
        p = _sigmoid(a * logits)
        return float(np.mean(logits * (p - present))), float(np.mean(logits**2 * p * (1 - p)))

    low, high = 1 / _HOTTEST, _HOTTEST  # of a = 1/T, in which the loss is convex
    if slope(low)[0] >= 0:
        return 1 / low
    if slope(high)[0] <= 0:
        return 1 / high
    a = 1.0
    for _ in range(100):
        first, second = slope(a)
        low, high = (a, high) if first < 0 else (low, a)
        step = a - first / second if second > 0 else low
        former, a = a, step if low < step < high else (low + high) / 2
        if abs(a - former) <= 1e-12 * a:
            break
    return 1 / a


def _logits(scores: Scores) -> NDArray[np.float64]:
    """log(s / (1 − s)) in float64; 0 and 1 as if half a step of their precision inside."""
    precision = np.finfo(scores.dtype)
    s = scores.astype(np.float64)
    above, below = float(precision.smallest_subnormal), float(precision.epsneg) / 2
    logits: NDArray[np.float64] = np.log(np.maximum(s, above)) - np.log(np.maximum(1 - s, below))
    return logits


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(−x)), exact at both ends; scipy's is not at hand where exported models run."""
    return np.exp(-np.logaddexp(0.0, -logits))


def _rises(x: tuple[float, ...], y: tuple[float, ...]) -> bool:
    level = all(0 <= value <= 1 for value in (*x, *y))
    rising = np.all(np.diff(x) > 0) and np.all(np.diff(y) >= 0)
    return bool(x) and len(x) == len(y) and level and bool(rising)


def _check_probabilities(scores: Scores) -> None:
    outside = scores.size - np.count_nonzero((scores >= 0) & (scores <= 1))
    if outside:
        raise UserError(
            f"{outside} of {scores.size} scores are outside 0…1.", remedy="Calibration wants probabilities, not logits."
        )


def _check_bins(bins: int, binning: str) -> None:
    if bins < 1:
        raise UserError(f"bins must be 1 or more, not {bins}.")
    if binning not in get_args(Binning):
        raise UserError(f"there is no binning '{binning}'.", remedy=nearest(binning, get_args(Binning)))
