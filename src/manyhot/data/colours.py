"""Mean and standard deviation of red, green and blue over all pixels of some pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from manyhot.data.images import DamagedImage, open_image
from manyhot.errors import UserError
from manyhot.progress import progress

RGB = tuple[float, float, float]
Sums = tuple[int, list[int], list[int]]
"""Pixels of a picture; sums of their levels, 0…255, and of the squares of these, of R, G and B."""


def colour_sums(image: Image.Image) -> Sums:
    """Whole numbers, so that neither order nor threads change a digit of what is made of them."""
    counts_CL = np.array(image.histogram(), np.int64).reshape(3, 256)
    levels_L = np.arange(256)
    return image.width * image.height, (counts_CL @ levels_L).tolist(), (counts_CL @ levels_L**2).tolist()


def mean_and_std(pictures: Sequence[Sums]) -> tuple[RGB, RGB]:
    """Of R, G and B, 0…1, over all pixels of one picture or more, to six digits."""
    count = sum(pixels for pixels, _, _ in pictures)
    mean, std = [], []
    for channel in range(3):
        total = sum(sums[channel] for _, sums, _ in pictures)
        square = sum(squares[channel] for _, _, squares in pictures)
        mean.append(round(total / count / 255, 6))
        std.append(round(((square * count - total**2) / count**2) ** 0.5 / 255, 6))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def measure_colours(paths: Sequence[Path]) -> tuple[RGB, RGB]:
    """Mean and standard deviation over all pixels of picture files, or of pictures of a store, decoded on all cores.

    Raises:
        UserError: a picture that cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(paths), "measuring colours") as bar:
        found = []
        try:
            for sums in pool.map(lambda path: colour_sums(open_image(path)), paths):
                found.append(sums)
                bar.advance()
        except DamagedImage as damage:
            raise UserError(f"the picture cannot be read: {damage.reason}.", file=damage.path) from None
    return mean_and_std(found)
