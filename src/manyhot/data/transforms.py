"""Declared augmentation: the parts that `input.augment` of a recipe can name."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import AfterValidator, Field

from manyhot.data.pixel_image import resized_part
from manyhot.data.preprocessing import Preprocessing
from manyhot.registry import Part, Registry

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


Shares = Annotated[tuple[Annotated[Positive, Field(le=1)], Annotated[Positive, Field(le=1)]], AfterValidator(_in_order)]
Ratios = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]


class Augmentation(Part):
    """A random change of a picture; all its randomness comes from the generator it is given.

    A part with `crops` makes the size x size picture itself and takes the place of the recipe's `fit`; it goes with
    `crops: one` only.
    """

    crops: ClassVar[bool] = False

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """The changed picture."""
        raise NotImplementedError


augmentations: Registry[Augmentation] = Registry("augmentation", "input.augment")


def augment(
    image: Image.Image, parts: tuple[Augmentation, ...], rng: np.random.Generator, preprocessing: Preprocessing
) -> list[Image.Image]:
    """The crops of a picture whose canvas the parts changed, in order."""
    canvas = image if any(part.crops for part in parts) else preprocessing.cropping.canvas(image, preprocessing)
    for part in parts:
        canvas = part.apply(canvas, rng, preprocessing)
    return preprocessing.cropping.cut(canvas, preprocessing)


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


@augmentations.register("random_shift")
class RandomShift(Augmentation):
    """Move the picture by up to a share of its side; the gap repeats the edge pixels."""

    share: Probability = Field(0.1, description="largest shift, share of the side")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:  # noqa: ARG002
        """Draw both shifts independently."""
        dx, dy = (round(rng.uniform(-self.share, self.share) * side) for side in image.size)
        pixels = np.asarray(image)
        rows = np.clip(np.arange(image.height) + dy, 0, image.height - 1)
        columns = np.clip(np.arange(image.width) + dx, 0, image.width - 1)
        return Image.fromarray(pixels[rows][:, columns])


@augmentations.register("horizontal_flip")
class HorizontalFlip(Augmentation):
    """Mirror left and right."""

    p: Probability = Field(0.5, description="probability")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:  # noqa: ARG002
        """Flip with probability p."""
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


@augmentations.register("rotation")
class Rotation(Augmentation):
    """Turn about the centre; the corners are filled with the mean colour of the preprocessing."""

    degrees: float = Field(10.0, gt=0, le=180, description="largest angle either way")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw the angle uniformly."""
        angle = float(rng.uniform(-self.degrees, self.degrees))
        fill = tuple(round(255 * channel) for channel in preprocessing.mean)
        return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)


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
