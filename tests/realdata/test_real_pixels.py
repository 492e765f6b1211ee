"""Genuine photographs in a pixel store."""

from __future__ import annotations

import numpy as np
from PIL import Image

from manyhot.data.images import open_image
from manyhot.data.pixels import verify
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.resizing import Resizing
from manyhot.data.sources import open_source

RULES = Preprocessing(
    size=224, fit="crop", resize=256, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def test_voc_at_256_is_what_the_centre_crop_of_the_file_shows(realdata, tmp_path):
    source = open_source(str(realdata / "VOCdevkit" / "VOC2012"))
    few = source.rows([row % 30 == 0 for row in range(len(source))])
    stored = prepare(few, tmp_path / "store").manifest
    assert verify(tmp_path / "store") == len(few) == 60
    n_even = 0
    for row, (before, after) in enumerate(zip(few.paths, stored.paths, strict=True)):
        image = open_image(after)
        assert min(image.size) == 256
        ours, theirs = (np.asarray(RULES.views(open_image(path))[0]).astype(int) for path in (before, after))
        # A side of odd length leaves a margin of half a pixel, and stored pixels are blended.
        even = image.width % 2 == image.height % 2 == 0
        n_even += even
        assert np.abs(ours - theirs).max() <= (1 if even else 255)
        assert np.abs(ours - theirs).mean() < 12
        with Image.open(before) as original:
            scale = image.width / original.width
        for small, large in zip(stored.boxes(row), few.boxes(row), strict=True):
            assert abs(small.x1 - large.x1 * scale) < 1e-3
            assert 0 <= small.x0 < small.x1 <= image.width
    assert n_even > 10


def test_training_split_statistics_of_caltech(realdata, tmp_path):
    source = open_source(str(realdata / "caltech101"))
    few = source.rows([row % 25 == 0 for row in range(len(source))])
    made = prepare(few, tmp_path / "store", Preparation(Resizing(64), val_fraction=0.25, seed=1))
    train = made.manifest.split("train")
    pixels = np.concatenate([np.asarray(open_image(path)).reshape(-1, 3) for path in train.paths]) / 255
    np.testing.assert_allclose(made.info["mean"], pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(made.info["std"], pixels.std(axis=0), atol=1e-6)
