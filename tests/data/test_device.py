"""Whole batches on the device show what single pictures show: the same draws, the same places, a level or two apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.device import DeviceLoader, refuse_unbatched
from manyhot.data.loading import Pictures, TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.resizing import Resizing
from manyhot.data.sources import open_source
from manyhot.data.transforms import augmentations
from manyhot.data.transforms.batched import kernels, resized_parts
from manyhot.errors import UserError

CPU = torch.device("cpu")
RULES = Preprocessing(
    size=24, fit="crop", resize=32, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Eleven smooth pictures of different shapes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = ["image,split,cat"]
    for i in range(11):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((40 + 3 * i, 60 - 2 * i), Image.Resampling.BICUBIC).save(root / f"{i}.png")
        lines.append(f"{i}.png,train,{i % 2}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    source = open_source(str(root / "table.csv"))
    return prepare(source, root / "store", Preparation(Resizing(32))).manifest


@settings(max_examples=60, deadline=None)
@given(
    left=st.floats(0, 30),
    top=st.floats(0, 20),
    width=st.floats(2, 30),
    height=st.floats(2, 20),
    size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_parts_are_resized_as_pillow_and_torch_do(
    left: float, top: float, width: float, height: float, size: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    canvas = torch.zeros(1, 45, 64, 3, dtype=torch.uint8)
    canvas[0, :40, :60] = torch.from_numpy(pixels)
    box = (round(left), round(top), round(left + width), round(top + height))
    found = resized_parts(canvas, [box], [box], size)
    part = torch.from_numpy(pixels).permute(2, 0, 1)[:, box[1] : box[3], box[0] : box[2]]
    torchs = functional.resize(part.float(), [size, size], antialias=True)
    assert (found[0] - torchs).abs().max() <= 0.51  # the rounding to bytes
    found = resized_parts(canvas, [box], [(0, 0, 60, 40)], size)
    pillows = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    assert np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(pillows, int)).max() <= 2


AUGMENT = [
    ([], 1),
    (["random_crop"], 1),
    (["random_resized_crop", "horizontal_flip"], 1),
    (["random_crop", "brightness_contrast"], 2),
    (["random_resized_crop", "color_jitter"], 4),
    ([{"name": "shift_scale_rotate", "p": 0.8}], 2),
]


@pytest.mark.parametrize(("names", "levels"), AUGMENT)
def test_batches_are_those_of_the_loader_of_single_pictures(
    store: Manifest, names: list[str | dict[str, object]], levels: int
) -> None:
    parts = tuple(augmentations.build({"name": one} if isinstance(one, str) else one) for one in names)
    batches = TrainingBatches(len(store), 4, 7)
    single = Loader(Pictures(store.paths, store.labels, RULES, parts, 7), batches, 0)
    whole = DeviceLoader(store.paths, store.labels, RULES, parts, 7, batches, CPU)
    for epoch in (0, 1):
        batches.start(epoch, 0)
        for one, other in zip(single, whole, strict=True):
            assert torch.equal(one.indices, other.indices)
            assert torch.equal(one.labels, other.labels)
            (mine,), (theirs,) = one.groups[0].stacks, other.groups[0].stacks
            assert mine.shape == theirs.shape
            apart = (mine.int() - theirs.int()).abs()
            # Whether a pixel at the very edge of a turned picture comes from outside is a matter of rounding.
            assert (apart > levels).float().mean() < (0.01 if "shift_scale_rotate" in str(names) else 1e-9)
            assert theirs[:, 0].is_contiguous(memory_format=torch.channels_last)


def test_equalize_is_pillows(store: Manifest) -> None:
    part = augmentations.build({"name": "equalize"})
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (3, 3, 20, 30), np.uint8))
    found = kernels[type(part)](pixels, [True, False, True], RULES)
    assert torch.equal(found[1], pixels[1])
    for row in (0, 2):
        expected = ImageOps.equalize(Image.fromarray(pixels[row].permute(1, 2, 0).numpy()))
        np.testing.assert_array_equal(found[row].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_evaluation_batches_are_not_augmented(store: Manifest) -> None:
    parts = (augmentations.build({"name": "horizontal_flip", "p": 1.0}),)
    batches = EvaluationBatches(len(store), 4)
    single = Loader(Pictures(store.paths, store.labels, RULES, parts, 0), batches, 0)
    for one, other in zip(single, DeviceLoader(store.paths, store.labels, RULES, parts, 0, batches, CPU), strict=True):
        assert (one.groups[0].stacks[0].int() - other.groups[0].stacks[0].int()).abs().max() <= 1


def test_what_batches_cannot_do_is_refused_in_words(store: Manifest, tmp_path: Path) -> None:
    def refused(text: str, *names: str, paths: list[Path] | None = None, **changes: object) -> None:
        parts = tuple(augmentations.build({"name": name}) for name in names)
        with pytest.raises(UserError, match=text):
            refuse_unbatched(paths or store.paths, Preprocessing(**{**RULES.model_dump(), **changes}), parts)

    refused("rand_augment cannot be drawn on batches.*brightness_contrast, color_jitter", "rand_augment")
    refused("crops comes first", "horizontal_flip", "random_crop")
    refused("bicubic", interpolation="bicubic")
    refused("'five'", crops={"name": "five"})
    refused("data prepare", paths=[tmp_path / "a.jpg"])
