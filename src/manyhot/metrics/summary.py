"""The measured part of `metrics.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyhot.errors import UserError, nearest
from manyhot.metrics.bootstrap import bootstrap_ap
from manyhot.metrics.calibration import expected_calibration_error
from manyhot.metrics.columns import Labels, Scores
from manyhot.metrics.confusion import confusion_matrix
from manyhot.metrics.ranking import mean_ap, ranking_ap
from manyhot.metrics.tail import tails
from manyhot.metrics.thresholds import Average, class_thresholds, f_beta_of, threshold_counts
from manyhot.metrics.topk import top_k_accuracy

Task: TypeAlias = Literal["multilabel", "multiclass"]


def measure(
    scores: Scores,
    labels: Labels,
    classes: Sequence[str],
    *,
    task: Task = "multilabel",
    thresholds: ArrayLike = 0.5,
    beta: float = 2.0,
    average: Average = "macro",
    ranking: Scores | None = None,
    resamples: int = 0,
) -> dict[str, Any]:
    """Every measure of a table of scores, as plain Python numbers ready for JSON; None where undefined.

    The keys and their mathematics are in `docs/metrics.md`.

    Arguments:
        scores: float32 or float64 [N, C], 0…1, finite; after the sigmoid or softmax.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        classes: C class names.
        task: "multiclass" adds top-1 and top-5 accuracy and the confusion matrix; one present class an image.
        thresholds: a number, or float [C]; predicted where score > threshold.
        beta: weight of recall in F-beta.
        average: how F-beta is averaged: "macro", "micro" or "samples".
        ranking: as `scores`; what average precision, tail accuracy and top-k are measured on, where `scores` are
            calibrated and may tie what these told apart. None is `scores`.
        resamples: of the bootstrap behind the intervals of average precision, 100 or more; 0: no intervals.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or outside 0…1; a threshold is NaN or infinite; a label
            is none of -1, 0, 1; `task`, `beta`, `average` or `resamples` is out of range.
    """
    if task not in get_args(Task):
        raise UserError(f"there is no task '{task}'.", remedy=nearest(task, get_args(Task)))
    if scores.ndim == 2 and scores.shape[1] != len(classes):
        raise UserError(f"there are {len(classes)} class names for {scores.shape[1]} columns of scores.")
    errors = expected_calibration_error(scores, labels)
    before = np.full(errors.shape, np.nan) if ranking is None else expected_calibration_error(ranking, labels)
    ranking = scores if ranking is None else ranking
    ranked = ranking_ap(ranking, labels)
    counts = threshold_counts(scores, labels, thresholds)
    tail_accuracy, curve = tails(ranking, labels)
    intervals, map_interval = _intervals(ranking, labels, resamples)
    columns: dict[str, list[Any]] = {
        "name": list(classes),
        "n_positive": ranked.n_positive.tolist(),
        "n_ignored": ranked.n_ignored.tolist(),
        "ap": _numbers(ranked.ap),
        "ap_interval": intervals,
        "ap_voc07": _numbers(ranked.voc07),
        "ap_voc10": _numbers(ranked.voc10),
        "threshold": class_thresholds(thresholds, len(classes)).tolist(),
        "precision": _numbers(counts.precision()),
        "recall": _numbers(counts.recall()),
        "f1": _numbers(counts.f_beta(1.0)),
        "tail_accuracy": _numbers(tail_accuracy),
        "ece": _numbers(errors),
        "ece_uncalibrated": _numbers(before),
    }
    mean, n_counted = mean_ap(ranked.ap)
    f_value = f_beta_of(counts, scores, labels, thresholds, beta, average)
    result: dict[str, Any] = {
        "n_images": len(scores),
        "classes": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        "map": _number(mean),
        "map_interval": map_interval,
        "map_voc07": _number(mean_ap(ranked.voc07)[0]),
        "map_voc10": _number(mean_ap(ranked.voc10)[0]),
        "n_classes_in_map": n_counted,
        "accuracy": _number(counts.accuracy()),
        "f_beta": {"beta": float(beta), "average": average, "value": _number(f_value)},
        "mean_tail_accuracy": _number(mean_ap(tail_accuracy)[0]),
        "mean_ece": _number(mean_ap(errors)[0]),
        "mean_ece_uncalibrated": _number(mean_ap(before)[0]),
        "resamples": resamples,
        "tail_curve": {
            "threshold": curve.thresholds.tolist(),
            "mean": _numbers(curve.mean),
            "n": curve.n.tolist(),
        },
    }
    if task == "multiclass":
        result["top1"] = _number(top_k_accuracy(ranking, labels, 1))
        result["top5"] = _number(top_k_accuracy(ranking, labels, 5))
        result["confusion"] = confusion_matrix(ranking, labels).tolist()
    return result


def _intervals(scores: Scores, labels: Labels, resamples: int) -> tuple[list[list[float] | None], list[float] | None]:
    """[low, high] of the average precision of each class and of their mean, 95 %; None where undefined."""
    if not resamples:
        return [None] * labels.shape[1], None
    found = bootstrap_ap(scores, labels, resamples=resamples)
    return [_pair(*ends) for ends in zip(found.low, found.high, strict=True)], _pair(found.map_low, found.map_high)


def _pair(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [float(low), float(high)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
