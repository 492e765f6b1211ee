"""Pictures to prepare and to read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from manyhot.data import shards
from manyhot.data.manifest import Box, Manifest, Row

MODES = [("RGB", "png", {}), ("L", "jpg", {}), ("RGB", "jpg", {"quality": 90}), ("RGBA", "webp", {"lossless": True})]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """60 pictures of several formats and shapes, one turned by its EXIF data; 42 train, 18 test."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    rows = []
    for i in range(60):
        width, height = (int(side) for side in rng.integers(20, 90, 2))
        mode, suffix, options = MODES[i % 4]
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        if i == 2:
            exif = Image.Exif()
            exif[0x0112] = 6
            options = options | {"exif": exif}
        picture.save(folder / f"{i}.{suffix}", **options)
        boxes = [Box("b", 2, 3, 12, 19), Box("c", 0, 0, 4, 4, difficult=True)] if i % 3 == 0 else []
        split = "train" if i < 42 else "test"
        rows.append(Row(f"p/{i}", f"{i}.{suffix}", split, [i % 2, i % 3 == 0, -(i % 5 == 0)], boxes=boxes))
    return Manifest.from_rows(folder, ["a", "b", "c"], rows, label_rule="made here")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of several files even where pictures are few."""
    monkeypatch.setattr(shards, "_SHARD_PICTURES", 8)
