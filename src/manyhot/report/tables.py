"""What the plots show, as arrays: precision by recall, labels that come together, what is predicted for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manyhot.metrics.calibration import ReliabilityCurve, reliability_curve
from manyhot.metrics.columns import row_blocks
from manyhot.metrics.confusion import confusion_matrix, most_confused
from manyhot.metrics.ranking import precision_recall_curve
from manyhot.metrics.tail import tail_curve
from manyhot.predictions import Predictions

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class PairCounts:
    """Images counted for pairs of classes.

    Arguments:
        counts: int64 [C, C].
        totals: int64 [C]; images of the row's class.
    """

    counts: NDArray[np.int64]
    totals: NDArray[np.int64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """`counts` by row total, in 0…1; 0 where the row has no image."""
        return self.counts / np.maximum(self.totals, 1)[:, None]

    def largest(self, number: int) -> list[tuple[int, int]]:
        """The (row, column) pairs of different classes with the most images, at least one, most first."""
        return most_confused(self.counts, number)


def precision_by_recall(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> Curve:
    """Recall and precision of one class, one point for each recall that is reached.

    Precision at recall r is that of the shortest ranking that reaches r, so the area under these steps is the
    non-interpolated AP.

    Arguments:
        scores: [N].
        labels: [N]; 1 present, 0 absent, -1 ignored; at least one is 1.
    """
    _, precision, recall = precision_recall_curve(scores, labels)
    reached, first = np.unique(recall, return_index=True)
    inside = reached > 0
    return reached[inside], precision[first[inside]]


def tail_by_threshold(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> Curve | None:
    """Thresholds and tail accuracy of one class, each step's value from its threshold on; None above no score.

    Arguments:
        scores: [N], 0…1.
        labels: [N]; 1 present, 0 absent, -1 ignored.
    """
    curve = tail_curve(scores, labels)
    if not curve.starts.size:
        return None
    return np.append(curve.starts, curve.stop), np.append(curve.values, curve.values[-1])


def reliability(scores: NDArray[np.float32], labels: NDArray[np.int8]) -> ReliabilityCurve:
    """The reliability diagram of one class, [N], in the 15 bins of equal mass that its expected error is taken over."""
    return reliability_curve(scores, labels)


def pooled_reliability(scores: NDArray[np.float32], labels: NDArray[np.int8], bins: int = 10) -> ReliabilityCurve:
    """The reliability diagram of all (image, class) pairs, [N, C], in bins of equal width."""
    return reliability_curve(scores.ravel(), labels.ravel(), bins, "width")


def mean_precision_by_recall(curves: list[Curve], points: int = 201) -> Curve:
    """The mean over classes of precision at each of `points` recalls from 0 to 1."""
    grid = np.linspace(0, 1, points)
    rows = [precision[np.searchsorted(recall, grid - 1e-9)] for recall, precision in curves]
    return grid, np.mean(rows, axis=0)


def labels_together(predictions: Predictions) -> PairCounts:
    """For each class (row): images that have it and also have the column's class; the diagonal is 0."""
    present = (predictions.labels == 1).astype(np.int64)
    counts = present.T @ present
    np.fill_diagonal(counts, 0)
    return PairCounts(counts, present.sum(axis=0))


def false_positives(predictions: Predictions, thresholds: NDArray[np.float64]) -> PairCounts:
    """For each class (row): images that have it and in which the column's class is predicted but absent.

    A class is predicted where its score is above its threshold.

    Arguments:
        predictions: scores and labels of N images.
        thresholds: [C].
    """
    n_classes = len(predictions.classes)
    counts, totals = np.zeros((n_classes, n_classes), np.int64), np.zeros(n_classes, np.int64)
    # A block at a time, whose counts float32 holds exactly: all at once, a million pictures would not fit in memory.
    for rows in row_blocks(len(predictions), n_classes):
        labels = predictions.labels[rows]
        present = (labels == 1).astype(np.float32)
        if predictions.task == "multiclass":
            predicted = np.zeros(labels.shape, dtype=bool)
            predicted[np.arange(len(labels)), predictions.ranking[rows].argmax(axis=1)] = True
        else:
            predicted = predictions.scores[rows] > thresholds
        wrong = (predicted & (labels == 0)).astype(np.float32)
        counts += (present.T @ wrong).astype(np.int64)
        totals += present.sum(axis=0).astype(np.int64)
    return PairCounts(counts, totals)


def confusions(predictions: Predictions) -> PairCounts:
    """For each class (row): images of it by the class that scores highest; the diagonal is right."""
    counts = confusion_matrix(predictions.ranking, predictions.labels)
    return PairCounts(counts, counts.sum(axis=1))
