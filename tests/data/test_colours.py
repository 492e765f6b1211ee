"""Mean and standard deviation of colours against NumPy over all pixels, and what a run does with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import manyhot
from manyhot.data.colours import colour_sums, mean_and_std, measure_colours
from manyhot.errors import UserError
from manyhot.recipe import load_recipe


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), st.integers(0, 99))
def test_all_pixels_count_alike(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in shapes]
    mean, std = mean_and_std([colour_sums(Image.fromarray(pixels)) for pixels in pictures])
    everything = np.concatenate([pixels.reshape(-1, 3) for pixels in pictures]) / 255
    np.testing.assert_allclose(mean, everything.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(std, everything.std(axis=0), atol=1e-6)


def test_a_run_normalises_by_its_train_split(tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    changes = ["input.normalize=train", "training.epochs=1", "input.std=[0.5, 0.5, 0.5]"]
    recipe, manifest = load_recipe(str(tiny_recipe), changes), manyhot.open_source(str(tiny_table))
    run = manyhot.train(recipe, manifest, tmp_path / "run")
    rules = manyhot.load(run.path).bundle.config.preprocessing
    assert rules.mean == measure_colours(manifest.split("train").paths)[0]
    assert rules.std == (0.5, 0.5, 0.5)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.jpg"):
        measure_colours([tmp_path / "a.jpg"])
