"""From a decoded picture to the network's input: the preprocessing of the bundle, and declared augmentation."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from manyhot.recipe import Input
from manyhot.registry import Part, Registry

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


Shares = Annotated[tuple[Annotated[Positive, Field(le=1)], Annotated[Positive, Field(le=1)]], AfterValidator(_in_order)]
Ratios = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]


class Preprocessing(BaseModel):
    """How every picture becomes a tensor, in training (after augmentation), evaluation and prediction alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    fit: str
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_recipe(
        cls, settings: Input, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> Preprocessing:
        """The recipe's input section; `mean` and `std` (the backbone's) fill what it leaves open."""
        return cls(
            size=settings.size,
            fit=settings.fit,
            resize=settings.resize or round(settings.size / 0.875),
            interpolation=settings.interpolation,
            mean=settings.mean or mean,
            std=settings.std or std,
        )

    @property
    def crops(self) -> str:
        """What of a picture is seen, in words: "centre crop 224 of 256", "whole picture squashed to 320"."""
        if self.fit == "squash":
            return f"whole picture squashed to {self.size}"
        return f"centre crop {self.size} of shorter side {max(self.resize, self.size)}"

    @property
    def filter(self) -> Image.Resampling:
        """Pillow's filter; all are antialiased."""
        return _FILTERS[self.interpolation]

    def fit_image(self, image: Image.Image) -> Image.Image:
        """The picture as size x size pixels."""
        if self.fit == "squash":
            return image.resize((self.size, self.size), self.filter)
        scale = max(self.resize, self.size) / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (width - self.size) / 2, (height - self.size) / 2
        # Resizing only the part that is kept costs less than resizing all and cutting.
        box = (
            left * image.width / width,
            top * image.height / height,
            (left + self.size) * image.width / width,
            (top + self.size) * image.height / height,
        )
        return image.resize((self.size, self.size), self.filter, box=box)

    def normalize(self, images_N3HW: Tensor) -> Tensor:
        """Bytes in 0…255 to float32 of mean 0 and standard deviation 1, on the device where they lie."""
        mean = torch.tensor(self.mean, device=images_N3HW.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images_N3HW.device).view(1, 3, 1, 1)
        return images_N3HW.float().div_(255).sub_(mean).div_(std)


class Augmentation(Part):
    """A random change of a picture; all its randomness comes from the generator it is given.

    A part with `crops` makes the size x size picture itself and takes the place of the recipe's `fit`.
    """

    crops: ClassVar[bool] = False

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """The changed picture."""
        raise NotImplementedError


augmentations: Registry[Augmentation] = Registry("augmentation", "input.augment")


def augment(
    image: Image.Image, parts: tuple[Augmentation, ...], rng: np.random.Generator, preprocessing: Preprocessing
) -> Image.Image:
    """Apply the parts in order to a size x size picture."""
    if not any(part.crops for part in parts):
        image = preprocessing.fit_image(image)
    for part in parts:
        image = part.apply(image, rng, preprocessing)
    return image


@augmentations.register("random_resized_crop")
class RandomResizedCrop(Augmentation):
    """A random part of the picture, resized to the input (Szegedy et al., CVPR 2015, section 6)."""

    crops: ClassVar[bool] = True
    scale: Shares = Field((0.35, 1.0), description="share of the area, drawn uniformly")
    ratio: Ratios = Field((3 / 4, 4 / 3), description="width / height of the part, drawn log-uniformly")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw a part that fits inside; the nearest that fits after ten tries that do not."""
        area = image.width * image.height
        for _ in range(10):
            target = area * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            width, height = math.sqrt(target * ratio), math.sqrt(target / ratio)
            if width <= image.width and height <= image.height:
                break
        else:
            width, height = min(width, image.width), min(height, image.height)
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        size = (preprocessing.size, preprocessing.size)
        return image.resize(size, preprocessing.filter, box=(left, top, left + width, top + height))


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
