"""RandAugment: a few operations drawn from a fixed list, all of one strength."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms.augmentation import Augmentation, augmentations, mean_colour

Colour = tuple[int, int, int]
Operation = Callable[[Image.Image, float, Colour], Image.Image]
"""From a picture, a strength of -1…1 and the colour of gaps to a picture."""


def _affine(image: Image.Image, back: tuple[float, float, float, float, float, float], fill: Colour) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.NEAREST, fillcolor=fill)


def _identity(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return image


def _shear_x(image: Image.Image, strength: float, fill: Colour) -> Image.Image:
    return _affine(image, (1, 0.3 * strength, 0, 0, 1, 0), fill)


def _shear_y(image: Image.Image, strength: float, fill: Colour) -> Image.Image:
    return _affine(image, (1, 0, 0, 0.3 * strength, 1, 0), fill)


def _translate_x(image: Image.Image, strength: float, fill: Colour) -> Image.Image:
    return _affine(image, (1, 0, -int(_FARTHEST * strength * image.width), 0, 1, 0), fill)


def _translate_y(image: Image.Image, strength: float, fill: Colour) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, -int(_FARTHEST * strength * image.height)), fill)


def _rotate(image: Image.Image, strength: float, fill: Colour) -> Image.Image:
    return image.rotate(30 * strength, Image.Resampling.NEAREST, fillcolor=fill)


def _brightness(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength)


def _colour(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageEnhance.Color(image).enhance(1 + 0.9 * strength)


def _contrast(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength)


def _sharpness(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength)


def _posterize(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


def _solarize(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageOps.solarize(image, 255 * (1 - abs(strength)))  # type: ignore[arg-type]  # any threshold will do


def _autocontrast(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float, fill: Colour) -> Image.Image:  # noqa: ARG001
    return ImageOps.equalize(image)


# 150 pixels of the 331 that AutoAugment's pictures had.
_FARTHEST = 150 / 331

OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "color": _colour,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
"""The fourteen of the paper, with AutoAugment's ranges: strength 1 is the far end."""


@augmentations.register("rand_augment")
class RandAugment(Augmentation):
    """A few operations out of fourteen, all of one strength (Cubuk et al., RandAugment, CVPR Workshops 2020)."""

    operations: int = Field(2, ge=1, le=14, description="operations a picture, drawn with replacement")
    magnitude: float = Field(9.0, ge=0, le=30, description="strength of each, of 30")

    def apply(self, image: Image.Image, rng: np.random.Generator, preprocessing: Preprocessing) -> Image.Image:
        """Draw each operation and its direction uniformly."""
        names = list(OPERATIONS)
        for _ in range(self.operations):
            name = names[int(rng.integers(len(names)))]
            sign = 1 if rng.random() < 0.5 else -1
            image = OPERATIONS[name](image, sign * self.magnitude / 30, mean_colour(preprocessing))
        return image
