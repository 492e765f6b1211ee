"""Declared augmentation: the parts that `input.augment` of a recipe can name, one file a kind."""

from __future__ import annotations

from manyhot.data.transforms.augmentation import (
    Augmentation,
    Positive,
    Probability,
    augment,
    augmentations,
    augmented_canvas,
)
from manyhot.data.transforms.colour import BrightnessContrast, ColorJitter, Equalize
from manyhot.data.transforms.cropping import RandomCrop, RandomResizedCrop
from manyhot.data.transforms.erasing import RandomErasing
from manyhot.data.transforms.place import HorizontalFlip, RandomShift, Rotation, ShiftScaleRotate
from manyhot.data.transforms.randaugment import RandAugment

__all__ = [
    "Augmentation",
    "BrightnessContrast",
    "ColorJitter",
    "Equalize",
    "HorizontalFlip",
    "Positive",
    "Probability",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomShift",
    "Rotation",
    "ShiftScaleRotate",
    "augment",
    "augmentations",
    "augmented_canvas",
]
