"""Measures over the last pictures of training: per iteration, and named as what they are."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from manyhot.metrics.columns import Labels, Scores
from manyhot.metrics.ranking import average_precision, mean_ap
from manyhot.metrics.thresholds import f_beta


class RunningWindow:
    """Loss, mAP and F-beta over the last pictures that training has seen.

    The scores are those that each picture had when it was trained on, by weights that have changed since, and of
    augmented views: a sign of life between two validations, not a measure of the model. The average precision of
    single batches, averaged, is not an mAP (most classes have no positive among sixteen pictures); over a window of
    hundreds it is one, of the window.

    Arguments:
        size: pictures that the window holds; older ones leave it.
        threshold: score above which a class counts as predicted.
        beta: of the F-beta score.
    """

    def __init__(self, size: int = 512, *, threshold: float = 0.5, beta: float = 2.0) -> None:
        assert size >= 1, f"a window of {size} pictures"
        self.size, self.threshold, self.beta = size, threshold, beta
        self._batches: deque[tuple[NDArray[np.float32], NDArray[np.int8], float]] = deque()
        self._count = 0

    def __len__(self) -> int:
        """Pictures in the window."""
        return min(self._count, self.size)

    def add(self, scores: Scores, labels: Labels, loss: float) -> None:
        """One more batch.

        Arguments:
            scores: float32 or float64 [B, C], finite, 0…1.
            labels: int8 [B, C]; 1 present, 0 absent, -1 ignored.
            loss: mean over the batch.
        """
        assert scores.shape == labels.shape, (scores.shape, labels.shape)
        if not len(scores):
            return
        self._batches.append((np.array(scores, np.float32), np.array(labels, np.int8), float(loss)))
        self._count += len(scores)
        while self._count - len(self._batches[0][0]) >= self.size:  # as many as `size` are left without the oldest
            self._count -= len(self._batches.popleft()[0])

    def values(self) -> dict[str, float | None]:
        """`loss/window_N`, `mAP/window_N` and `F2/window_N`, N the size of a full window; None where undefined.

        mAP is the mean over the classes with a positive in the window. The loss is that of the batches in the window,
        each counted by its pictures.
        """
        names = (f"loss/window_{self.size}", f"mAP/window_{self.size}", f"F{self.beta:g}/window_{self.size}")
        if not self._batches:
            return dict.fromkeys(names)
        scores = np.concatenate([scores for scores, _, _ in self._batches])[-self.size :]
        labels = np.concatenate([labels for _, labels, _ in self._batches])[-self.size :]
        total = sum(loss * len(own) for own, _, loss in self._batches)
        found = (
            total / self._count,
            mean_ap(average_precision(scores, labels))[0],
            f_beta(scores, labels, self.threshold, self.beta),
        )
        return {name: None if math.isnan(value) else value for name, value in zip(names, found, strict=True)}
