"""Augmentation that chooses a part of the picture, and so makes the size x size input itself."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from manyhot.data.crops import scaled
from manyhot.data.pixel_image import resized_part
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms.augmentation import Augmentation, Ratios, Shares, augmentations


@augmentations.register("random_crop")
class RandomCrop(Augmentation):
    """A square of `size`, anywhere in the picture resized to a shorter side of `resize` (or squashed to it).

    What is seen has the scale of the picture at test; only its place changes
    (Krizhevsky et al., ImageNet Classification with Deep CNNs, NIPS 2012, section 4.1).
    """

    crops: ClassVar[bool] = True

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw the left and the upper edge uniformly, in whole pixels."""
        size = preprocessing.size
        side = max(preprocessing.resize, size)
        width, height = scaled(image.size, side, squash=preprocessing.fit == "squash")
        left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
        if (width, height) == image.size:
            return image.crop((left, top, left + size, top + size))
        # Resizing only the part that is kept costs less than resizing all and cutting.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), preprocessing.filter, box=box)


@augmentations.register("random_resized_crop")
class RandomResizedCrop(Augmentation):
    """A random part of the picture, resized to the input (Szegedy et al., CVPR 2015, section 6)."""

    crops: ClassVar[bool] = True
    scale: Shares = Field((0.35, 1.0), description="share of the area, drawn uniformly")
    ratio: Ratios = Field((3 / 4, 4 / 3), description="width / height of the part, drawn log-uniformly")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw a part that fits inside, in whole pixels; the nearest that fits after ten tries that do not."""
        area = image.width * image.height
        for _ in range(10):
            target = area * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            width, height = math.sqrt(target * ratio), math.sqrt(target / ratio)
            if width <= image.width and height <= image.height:
                break
        else:
            width, height = min(width, image.width), min(height, image.height)
        wide, high = max(1, round(width)), max(1, round(height))
        left, top = int(rng.integers(image.width - wide + 1)), int(rng.integers(image.height - high + 1))
        size = (preprocessing.size, preprocessing.size)
        return resized_part(image, (left, top, left + wide, top + high), size, preprocessing.filter)
