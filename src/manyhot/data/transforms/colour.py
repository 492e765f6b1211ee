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

    def draw(
        self,
        size: tuple[int, int],  # noqa: ARG002
        rng: np.random.Generator,
        preprocessing: Preprocessing,  # noqa: ARG002
    ) -> tuple[float, ...]:
        """Draw three factors."""
        strengths = (self.brightness, self.contrast, self.saturation)
        return tuple(float(rng.uniform(1 - strength, 1 + strength)) for strength in strengths)

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """One change after the other."""
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhance, factor in zip(enhancers, self.draw(image.size, rng, preprocessing), strict=True):
            image = enhance(image).enhance(factor)
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

    def draw(
        self,
        size: tuple[int, int],  # noqa: ARG002
        rng: np.random.Generator,
        preprocessing: Preprocessing,  # noqa: ARG002
    ) -> tuple[float, float]:
        """Draw, each uniformly: whether at all, a, b. 1 and 0 change nothing."""
        if rng.random() >= self.p:
            return 1.0, 0.0
        a = rng.uniform(1 - self.contrast, 1 + self.contrast)
        return a, 255 * rng.uniform(-self.brightness, self.brightness)

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Each value by a table."""
        a, b = self.draw(image.size, rng, preprocessing)
        if (a, b) == (1.0, 0.0):
            return image
        table = np.clip(np.rint(a * np.arange(256) + b), 0, 255).astype(int).tolist()
        return image.point(table * len(image.getbands()))


@augmentations.register("equalize")
class Equalize(Augmentation):
    """Equalise the histogram of each channel: all values become about equally frequent."""

    p: Probability = Field(0.5, description="probability")

    def draw(self, size: tuple[int, int], rng: np.random.Generator, preprocessing: Preprocessing) -> bool:  # noqa: ARG002
        """Whether, with probability p."""
        return bool(rng.random() < self.p)

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Pillow's `ImageOps.equalize`."""
        return ImageOps.equalize(image) if self.draw(image.size, rng, preprocessing) else image
