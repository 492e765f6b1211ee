"""Augmentation that hides a part of the picture."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms.augmentation import (
    Augmentation,
    Probability,
    Ratios,
    Shares,
    augmentations,
    mean_colour,
)


@augmentations.register("random_erasing")
class RandomErasing(Augmentation):
    """Fill a random rectangle (Zhong et al., Random Erasing Data Augmentation, AAAI 2020, algorithm 1)."""

    p: Probability = Field(0.5, description="probability")
    scale: Shares = Field((0.02, 0.33), description="share of the area, drawn uniformly")
    ratio: Ratios = Field((0.3, 3.3), description="width / height of the rectangle, drawn log-uniformly")
    fill: Literal["mean", "noise"] = Field(
        "mean", description="`mean`: the mean colour of the preprocessing; `noise`: random colours, as in the paper"
    )

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw area and ratio until a rectangle fits, ten times at most; then its place, in whole pixels."""
        if rng.random() >= self.p:
            return image
        for _ in range(10):
            area = image.width * image.height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= image.width and 0 < height <= image.height:
                break
        else:
            return image
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        erased = image.copy()
        if self.fill == "mean":
            erased.paste(mean_colour(preprocessing), (left, top, left + width, top + height))
        else:
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            erased.paste(Image.fromarray(noise), (left, top))
        return erased
