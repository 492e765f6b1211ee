"""What every augmentation is, their registry, and how those of a recipe follow each other."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import AfterValidator, Field

from manyhot.data.preprocessing import Preprocessing
from manyhot.registry import Part, Registry

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


Share = Annotated[Positive, Field(le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_in_order)]
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

    def draw(self, size: tuple[int, int], rng: np.random.Generator, preprocessing: Preprocessing) -> Any:
        """What `apply` draws for a picture of this width and height; of parts that batches can do (see `batched`)."""
        raise NotImplementedError


augmentations: Registry[Augmentation] = Registry("augmentation", "input.augment")


def augment(
    image: Image.Image, parts: tuple[Augmentation, ...], rng: np.random.Generator, preprocessing: Preprocessing
) -> list[Image.Image]:
    """The crops of a picture whose canvas the parts changed, in order."""
    return preprocessing.cropping.cut(augmented_canvas(image, parts, rng, preprocessing), preprocessing)


def augmented_canvas(
    image: Image.Image, parts: tuple[Augmentation, ...], rng: np.random.Generator, preprocessing: Preprocessing
) -> Image.Image:
    """The canvas of a picture, changed by the parts in order, before crops are cut from it."""
    canvas = image if any(part.crops for part in parts) else preprocessing.cropping.canvas(image, preprocessing)
    for part in parts:
        canvas = part.apply(canvas, rng, preprocessing)
    return canvas


def mean_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """What gaps are filled with: the mean that normalisation makes zero, as bytes."""
    red, green, blue = (round(255 * channel) for channel in preprocessing.mean)
    return red, green, blue
