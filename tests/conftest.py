"""What all tests share: a cache of their own, and a small data set of genuine files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.processor import prepare_processor

prepare_processor()  # as the command line does, before anything loads torch

COLOURS = {"red": (200, 30, 30), "green": (30, 170, 40), "blue": (30, 40, 210)}

RECIPE = """
name: tiny
seed: 5
input:
  size: 32
  fit: squash
  augment:
    - {name: random_resized_crop, scale: [0.6, 1.0]}
    - horizontal_flip
    - {name: rotation, degrees: 10}
    - color_jitter
model: {backbone: timm/test_resnet, weights: none, pooling: max, dropout: 0.3, feature_norm: true}
optimizer: {name: adamw, lr: 0.003, backbone_lr: 0.002, weight_decay: 0.01}
schedule: {name: cosine, warmup_epochs: 0.5}
training: {epochs: 4, batch_size: 4, freeze_epochs: 1, ema: 0.8, grad_clip: 5.0, checkpoint_steps: 3}
"""


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache folder; subprocesses inherit the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def colours() -> dict[str, tuple[int, int, int]]:
    """The classes of `tiny_table`, and the colour of their squares."""
    return COLOURS


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 50 pictures of coloured squares on noise, some labels ignored: 26 train, 12 val, 12 test."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(7)
    lines = ["image,split," + ",".join(COLOURS)]
    for i in range(50):
        pixels = rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)
        present = rng.random(3) < 0.5
        for colour in np.array(list(COLOURS.values()), np.uint8)[present]:
            y, x = rng.integers(0, 24), rng.integers(0, 32)
            pixels[y : y + 16, x : x + 16] = colour
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        labels = np.where(rng.random(3) < 0.06, -1, present.astype(int))
        split = "train" if i < 26 else "val" if i < 38 else "test"
        lines.append(f"{i:02}.png,{split}," + ",".join(map(str, labels)))
    table = folder / "tiny.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains on `tiny_table` in seconds, with everything random switched on."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path
