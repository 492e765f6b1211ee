"""Average precision by the three rules in use, all from one sort a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manyhot.metrics.columns import Labels, Scores, check_one_class, per_class


@dataclass(frozen=True)
class RankingAP:
    """Average precision of C classes; NaN for a class without a positive.

    Arguments:
        ap: float64 [C], 0…1; non-interpolated area.
        voc07: float64 [C], 0…1; 11-point rule.
        voc10: float64 [C], 0…1; area under the precision envelope.
        n_positive: int64 [C]; images that show the class.
        n_ignored: int64 [C]; images left out of the class.
    """

    ap: NDArray[np.float64]
    voc07: NDArray[np.float64]
    voc10: NDArray[np.float64]
    n_positive: NDArray[np.int64]
    n_ignored: NDArray[np.int64]


class PrecisionRecallCurve(NamedTuple):
    """Precision and recall of one class when images scored at or above each threshold are retrieved.

    Arguments:
        thresholds: [K]; the distinct scores, descending, in their own dtype.
        precision: float64 [K], 0…1.
        recall: float64 [K], 0…1, ascending; NaN throughout where there is no positive.
    """

    thresholds: Scores
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def ranking_ap(scores: Scores, labels: Labels) -> RankingAP:
    """Average precision of every class by all three rules, each score sorted once.

    Images of equal score are retrieved together, so the order of rows never matters. The rules are those of
    `average_precision`, `average_precision_voc07` and `average_precision_voc10`.

    Arguments:
        scores: float32 or float64 [N, C], finite; any monotone scale (probabilities and logits rank alike).
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or infinite; a label is none of -1, 0, 1.

    >>> result = ranking_ap(np.array([[0.9], [0.8], [0.7]]), np.array([[1], [0], [1]], np.int8))
    >>> round(float(result.ap[0]), 4)
    0.8333
    """
    rows = per_class(_class_ap, scores, labels)
    rules = np.array([row[:3] for row in rows], np.float64).reshape(-1, 3).T
    counts = np.array([row[3:] for row in rows], np.int64).reshape(-1, 2).T
    return RankingAP(*(np.ascontiguousarray(column) for column in (*rules, *counts)))


def average_precision(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """Non-interpolated average precision: Σ (R_k − R_{k−1}) P_k over distinct scores, descending.

    Equals `sklearn.metrics.average_precision_score` on the images that are not ignored.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.

    Returns:
        float64 [C], 0…1; NaN for a class without a positive.

    Raises:
        UserError: as `ranking_ap`.
    """
    return ranking_ap(scores, labels).ap


def average_precision_voc07(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """The 11-point rule: the mean over recalls 0, .1, … 1 of the best precision at that recall or more.

    Source: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2.
    Arguments, result and errors are those of `average_precision`.
    """
    return ranking_ap(scores, labels).voc07


def average_precision_voc10(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """The area under the envelope of precision: at each recall, the best precision at that recall or more.

    Source: the VOC development kit from 2010 on (`VOCap.m`).
    Arguments, result and errors are those of `average_precision`.
    """
    return ranking_ap(scores, labels).voc10


def mean_ap(ap: NDArray[np.floating[Any]]) -> tuple[float, int]:
    """The mean over the classes that have an average precision, and how many those are.

    Arguments:
        ap: float [C]; NaN for a class without a positive.

    Returns:
        the mean, 0…1 (NaN where no class counts), and the number of classes counted.
    """
    known = ap[~np.isnan(ap)]
    return (float(known.mean(dtype=np.float64)) if known.size else float("nan")), int(known.size)


def precision_recall_curve(scores: Scores, labels: Labels) -> PrecisionRecallCurve:
    """Precision and recall of one class at every distinct score, ignored images left out.

    Arguments:
        scores: float32 or float64 [N], finite.
        labels: int8 [N]; 1 present, 0 absent, -1 ignored.

    Raises:
        UserError: as `ranking_ap`.
    """
    check_one_class(scores, labels)
    positives, negatives = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    true = positives.size - positives.searchsorted(thresholds, "left")
    false = negatives.size - negatives.searchsorted(thresholds, "left")
    recall = true / positives.size if positives.size else np.full(thresholds.size, np.nan)
    return PrecisionRecallCurve(thresholds, true / (true + false), recall)


def _class_ap(_: int, scores: Scores, labels: Labels) -> tuple[float, float, float, int, int]:
    n_ignored = int(np.count_nonzero(labels < 0))
    if n_ignored:
        known = labels >= 0
        scores, labels = scores.compress(known), labels.compress(known)
    present = labels == 1
    n_positive = int(np.count_nonzero(present))
    if not n_positive:
        return np.nan, np.nan, np.nan, 0, n_ignored
    packable = scores.dtype == np.float32 and scores.min() >= 0 and scores.max() < 2
    groups, retrieved = (_rank_packed if packable else _rank_searched)(scores, present)

    # All below is from the lowest score up, that is from recall 1 down.
    true = n_positive - groups
    precision = true / retrieved
    envelope = np.maximum.accumulate(precision)
    weights = np.diff(groups, append=n_positive)  # positives a group

    # Recall ≥ j/10 in whole numbers, 10·true ≥ j·n: in floating point .1·3 is more than 3/10.
    needed = -(-np.arange(11) * n_positive // 10)
    eleven = envelope[::-1][true[::-1].searchsorted(needed, "left")]
    return (
        float((weights * precision).sum()) / n_positive,
        float(eleven.mean()),
        float((weights * envelope).sum()) / n_positive,
        n_positive,
        n_ignored,
    )


def _rank_searched(scores: Scores, present: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For every distinct score of a positive, ascending: positives below it, and images at or above it.

    Positives are sorted apart from all: a plain sort of floats is vectorised by numpy, an argsort that carries the
    labels along is several times slower, and precision changes for the better only at positives.
    """
    positives, every = np.sort(scores.compress(present)), np.sort(scores)
    groups = _runs(positives)
    return groups, every.size - every.searchsorted(positives[groups], "left")


def _rank_packed(scores: Scores, present: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """As `_rank_searched`, for float32 scores in [0, 2): one sort and no search, in half the time.

    The bits of such a score, read as a whole number, keep its order and leave the highest bit free (-0 becomes 0), so
    that score and label fit into one key; among equal scores negatives come first.
    """
    keys = scores.view(np.uint32) << np.uint32(1)
    keys |= present
    keys.sort()
    last_bits = keys.astype(np.uint8) & np.uint8(1)
    places = np.flatnonzero(last_bits.view(np.bool_))  # of booleans, numpy finds them several times faster
    groups = _runs(keys[places])
    firsts = places[groups]
    values = keys[firsts]
    tied = np.flatnonzero(keys[firsts - 1] == values - np.uint32(1))  # a negative of the same score stands before
    firsts[tied] = keys.searchsorted(values[tied] - np.uint32(1), "left")
    return groups, keys.size - firsts


def _runs(ascending: NDArray[Any]) -> NDArray[np.intp]:
    """Where each run of equal values begins."""
    first = np.ones(ascending.size, bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return np.flatnonzero(first)
