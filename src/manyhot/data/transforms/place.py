"""Augmentation that moves what is in the picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from pydantic import Field

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms.augmentation import Augmentation, Probability, augmentations, mean_colour


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

    def draw(self, size: tuple[int, int], rng: np.random.Generator, preprocessing: Preprocessing) -> bool:  # noqa: ARG002
        """Whether, with probability p."""
        return bool(rng.random() < self.p)

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Flip, if that was drawn."""
        flipped = self.draw(image.size, rng, preprocessing)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image


@augmentations.register("rotation")
class Rotation(Augmentation):
    """Turn about the centre; the corners are filled with the mean colour of the preprocessing."""

    degrees: float = Field(10.0, gt=0, le=180, description="largest angle either way")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw the angle uniformly."""
        angle = float(rng.uniform(-self.degrees, self.degrees))
        return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=mean_colour(preprocessing))


@augmentations.register("shift_scale_rotate")
class ShiftScaleRotate(Augmentation):
    """Shift, enlarge or shrink, and turn about the centre, all in one resampling; gaps get the mean colour.

    The settings and their defaults are those of albumentations' ShiftScaleRotate (Buslaev et al., Information 2020).
    """

    shift: Probability = Field(0.0625, description="largest shift either way, share of the side")
    scale: float = Field(0.1, ge=0, lt=1, description="the picture is enlarged by a factor drawn from 1 ± this")
    degrees: float = Field(45.0, ge=0, le=180, description="largest angle either way")
    p: Probability = Field(0.5, description="probability")

    def draw(
        self,
        size: tuple[int, int],
        rng: np.random.Generator,
        preprocessing: Preprocessing,  # noqa: ARG002
    ) -> tuple[float, ...] | None:
        """Draw, each uniformly: whether at all, the angle, the factor, the shifts to the right and down.

        Returns:
            (a, b, c, d, e, f): the pixel at (x, y) comes from (a x + b y + c, d x + e y + f); None: nothing moves.
        """
        if rng.random() >= self.p:
            return None
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        factor = rng.uniform(1 - self.scale, 1 + self.scale)
        dx, dy = (rng.uniform(-self.shift, self.shift) * side for side in size)
        # Where each pixel of the result comes from: turned back and shrunk about the centre.
        cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
        x, y = size[0] / 2, size[1] / 2
        return (cos, -sin, x - cos * (x + dx) + sin * (y + dy), sin, cos, y - sin * (x + dx) - cos * (y + dy))

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """All in one resampling."""
        back = self.draw(image.size, rng, preprocessing)
        if back is None:
            return image
        fill = mean_colour(preprocessing)
        return image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=fill)
