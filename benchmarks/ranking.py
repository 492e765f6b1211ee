"""Average precision of every class: manyhot beside scikit-learn and torchmetrics, and its peak memory.

Run `python benchmarks/ranking.py` (about two minutes on two cores), or with `--small` (seconds).
Ours gives all three rules, counts and checks its input; the peers give the non-interpolated area alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from manyhot.metrics.ranking import ranking_ap

CLASSES = 80


def table(n_images: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Overlapping scores; class frequencies from 1 % to 20 %, as in photographs of everyday scenes."""
    rng = np.random.default_rng(0)
    scores, labels = np.empty((n_images, CLASSES), np.float32), np.empty((n_images, CLASSES), np.int8)
    rates = np.geomspace(0.01, 0.2, CLASSES)
    for first in range(0, n_images, 4096):  # in blocks, so that making the table leaves no mark on the peak memory
        rows = slice(first, first + 4096)
        labels[rows] = rng.random(labels[rows].shape) < rates
        logits = rng.normal(size=labels[rows].shape) + 2 * labels[rows] - 2
        scores[rows] = 1 / (1 + np.exp(-logits))
    return scores, labels


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, taken in turns after one warm-up, so that other load on the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(n_images: int, repeats: int) -> list[dict[str, object]]:
    import sklearn
    import torch
    import torchmetrics
    from sklearn.metrics import average_precision_score
    from torchmetrics.classification import MultilabelAveragePrecision

    scores, labels = table(n_images)
    metric = MultilabelAveragePrecision(num_labels=CLASSES, average=None)
    preds, target = torch.from_numpy(scores), torch.from_numpy(labels).long()

    def theirs() -> NDArray[np.float32]:
        metric.reset()
        metric.update(preds, target)
        return metric.compute().numpy()

    ours = ranking_ap(scores, labels).ap
    peer = average_precision_score(labels, scores, average=None)
    assert np.abs(ours - peer).max() < 1e-12, np.abs(ours - peer).max()
    assert np.abs(ours - theirs()).max() < 1e-4, "torchmetrics computes in float32"

    names = {
        "scikit-learn": f"scikit-learn {sklearn.__version__} average_precision_score(average=None)",
        "torchmetrics": f"torchmetrics {torchmetrics.__version__} MultilabelAveragePrecision(average=None)",
    }
    seconds = interleaved(
        {
            "manyhot": lambda: ranking_ap(scores, labels),
            "scikit-learn": lambda: average_precision_score(labels, scores, average=None),
            "torchmetrics": theirs,
        },
        repeats,
    )
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"average precision of {n_images:,} images x {CLASSES} classes, {os.cpu_count()} cores, float32 scores")
    print(f"{'':14}{'median':>10}{'fastest':>10}{'slowest':>10}{'ratio':>8}   ({repeats} turns each)")
    for name, values in seconds.items():
        ratio = medians[name] / medians["manyhot"]
        print(f"{name:14}{medians[name]:9.4f}s{min(values):9.4f}s{max(values):9.4f}s{ratio:7.1f}x")
    print(f"largest difference from scikit-learn: {np.abs(ours - peer).max():.1e}")
    return [
        {
            "benchmark": f"average precision, {CLASSES} classes",
            "ratio": round(medians[name] / medians["manyhot"], 2),
            "peer": peer_name,
            "ours": round(medians["manyhot"], 5),
            "theirs": round(medians[name], 5),
            "unit": "s",
            "n": n_images,
        }
        for name, peer_name in names.items()
    ]


def peak_memory(n_images: int) -> list[dict[str, object]]:
    """The growth of a child's highest resident size over one call, its table already in place."""
    command = [sys.executable, __file__, "--memory-of", str(n_images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (this very file)
    got = json.loads(done.stdout)
    print(
        f"{n_images:,} images x {CLASSES} classes: {got['peak']:.0f} MiB on top of the table's own "
        f"{got['table']:.0f} MiB, {got['seconds']:.2f} s"
    )
    name = f"average precision, {CLASSES} classes, peak memory on top of a table of {got['table']:.0f} MiB"
    row = {"benchmark": name, "value": round(got["peak"], 1), "peer": None, "ours": round(got["peak"], 1)}
    return [{**row, "theirs": None, "unit": "MiB", "n": n_images}]


def measure_memory(n_images: int) -> None:
    scores, labels = table(n_images)
    ranking_ap(scores[:1000], labels[:1000])
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    start = time.perf_counter()
    ranking_ap(scores, labels)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    mib = 1 << 20
    print(
        json.dumps({"table": (scores.nbytes + labels.nbytes) / mib, "peak": (after - before) / mib, "seconds": seconds})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="10,000 images for time, 100,000 for memory")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure_memory(options.memory_of)
        return
    # Memory first: a child's ru_maxrss begins at that of its parent, which grows by the peers' imports and arrays.
    memory = peak_memory(100_000 if options.small else 1_000_000)
    speed = compare(10_000, 3) if options.small else compare(100_000, 7)
    print(json.dumps([*speed, *memory]))


if __name__ == "__main__":
    main()
