"""Folds of a multi-label data set: every class's positives spread evenly over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels


def stratified_folds(labels: Labels, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Give each image one of `folds` folds by iterative stratification.

    The class with the fewest positives left goes first, while there is still a choice: each of its images goes to the
    fold that lacks most positives of that class; among those to the one that lacks most of the image's classes
    together, then to the one that lacks most images. Images without any class fill up the folds. The rarest class, and
    every class that shares no image with another, is spread to within one image.

    Source: Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-label Data, ECML PKDD 2011 (iterative
    stratification). The second criterion is ours.

    Arguments:
        labels: int8 [N, C]; 1 present, everything else counts as not present.
        folds: 2 or more, N at most.
        seed: 0 or more; the order of the images, and with it which of equals goes where.

    Returns:
        int64 [N], the fold of each image, 0…folds − 1. A function of labels, folds and seed.

    Raises:
        UserError: fewer than two folds, or more than images.
    """
    n_images = len(labels)
    if not 2 <= folds <= n_images:
        raise UserError(f"{n_images} images cannot be dealt into {folds} folds.", remedy="Ask for 2 to as many.")
    order = np.random.default_rng(seed).permutation(n_images)
    present_NC = labels[order] == 1
    lacking_KC = np.tile(present_NC.sum(axis=0) / folds, (folds, 1))
    lacking_K = np.full(folds, n_images / folds)
    left_C = present_NC.sum(axis=0)
    fold_N = np.full(n_images, -1, np.int64)

    def place(image: np.intp, fold: int) -> None:
        fold_N[image] = fold
        lacking_KC[fold] -= present_NC[image]
        lacking_K[fold] -= 1

    while left_C.any():
        rarest = int(np.argmin(np.where(left_C > 0, left_C, n_images + 1)))
        for image in np.flatnonzero(present_NC[:, rarest] & (fold_N < 0)):
            together_K = lacking_KC[:, present_NC[image]].sum(axis=1)
            place(image, _most(lacking_KC[:, rarest], together_K, lacking_K))
            left_C -= present_NC[image]
    for image in np.flatnonzero(fold_N < 0):
        place(image, _most(lacking_K))
    result = np.empty_like(fold_N)
    result[order] = fold_N
    return result


def _most(*criteria: NDArray[np.float64]) -> int:
    """The fold with the highest first criterion; of equal ones that with the highest second, and so on."""
    best = np.arange(criteria[0].size)
    for values in criteria:
        # Sums of n / folds less whole numbers: what differs by less than this is equal.
        best = best[values[best] > values[best].max() - 1e-6]
    return int(best[0])
