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

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge, pixels of the picture."""


@augmentations.register("random_crop")
class RandomCrop(Augmentation):
    """A square of `size`, anywhere in the picture resized to a shorter side of `resize` (or squashed to it).

    What is seen has the scale of the picture at test; only its place changes
    (Krizhevsky et al., ImageNet Classification with Deep CNNs, NIPS 2012, section 4.1).
    """

    crops: ClassVar[bool] = True

    def draw(self, size: tuple[int, int], rng: np.random.Generator, preprocessing: Preprocessing) -> Box:
        """Draw the left and the upper edge uniformly, in whole pixels of the resized picture."""
        side = preprocessing.size
        width, height = scaled(size, max(preprocessing.resize, side), squash=preprocessing.fit == "squash")
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        across, down = size[0] / width, size[1] / height
        return left * across, top * down, (left + side) * across, (top + side) * down

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Cut what was drawn."""
        size = preprocessing.size
        left, top, right, bottom = self.draw(image.size, rng, preprocessing)
        if (right - left, bottom - top) == (size, size):
            return image.crop((round(left), round(top), round(right), round(bottom)))
        # Resizing only the part that is kept costs less than resizing all and cutting.
        return image.resize((size, size), preprocessing.filter, box=(left, top, right, bottom))


@augmentations.register("random_resized_crop")
class RandomResizedCrop(Augmentation):
    """A random part of the picture, resized to the input (Szegedy et al., CVPR 2015, section 6)."""

    crops: ClassVar[bool] = True
    scale: Shares = Field((0.35, 1.0), description="share of the area, drawn uniformly")
    ratio: Ratios = Field((3 / 4, 4 / 3), description="width / height of the part, drawn log-uniformly")

    def draw(self, size: tuple[int, int], rng: np.random.Generator, preprocessing: Preprocessing) -> Box:  # noqa: ARG002
        """Draw a part that fits inside, in whole pixels; the nearest that fits after ten tries that do not."""
        area = size[0] * size[1]
        for _ in range(10):
            target = area * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            width, height = math.sqrt(target * ratio), math.sqrt(target / ratio)
            if width <= size[0] and height <= size[1]:
                break
        else:
            width, height = min(width, size[0]), min(height, size[1])
        wide, high = max(1, round(width)), max(1, round(height))
        left, top = int(rng.integers(size[0] - wide + 1)), int(rng.integers(size[1] - high + 1))
        return left, top, left + wide, top + high

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Cut and resize what was drawn."""
        left, top, right, bottom = (round(edge) for edge in self.draw(image.size, rng, preprocessing))
        size = (preprocessing.size, preprocessing.size)
        return resized_part(image, (left, top, right, bottom), size, preprocessing.filter)
