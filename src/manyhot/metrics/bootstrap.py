"""How sure an average precision is: bootstrap intervals over images, for one table and for the difference of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels, Scores, per_class
from manyhot.metrics.ranking import mean_ap

# Counts of one block of resamples; 2 MB as uint16, so that gathering their rows stays near the processor.
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class APIntervals:
    """Average precision of C classes and its mean, each between the ends of its confidence interval.

    Arguments:
        ap, low, high: float64 [C], 0…1; NaN for a class without a positive.
        map, map_low, map_high: mean over the classes with a positive, 0…1; NaN where there is none.
        n_undefined: int64 [C]; resamples in which the class had no positive. They are left out of its interval, and
            the class is left out of their mean.
        resamples: how many were drawn.
        confidence: of each interval by itself.
    """

    ap: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    map: float
    map_low: float
    map_high: float
    n_undefined: NDArray[np.int64]
    resamples: int
    confidence: float


@dataclass(frozen=True)
class APDifference:
    """Average precision of two tables a and b of the same images, and the difference b − a with its interval.

    Arguments:
        ap_a, ap_b: float64 [C], 0…1; NaN for a class without a positive.
        difference, low, high: float64 [C], −1…1; NaN likewise.
        map_a, map_b: means over the classes with a positive.
        map_difference, map_low, map_high: of the means.
        favour: share of resamples in which the mean of b is higher, 0…1; equal ones count by half.
        resamples: how many were drawn.
        confidence: of each interval by itself.
    """

    ap_a: NDArray[np.float64]
    ap_b: NDArray[np.float64]
    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    map_a: float
    map_b: float
    map_difference: float
    map_low: float
    map_high: float
    favour: float
    resamples: int
    confidence: float


def bootstrap_ap(
    scores: Scores, labels: Labels, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> APIntervals:
    """Confidence intervals of each average precision and of their mean, by resampling images.

    A resample draws N of the N images with replacement, whole rows, so that what classes share is kept. Average
    precision is the non-interpolated one, each image weighing as often as it was drawn. The intervals are BCa: the
    percentiles are moved for the bias of the resamples and for a spread that changes with the value, the acceleration
    coming from the exact jackknife. Resample r is a function of (seed, r).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equations 14.9, 14.10, 14.14 and 14.15.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        resamples: 100 or more.
        confidence: between 0 and 1.
        seed: 0 or more.

    Raises:
        UserError: as `ranking_ap`; or an option is out of range.
    """
    _check_options(resamples, confidence, seed)
    table = _Resampled.of(scores, labels, resamples, seed)
    low, high = _intervals(table.ap, table.resampled, table.left_out, confidence)
    map_low, map_high = _mean_interval(table.ap, table.resampled, table.left_out, confidence)
    undefined = np.isnan(table.resampled).sum(axis=1)
    return APIntervals(table.ap, low, high, mean_ap(table.ap)[0], map_low, map_high, undefined, resamples, confidence)


def paired_bootstrap_ap(
    scores_a: Scores,
    scores_b: Scores,
    labels: Labels,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> APDifference:
    """Confidence intervals of what the average precision of b is above that of a, on the same images.

    Both tables are measured on the same resamples, so that images that are easy or hard for both cancel: the interval
    is as a rule much narrower than two separate ones suggest. Otherwise as `bootstrap_ap`.

    Arguments:
        scores_a, scores_b: float32 or float64 [N, C], finite; row i of both is the same image.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        resamples: 100 or more.
        confidence: between 0 and 1.
        seed: 0 or more.

    Raises:
        UserError: as `ranking_ap`; or an option is out of range.
    """
    _check_options(resamples, confidence, seed)
    a, b = (_Resampled.of(scores, labels, resamples, seed) for scores in (scores_a, scores_b))
    ap, resampled, left_out = b.ap - a.ap, b.resampled - a.resampled, b.left_out - a.left_out
    low, high = _intervals(ap, resampled, left_out, confidence)
    map_low, map_high = _mean_interval(ap, resampled, left_out, confidence)
    means = _column_means(resampled)
    means = means[~np.isnan(means)]
    favour = float(np.mean((means > 0) + 0.5 * (means == 0))) if means.size else float("nan")
    map_a, map_b = mean_ap(a.ap)[0], mean_ap(b.ap)[0]
    return APDifference(
        a.ap, b.ap, ap, low, high, map_a, map_b, map_b - map_a, map_low, map_high, favour, resamples, confidence
    )


class _Ranking(NamedTuple):
    """One class, sorted once: the known images by falling score, cut after each run of ties that holds a positive."""

    images: NDArray[np.int32]  # up to the last positive
    cuts: NDArray[np.int64]  # where each stretch begins in `images`
    positives: NDArray[np.int32]
    runs: NDArray[np.int64]  # where each stretch begins in `positives`
    n_images: int

    @classmethod
    def of(cls, scores: Scores, labels: Labels) -> _Ranking:
        known = np.flatnonzero(labels != -1)
        order = known[np.argsort(-scores[known], kind="stable")]
        ranked, present = scores[order], labels[order] == 1
        last = np.append(ranked[1:] != ranked[:-1], True) if order.size else np.empty(0, bool)
        ends = np.flatnonzero(last) + 1
        true = np.cumsum(present)[ends - 1] if order.size else np.empty(0, np.int64)
        holds = np.diff(true, prepend=0) > 0
        ends, true = ends[holds], true[holds]
        cuts, runs = (np.concatenate([[0], part[:-1]]).astype(np.int64) for part in (ends, true))
        stop = int(ends[-1]) if ends.size else 0
        images, positives = order[:stop].astype(np.int32), order[present].astype(np.int32)
        return cls(images, cuts[: ends.size], positives, runs[: ends.size], labels.size)

    def weighted_ap(self, counts: NDArray[np.uint16]) -> NDArray[np.float64]:
        """Average precision, float64 [R], where image i was drawn `counts[i, r]` times; NaN without a positive."""
        if not self.positives.size:
            return np.full(counts.shape[1], np.nan)
        retrieved = np.add.reduceat(counts[self.images], self.cuts, axis=0, dtype=np.int64).cumsum(axis=0)
        found = np.add.reduceat(counts[self.positives], self.runs, axis=0, dtype=np.int64)
        true = found.cumsum(axis=0)
        # Where nothing is retrieved yet, nothing is found either: the summand is 0.
        total = (found * (true / np.maximum(retrieved, 1))).sum(axis=0)
        result = np.full(total.shape, np.nan)
        np.divide(total, true[-1], out=result, where=true[-1] > 0)
        return result

    def left_out_ap(self) -> NDArray[np.float64]:
        """Average precision without each image in turn, float64 [N], exactly and in one pass.

        Leaving an image out changes precision from its own rank down: one retrieved image less, and one positive less
        if it was one. Sums over the stretches below a rank give all N values.
        """
        n = self.positives.size
        if not n:
            return np.full(self.n_images, np.nan)
        retrieved = np.append(self.cuts[1:], self.images.size)
        true = np.append(self.runs[1:], n)
        found = np.diff(true, prepend=0)
        above = np.concatenate([[0.0], np.cumsum(found * true / retrieved)])
        less = np.maximum(retrieved - 1, 1)  # 0 only where the image left out was the only one, and then found is 1
        negative = np.append(np.cumsum((found * true / less)[::-1])[::-1], 0.0)
        positive = np.append(np.cumsum((found * (true - 1) / less)[::-1])[::-1], 0.0)
        result = np.full(self.n_images, above[-1] / n)  # ignored images, and negatives below the last positive
        stretch = np.repeat(np.arange(self.cuts.size), np.diff(self.cuts, append=self.images.size))
        result[self.images] = (above[stretch] + negative[stretch]) / n
        own = np.repeat(np.arange(self.runs.size), found)
        remaining = above[own] + positive[own] - (true[own] - 1) / less[own]
        result[self.positives] = remaining / (n - 1) if n > 1 else np.nan
        return result


class _Resampled(NamedTuple):
    ap: NDArray[np.float64]  # [C]
    resampled: NDArray[np.float64]  # [C, R]
    left_out: NDArray[np.float64]  # [C, N]

    @classmethod
    def of(cls, scores: Scores, labels: Labels, resamples: int, seed: int) -> _Resampled:
        rankings = per_class(lambda _, s, y: _Ranking.of(s, y), scores, labels)
        n = len(scores)
        whole = np.ones((n, 1), np.uint16)
        ap = np.array([ranking.weighted_ap(whole)[0] for ranking in rankings], np.float64)
        resampled = np.empty((len(rankings), resamples))
        for columns, counts in _draws(n, resamples, seed):
            for row, ranking in zip(resampled, rankings, strict=True):
                row[columns] = ranking.weighted_ap(counts)
        left_out = np.array([ranking.left_out_ap() for ranking in rankings], np.float64).reshape(len(rankings), n)
        return cls(ap, resampled, left_out)


def _draws(n_images: int, resamples: int, seed: int) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """How often each image is in each resample, [N, R], a block of resamples at a time."""
    width = max(1, _BLOCK_ELEMENTS // max(1, n_images))
    for first in range(0, resamples, width):
        last = min(first + width, resamples)
        counts = np.empty((last - first, n_images), np.uint16)
        for row, r in zip(counts, range(first, last), strict=True):
            # An empty table has nothing to draw from.
            drawn = np.random.default_rng([seed, r]).integers(0, max(1, n_images), n_images)
            row[:] = np.bincount(drawn, minlength=n_images)
        yield slice(first, last), np.ascontiguousarray(counts.T)


def _intervals(
    estimates: NDArray[np.float64], resampled: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = [_bca(*row, confidence) for row in zip(estimates, resampled, left_out, strict=True)]
    low, high = np.array(rows, np.float64).reshape(-1, 2).T
    return np.ascontiguousarray(low), np.ascontiguousarray(high)


def _mean_interval(
    estimates: NDArray[np.float64], resampled: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    return _bca(mean_ap(estimates)[0], _column_means(resampled), _column_means(left_out), confidence)


def _bca(
    estimate: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    values, without = resampled[~np.isnan(resampled)], left_out[~np.isnan(left_out)]
    if np.isnan(estimate) or not values.size:
        return np.nan, np.nan
    # Values within rounding of the estimate are equal to it, and half of those lie below.
    apart = np.where(np.abs(values - estimate) < 1e-12, 0.0, values - estimate)
    below = float(np.mean((apart < 0) + 0.5 * (apart == 0)))
    bias = float(ndtri(np.clip(below, 0.5 / values.size, 1 - 0.5 / values.size)))
    deviations = without.mean() - without if without.size else np.zeros(1)
    spread = float((deviations**2).sum()) ** 1.5
    acceleration = float((deviations**3).sum()) / (6 * spread) if spread > 1e-30 else 0.0
    z = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    levels = ndtr(bias + z / np.maximum(1 - acceleration * z, 1e-3))
    low, high = np.quantile(values, levels)
    return float(low), float(high)


def _column_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each column over its rows that are not NaN; NaN where there are none."""
    known = ~np.isnan(table)
    n = known.sum(axis=0)
    total = np.where(known, table, 0.0).sum(axis=0)
    result = np.full(n.shape, np.nan)
    np.divide(total, n, out=result, where=n > 0)
    return result


def _check_options(resamples: Any, confidence: float, seed: int) -> None:
    if resamples < 100:
        raise UserError(f"an interval needs 100 resamples or more, not {resamples}.")
    if not 0 < confidence < 1:
        raise UserError(f"a confidence lies between 0 and 1, not at {confidence}.")
    if seed < 0:
        raise UserError(f"a seed is a number of 0 or more, not {seed}.")
