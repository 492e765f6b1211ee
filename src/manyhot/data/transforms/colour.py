"""Augmentation that changes colours and leaves everything in its place."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms.augmentation import Augmentation, Probability, augmentations


@augmentations.register("color_jitter")
class ColorJitter(Augmentation):
    """Change brightness, contrast and saturation, each by a factor drawn from 1 ± its strength, in that order."""

    brightness: Probability = Field(0.2, description="strength")
    contrast: Probability = Field(0.2, description="strength")
    saturation: Probability = Field(0.2, description="strength")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:  # noqa: ARG002
        """Draw three factors."""
        for enhance, strength in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            image = enhance(image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
        return image


@augmentations.register("brightness_contrast")
class BrightnessContrast(Augmentation):
    """Every value v becomes a·v + 255·b, cut to 0…255, with a from 1 ± `contrast` and b from ± `brightness`.

    The formula and its defaults are those of albumentations' RandomBrightnessContrast (Buslaev et al., Information
    2020).
    """

    brightness: Probability = Field(0.2, description="largest b either way")
    contrast: Probability = Field(0.2, description="largest distance of a from 1")
    p: Probability = Field(0.5, description="probability")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:  # noqa: ARG002
        """Draw, each uniformly: whether at all, a, b."""
        if rng.random() >= self.p:
            return image
        a = rng.uniform(1 - self.contrast, 1 + self.contrast)
        b = 255 * rng.uniform(-self.brightness, self.brightness)
        table = np.clip(np.rint(a * np.arange(256) + b), 0, 255).astype(int).tolist()
        return image.point(table * len(image.getbands()))


@augmentations.register("equalize")
class Equalize(Augmentation):
    """Equalise the histogram of each channel: all values become about equally frequent."""

    p: Probability = Field(0.5, description="probability")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:  # noqa: ARG002
        """Pillow's `ImageOps.equalize` with probability p."""
        return ImageOps.equalize(image) if rng.random() < self.p else image
