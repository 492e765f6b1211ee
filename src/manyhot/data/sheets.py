"""What the augmentation of a recipe makes of a picture, on one sheet."""

from __future__ import annotations

import numpy as np
from PIL import Image

from manyhot.data.decoding_processes import AUGMENT
from manyhot.data.drawing import contact_sheet
from manyhot.data.images import open_image
from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import augmentations, augmented_canvas
from manyhot.errors import UserError
from manyhot.recipe import Recipe


def draw_augmented(
    manifest: Manifest, row: int, recipe: Recipe, mean: tuple[float, float, float], count: int
) -> Image.Image:
    """A sheet of what a recipe does to a picture: first as at test, then as in `count` epochs of training.

    With several crops a picture it shows the canvas that they are cut from.

    Arguments:
        manifest: knows the picture.
        row: of the picture; beside seed and epoch, augmentation depends on it.
        recipe: its section `input`, and its seed.
        mean: RGB in 0…1, the backbone's, for what the recipe leaves open.
        count: 1 or more.

    Raises:
        UserError: the picture is damaged, the recipe has no augmentation, or `count` is below 1.
    """
    if count < 1:
        raise UserError(f"{count} augmented pictures cannot be drawn.", remedy="Ask for 1 or more.")
    parts = tuple(augmentations.build(setting) for setting in recipe.input.augment)
    if not parts:
        raise UserError(f"recipe {recipe.name} has no input.augment: all pictures would be alike.")
    rules, image = Preprocessing.from_recipe(recipe.input, mean, mean), open_image(manifest.paths[row])
    drawn = [("at test", rules.cropping.canvas(image, rules))]
    for epoch in range(count):
        rng = np.random.default_rng([recipe.seed, AUGMENT, epoch, row])
        drawn.append((f"epoch {epoch + 1}", augmented_canvas(image, parts, rng, rules)))
    return contact_sheet(drawn)
