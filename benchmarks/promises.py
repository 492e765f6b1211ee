"""Do promised precisions hold, and does calibration help, on real scores? Over random halvings of predictions.

Run `python benchmarks/promises.py PREDICTIONS.parquet…` (seconds a table). One half chooses the threshold for precision
0.9, or fits the calibration; the other half, which took no part, checks it. A half is a finite sample: a threshold
whose true precision is exactly 0.9 falls below 0.9 there about every second time. So a failure also counts by whether
it is significant: whether the exact binomial test of "the precision is 0.9 or more" rejects at 5 %. What is promised is
that none is chosen or that it holds: "kept" counts both. The halves share one set of pictures, so what one half has
too many of, the other lacks: that is a harder test than new pictures. "isotonic 0.9" carries the threshold over to
scores that isotonic regression of the same half has calibrated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from manyhot.calibrating import METHODS
from manyhot.metrics.calibration import expected_calibration_error
from manyhot.metrics.choosing import carried_over, wanted_precision
from manyhot.metrics.thresholds import threshold_counts
from manyhot.predictions import Predictions
from manyhot.progress import progress

HALVINGS, PRECISION, CONFIDENCE, LEVEL = 200, 0.9, 0.9, 0.05
RULES = ("confidence 0.9", "plain", "isotonic 0.9")


def halves(predictions: Predictions, halving: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng([0, halving]).permutation(len(predictions))
    return order[: len(order) // 2], order[len(order) // 2 :]


def promises(predictions: Predictions) -> dict[str, NDArray[np.float64]]:
    """[halvings, classes, 2] a rule: precision on the other half and its p-value; NaN where no threshold is chosen.

    Where a threshold was chosen that no image of the other half exceeds, nothing was wrong: the precision is 1.
    """
    scores, labels = predictions.ranking, predictions.labels
    found = {name: np.full((HALVINGS, labels.shape[1], 2), np.nan) for name in RULES}
    with progress(HALVINGS, "halving, promises") as bar:
        for halving in range(HALVINGS):
            choosing, checking = halves(predictions, halving)
            for name in RULES:
                confidence = None if name == "plain" else CONFIDENCE
                chosen, new = (
                    wanted_precision(scores[choosing], labels[choosing], PRECISION, confidence),
                    scores[checking],
                )
                if name.startswith("isotonic"):
                    calibration = METHODS["isotonic"](scores[choosing], labels[choosing])
                    old, new = (calibration.apply(scores[half]).astype(np.float32) for half in (choosing, checking))
                    thresholds = carried_over(chosen, scores[choosing], old, stricter=True)
                    chosen = replace(chosen, thresholds=thresholds)
                counts = threshold_counts(new, labels[checking], chosen.filled())
                n = counts.tp + counts.fp
                made = ~np.isnan(chosen.thresholds)
                precision = np.where(n > 0, counts.tp / np.maximum(n, 1), 1.0)
                # P(as many right ones or fewer | precision 0.9), the exact test's p-value.
                p_value = np.where(n > 0, bdtr(counts.tp, np.maximum(n, 1), PRECISION), 1.0)
                found[name][halving, made] = np.stack([precision, p_value], axis=1)[made]
            bar.advance(1)
    return found


def show_promises(predictions: Predictions, found: dict[str, NDArray[np.float64]]) -> list[dict[str, object]]:
    width = max(len(name) for name in predictions.classes)
    n_positive = (predictions.labels == 1).sum(axis=0)
    print(f"{'class':{width}}  positives  choice          found  >= 0.9  not significantly below   kept")
    shares: dict[str, tuple[float, ...]] = {}
    for name, table in found.items():
        for c in [c for c in range(len(n_positive)) if (~np.isnan(table[:, c, 0])).any()]:
            print(f"{predictions.classes[c]:{width}}  {n_positive[c]:9}  {name:14}  {line(*measured(table[:, c]))}")
        shares[name] = measured(table[:, n_positive > 0].reshape(-1, 2))
        print(f"{'all':{width}}  {n_positive.sum():9}  {name:14}  {line(*shares[name])}\n")
    ours, theirs = (shares[name] for name in RULES[:2])
    whats = (
        "a threshold is found",
        "where found, >= 0.9",
        "where found, not significantly below 0.9",
        "none or >= 0.9",
    )
    return [
        beside(f"precision 0.9: {what}", "plain choice", *pair) for what, *pair in zip(whats, ours, theirs, strict=True)
    ]


def measured(table: NDArray[np.float64]) -> tuple[float, float, float, float]:
    made = table[~np.isnan(table[:, 0])]
    kept = len(table) - np.sum(made[:, 0] < PRECISION)
    return (
        len(made) / len(table),
        float(np.mean(made[:, 0] >= PRECISION)),
        float(np.mean(made[:, 1] >= LEVEL)),
        float(kept / len(table)),
    )


def line(found: float, raw: float, insignificant: float, kept: float) -> str:
    return f"{found:5.3f}   {raw:5.3f}  {insignificant:23.3f}  {kept:5.3f}"


def beside(name: str, peer: str, ours: float, theirs: float) -> dict[str, object]:
    return {
        "benchmark": name,
        "value": round(ours, 4),
        "peer": peer,
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
    }


def calibrations(predictions: Predictions) -> list[dict[str, object]]:
    scores, labels = predictions.ranking, predictions.labels
    positive = (labels == 1).any(axis=0)
    errors: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("before", *METHODS)}
    with progress(HALVINGS, "halving, calibration") as bar:
        for halving in range(HALVINGS):
            fitting, checking = halves(predictions, halving)
            errors["before"].append(expected_calibration_error(scores[checking], labels[checking]))
            for name, fit in METHODS.items():
                mapped = fit(scores[fitting], labels[fitting]).apply(scores[checking])
                errors[name].append(expected_calibration_error(mapped, labels[checking]))
            bar.advance(1)
    tables = {name: np.array(rows)[:, positive] for name, rows in errors.items()}
    print(f"ECE on the half that was not fitted, {positive.sum()} classes with positives")
    print("method        mean ECE  lower than before in (class, halving) pairs  classes with a lower mean")
    for name, table in tables.items():
        better, classes = (table < tables["before"]).mean(), (table.mean(0) < tables["before"].mean(0)).sum()
        print(f"{name:12}  {table.mean():8.4f}  {better:43.3f}  {classes} of {positive.sum()}")
    print()
    mean = {name: float(table.mean()) for name, table in tables.items()}
    return [
        beside(f"ECE on the half not fitted, {name}", "scores as they are", mean[name], mean["before"])
        for name in METHODS
    ]


def each(path: Path) -> list[dict[str, object]]:
    predictions = Predictions.load(path)
    print(f"{path}: {len(predictions)} images, {len(predictions.classes)} classes, {HALVINGS} halvings\n")
    parts: list[Callable[[], list[dict[str, object]]]] = [
        lambda: show_promises(predictions, promises(predictions)),
        lambda: calibrations(predictions),
    ]
    rows = [row for part in parts for row in part()]
    return [{**row, "table": str(path), "unit": "share or error, 0…1", "n": HALVINGS} for row in rows]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("give tables of predictions: evaluation/SPLIT/predictions.parquet of runs")
    print(json.dumps([row for argument in sys.argv[1:] for row in each(Path(argument))], ensure_ascii=False))
