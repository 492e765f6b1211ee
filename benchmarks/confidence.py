"""Bootstrap intervals beside a loop over scikit-learn, and how often promised precisions hold.

Run `python benchmarks/confidence.py` (about a minute on two cores; the loop over scikit-learn takes most of it).
Ours also gives the BCa correction; the loop stops at the resampled values.
"""

from __future__ import annotations

import json
import os
import statistics
import time

import numpy as np
import sklearn
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from manyhot.metrics.bootstrap import bootstrap_ap
from manyhot.metrics.choosing import wanted_precision

IMAGES, CLASSES, RESAMPLES = 600, 20, 1000
RATE, DISTANCE, DRAWS = 0.2, 3.0, 500


def intervals() -> dict[str, object]:
    rng = np.random.default_rng(0)
    labels = (rng.random((IMAGES, CLASSES)) < 0.1).astype(np.int8)
    scores = (rng.normal(size=labels.shape) + 2 * labels).astype(np.float32)
    bootstrap_ap(scores, labels, resamples=RESAMPLES)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        bootstrap_ap(scores, labels, resamples=RESAMPLES)
        seconds.append(time.perf_counter() - start)
    ours = statistics.median(seconds)
    start = time.perf_counter()
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, IMAGES, IMAGES)
        average_precision_score(labels[drawn], scores[drawn], average=None)
    theirs = time.perf_counter() - start
    print(f"{RESAMPLES:,} resamples of {IMAGES} images x {CLASSES} classes, {os.cpu_count()} cores")
    print(f"manyhot {ours:.3f} s, a loop over scikit-learn {theirs:.1f} s: {theirs / ours:.0f}x\n")
    return {
        "benchmark": f"bootstrap of average precision, {IMAGES} images, {CLASSES} classes",
        "ratio": round(theirs / ours, 1),
        "peer": f"scikit-learn {sklearn.__version__} average_precision_score in a loop",
        "ours": round(ours, 4),
        "theirs": round(theirs, 4),
        "unit": "s",
        "n": RESAMPLES,
    }


def promises() -> list[dict[str, object]]:
    """Normal scores of known precision: how often the threshold chosen for .9 has it on new images."""
    print(f"precision >= 0.9 wanted, {DRAWS} draws, {RATE:.0%} positives {DISTANCE:g} standard deviations apart")
    print("positives  choice             holds  is made  mean recall where made")
    rows: list[dict[str, object]] = []
    for n_positive in (50, 200, 1000):
        rng = np.random.default_rng(n_positive)
        labels = (rng.random((round(n_positive / RATE), DRAWS)) < RATE).astype(np.int8)
        scores = rng.normal(size=labels.shape) + DISTANCE * labels
        for name, confidence in (("confidence 0.9", 0.9), ("plain", None)):
            t = wanted_precision(scores, labels, 0.9, confidence).thresholds
            found, wrong = RATE * norm.sf(t - DISTANCE), (1 - RATE) * norm.sf(t)
            made = ~np.isnan(t)
            holds = float((~made | (found / (found + wrong) >= 0.9)).mean())
            recall = float(norm.sf(t[made] - DISTANCE).mean())
            print(f"{n_positive:9}  {name:16}  {holds:6.3f}   {made.mean():6.3f}  {recall:.3f}")
            row = {"benchmark": f"precision >= 0.9 holds on new images, {name}, {n_positive} positives"}
            rows.append({**row, "value": round(holds, 4), "unit": "share of draws", "n": DRAWS})
    return rows


if __name__ == "__main__":
    measured = [intervals(), *promises()]
    print(json.dumps(measured))
