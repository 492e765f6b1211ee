"""Heat on a picture: its scales from 0 to 1, and its colours."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Heat: TypeAlias = NDArray[np.floating[Any]]
"""Float [H, W] at the pixels of the picture, in 0…1; its maximum is 1 unless it is constant."""

# Five colours from dark to bright, in order of lightness for any colour vision (the ends and quarters of "inferno").
_STOPS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
_OPAQUE = 0.75


def relative(placed: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Maps [..., H, W] stretched to 0…1, each by its own lowest and highest value; a constant one becomes 0.

    Raw maps reach below zero, and a share of their maximum would then be no share of their range. The scale says
    nothing of presence: the map of an absent class is stretched just as far (`fixed` for comparison between classes).
    """
    low = placed.min(axis=(-2, -1), keepdims=True)
    span = placed.max(axis=(-2, -1), keepdims=True) - low
    stretched = np.divide(placed - low, span, out=np.zeros(placed.shape, np.float64), where=span > 0)
    return np.asarray(stretched, np.float32)


def fixed(placed: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """The sigmoid of maps that are in logits (`cam`, `contributions`): one scale 0…1 for all classes and pictures."""
    values = np.asarray(placed, np.float64)
    small = np.exp(-np.abs(values))  # of either sign: no overflow
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def overlay(picture: Image.Image, heat: Heat) -> Image.Image:
    """The picture under its heat: untouched where that is 0, three quarters covered where it is 1.

    Arguments:
        picture: any mode; its size decides.
        heat: float [H, W] in 0…1, of any size; it is stretched over the whole picture.
    """
    base = picture.convert("RGB")
    resized = Image.fromarray(np.asarray(heat, np.float32)).resize(base.size, Image.Resampling.BILINEAR)
    heat_HW = np.asarray(resized, np.float64).clip(0, 1)
    stops = np.linspace(0, 1, len(_STOPS))
    colour = np.stack([np.interp(heat_HW, stops, _STOPS[:, channel]) for channel in range(3)], axis=-1)
    cover = _OPAQUE * heat_HW[..., None]
    mixed = np.asarray(base, np.float64) * (1 - cover) + colour * cover
    return Image.fromarray(mixed.round().astype(np.uint8))
