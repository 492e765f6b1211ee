"""Scores and labels checked, then handed out one class at a time, on all cores and in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from manyhot.errors import UserError

Scores: TypeAlias = NDArray[np.floating[Any]]
"""float32 or float64, [N, C] or [N] for one class; finite."""

Labels: TypeAlias = NDArray[np.integer[Any]]
"""int8 (any integer or bool will do), shaped as the scores; 1 present, 0 absent, -1 ignored."""

T = TypeVar("T")

# One block is 16 MB of float32 scores; with at most 8 threads a call stays far below the array it reads.
_BLOCK_ELEMENTS = 1 << 22
# Wide rows of a tile use whole cache lines: 40 columns copy in 0.7 of the time of 16 (and 80 in more again).
_BLOCK_COLUMNS = 40
# Copying column by column touches every cache line once a column; in tiles of this height the lines stay in L1.
_TILE_ROWS = 256
_THREADS = 8
# Below this a thread pool costs more than it saves.
_SERIAL_ELEMENTS = 1 << 16


def per_class(measure: Callable[[int, Scores, Labels], T], scores: Scores, labels: Labels) -> list[T]:
    """Call `measure(c, scores_N, labels_N)` for every class and return the C results in order.

    Arguments:
        measure: given a class index and that class's contiguous columns; runs in several threads.
        scores: float32 or float64 [N, C], finite; handed on in its own precision.
        labels: int8 [N, C]; 1 present, 0 absent, -1 ignored.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or infinite; a label is none of -1, 0, 1.
    """
    _check_shapes(scores, labels, dimensions=2)
    n_images, n_classes = scores.shape
    cores = min(_cores(), _THREADS)
    # Every core gets a block, as long as a block keeps a few columns.
    width = min(_BLOCK_COLUMNS, max(4, -(-n_classes // cores)), max(1, _BLOCK_ELEMENTS // max(1, n_images)))

    def block(first: int) -> list[T]:
        last = min(first + width, n_classes)
        scores_CN, labels_CN = _transposed(scores, first, last), _transposed(labels, first, last)
        results = []
        for c, scores_N, labels_N in zip(range(first, last), scores_CN, labels_CN, strict=True):
            _check_values(f"class {c}", scores_N, labels_N)
            results.append(measure(c, scores_N, labels_N))
        return results

    firsts = range(0, n_classes, width)
    if cores == 1 or len(firsts) < 2 or scores.size < _SERIAL_ELEMENTS:
        return [result for first in firsts for result in block(first)]
    # numpy sorts, searches, compares and copies without the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(min(cores, len(firsts))) as pool:
        return [result for results in pool.map(block, firsts) for result in results]


def check_one_class(scores: Scores, labels: Labels) -> None:
    """Check the scores and labels of one class, both [N], as `per_class` checks a column.

    Raises:
        UserError: as `per_class`.
    """
    _check_shapes(scores, labels, dimensions=1)
    _check_values("the class", scores, labels)


def row_blocks(n_images: int, n_classes: int) -> Iterator[slice]:
    """Slices of rows that hold a bounded number of entries each, for measures that need whole rows."""
    height = max(1, (_BLOCK_ELEMENTS // 4) // max(1, n_classes))
    for first in range(0, n_images, height):
        yield slice(first, min(first + height, n_images))


def _check_shapes(scores: Scores, labels: Labels, *, dimensions: int) -> None:
    if scores.ndim != dimensions or scores.shape != labels.shape:
        wanted = "[images, classes]" if dimensions == 2 else "[images]"
        raise UserError(
            f"scores and labels must both be {wanted}; they are {list(scores.shape)} and {list(labels.shape)}."
        )
    if scores.dtype not in (np.float32, np.float64):
        raise UserError(f"scores must be float32 or float64, not {scores.dtype}.", remedy="Convert them first.")
    if labels.dtype.kind not in "biu":
        raise UserError(f"labels must be integers, not {labels.dtype}.", remedy="Convert them to int8.")


def _check_values(where: str, scores_N: Scores, labels_N: Labels) -> None:
    bad = scores_N.size - np.count_nonzero(np.isfinite(scores_N))
    if bad:
        raise UserError(
            f"{where} has {bad} of {scores_N.size} scores that are NaN or infinite.",
            remedy="A model that diverged gives such scores; measure a finite one.",
        )
    if labels_N.size and (labels_N.min() < -1 or labels_N.max() > 1):
        wrong = labels_N[(labels_N < -1) | (labels_N > 1)]
        raise UserError(
            f"{where} has {wrong.size} labels other than 1, 0 and -1, the first of them {wrong[0]}.",
            remedy="Write 1 for present, 0 for absent, -1 for ignored.",
        )


def _transposed(array: NDArray[Any], first: int, last: int) -> NDArray[Any]:
    out = np.empty((last - first, len(array)), array.dtype)
    for row in range(0, len(array), _TILE_ROWS):
        out[:, row : row + _TILE_ROWS] = array[row : row + _TILE_ROWS, first:last].T
    return out


def _cores() -> int:
    # The cores this process may use, where the system can say; containers often grant fewer than there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
