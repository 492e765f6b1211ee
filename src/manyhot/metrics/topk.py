"""Top-k accuracy, for tasks of one class an image."""

from __future__ import annotations

import numpy as np

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels, Scores, per_class, row_blocks


def top_k_accuracy(scores: Scores, labels: Labels, k: int = 1) -> float:
    """The share of images whose class is among the k highest scores, for tasks of one class an image.

    Where scores tie across the k-th place, an image counts by the share of the tied places inside it: all scores
    equal gives k / C, as guessing does. Images without a present class are left out; so are ignored classes.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; at most one 1 a row.
        k: 1 or more; C or more gives 1.

    Returns:
        0…1; NaN where no image has a present class.

    Raises:
        UserError: as `threshold_counts`; or an image has several present classes; or k is below 1.
    """
    if k < 1:
        raise UserError(f"k must be 1 or more, not {k}.")
    per_class(lambda *_: None, scores, labels)  # checks every value
    hits, counted = 0.0, 0
    for rows in row_blocks(*scores.shape):
        present = labels[rows] == 1
        several = np.count_nonzero(present.sum(axis=1) > 1)
        if several:
            raise UserError(
                f"more than one class is present in {several} of the first {rows.stop} images; top-{k} needs one.",
                remedy="Measure them as a multilabel task.",
            )
        shown = present.any(axis=1)
        known, block = labels[rows][shown] != -1, scores[rows][shown]
        true = block[present[shown]][:, None]
        higher = ((block > true) & known).sum(axis=1)
        level = ((block == true) & known).sum(axis=1)
        hits += float(np.clip((k - higher) / level, 0.0, 1.0).sum())
        counted += len(block)
    return hits / counted if counted else float("nan")
