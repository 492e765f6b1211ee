"""Which class is taken for which, for tasks of one class an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels, Scores, per_class, row_blocks


def confusion_matrix(scores: Scores, labels: Labels) -> NDArray[np.int64]:
    """Images by true class (row) and predicted class (column): the one of the highest score, of equal ones the first.

    Images without a present class are left out; a class that is ignored in an image is not predicted there.

    Arguments:
        scores: float32 or float64 [N, C], finite.
        labels: int8 [N, C]; at most one 1 a row.

    Returns:
        int64 [C, C]; the diagonal is right.

    Raises:
        UserError: as `threshold_counts`; or an image has several present classes.
    """
    per_class(lambda *_: None, scores, labels)  # checks every value
    n_classes = scores.shape[1]
    counts = np.zeros((n_classes, n_classes), dtype=np.int64)
    for rows in row_blocks(*scores.shape):
        present = labels[rows] == 1
        several = np.count_nonzero(present.sum(axis=1) > 1)
        if several:
            raise UserError(
                f"more than one class is present in {several} of the first {rows.stop} images; a confusion needs one.",
                remedy="Measure them as a multilabel task.",
            )
        shown = present.any(axis=1)
        allowed = np.where(labels[rows][shown] == -1, -np.inf, scores[rows][shown])
        np.add.at(counts, (present[shown].argmax(axis=1), allowed.argmax(axis=1)), 1)
    return counts


def most_confused(counts: NDArray[np.int64], number: int) -> list[tuple[int, int]]:
    """The (true, predicted) pairs of different classes with the most images, at least one, most first.

    Arguments:
        counts: int64 [C, C].
        number: of pairs, at most.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:number]
    width = counts.shape[1]
    return [(int(i) // width, int(i) % width) for i in order if wrong.flat[i] > 0]
