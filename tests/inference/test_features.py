"""Features of a frozen network: what they are, when they are computed again, and how batches of them are made."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import manyhot
from manyhot.data.decoding import EvaluationBatches
from manyhot.data.images import open_image
from manyhot.data.loading import TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import augmentations
from manyhot.errors import UserError
from manyhot.inference.feature_store import Features
from manyhot.inference.features import Extraction, FeatureLoader
from manyhot.models.classifier import create_classifier
from manyhot.recipe import Input, Model

MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture
def tiny(tiny_table: Path) -> Manifest:
    return manyhot.open_source(str(tiny_table))


@pytest.fixture
def extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extraction:
    """A small frozen network, with an empty cache."""
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model = create_classifier(Model(backbone="timm/test_resnet", weights="none", frozen=True, pooling="average+max"), 3)
    rules = Preprocessing.from_recipe(Input(size=32, fit="squash"), MEAN, STD)
    parts = tuple(augmentations.build({"name": name}) for name in ("random_resized_crop", "horizontal_flip"))
    return Extraction(model, rules, parts, seed=4, batch_size=8, workers=1)


def forwards(extraction: Extraction) -> list[int]:
    """Number of pictures of each forward pass from now on."""
    seen: list[int] = []
    extraction.classifier.backbone.register_forward_hook(lambda _module, inputs, _map: seen.append(len(inputs[0])))
    return seen


def test_features_are_the_networks_rounded_to_float16(extraction, tiny):
    (features,) = extraction.compute(tiny.paths)
    for path, found in zip(tiny.paths, features.dense(), strict=True):
        pixels = np.array(extraction.preprocessing.fit_image(open_image(path)))
        x = extraction.preprocessing.normalize(torch.from_numpy(pixels).permute(2, 0, 1))[None]
        with torch.no_grad():
            wanted = extraction.classifier.features(x)[0]
        np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-3, atol=1e-4)


def test_what_the_store_has_is_not_computed_again(extraction, tiny, tmp_path):
    seen = forwards(extraction)
    first = extraction.compute(tiny.paths[:30], 3)
    assert sum(seen) == 90
    again = replace(extraction, workers=2, batch_size=5).compute(tiny.paths[:30], 3)
    assert sum(seen) == 90
    assert all(np.array_equal(one.dense(), other.dense()) for one, other in zip(first, again, strict=True))
    more = extraction.compute(tiny.paths, 2)
    assert sum(seen) == 90 + 2 * 20
    assert np.array_equal(more[1].dense()[:30], first[1].dense())
    # A picture is its content, wherever it lies.
    moved = tmp_path / "elsewhere.png"
    shutil.copy(tiny.paths[7], moved)
    elsewhere = extraction.compute([moved], 3)
    assert sum(seen) == 130
    assert all(np.array_equal(one.dense()[0], other.dense()[7]) for one, other in zip(elsewhere, first, strict=True))


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({}, 0),
        ({"batch_size": 3, "workers": 0}, 0),
        ({"seed": 5}, 10),  # the first view is not augmented
        ({"augment": (augmentations.build({"name": "color_jitter"}),)}, 10),
        ({"precision": "bf16"}, 20),
        ({"preprocessing": Preprocessing.from_recipe(Input(size=40, fit="squash"), MEAN, STD)}, 20),
        ({"preprocessing": Preprocessing.from_recipe(Input(size=32, fit="squash"), MEAN, (0.4, 0.5, 0.5))}, 20),
        ({"preprocessing": Preprocessing.from_recipe(Input(size=32, fit="squash", crops="five"), MEAN, STD)}, 20),
    ],
)
def test_all_that_changes_features_is_in_their_key(extraction, tiny, change, computed):
    extraction.compute(tiny.paths[:10], 2)
    seen = forwards(extraction)
    changed = replace(extraction, **change)
    changed.compute(tiny.paths[:10], 2)
    assert sum(seen) == computed * (changed.preprocessing.cropping.count or 1)


def test_other_weights_and_pooling_are_computed_anew(extraction, tiny):
    (first,) = extraction.compute(tiny.paths[:4])
    parameter = next(extraction.classifier.backbone.parameters())
    with torch.no_grad():
        parameter.flatten()[0] += 1e-6
    seen = forwards(extraction)
    extraction.compute(tiny.paths[:4])
    assert sum(seen) == 4
    model = create_classifier(Model(backbone="timm/test_resnet", weights="none", frozen=True, pooling="max"), 3)
    model.backbone.load_state_dict(extraction.classifier.backbone.state_dict())
    (narrow,) = replace(extraction, classifier=model).compute(tiny.paths[:4])
    assert (first.width, narrow.width) == (2 * narrow.width, narrow.width)


def test_what_was_computed_before_an_interruption_is_kept(extraction, tiny):
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction.compute(tiny.paths, after_batch=stop)
    seen = forwards(extraction)
    extraction.compute(tiny.paths)
    assert sum(seen) == len(tiny) - 3 * 8


def test_a_picture_that_vanished_or_broke_is_named(extraction, tiny, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(tiny.paths[0].read_bytes()[:300])
    with pytest.raises(UserError, match=r"broken\.png: the picture cannot be read any more"):
        extraction.compute([tiny.paths[1], broken])
    with pytest.raises(UserError, match=r"gone\.png: there is no such file"):
        extraction.compute([tmp_path / "gone.png"])


def made(counts: list[int], view: int, width: int = 2) -> Features:
    """Features that say which picture, view and crop they are of."""
    rows = [[picture + view / 8, crop] for picture, count in enumerate(counts) for crop in range(count)]
    block: NDArray[np.float16] = np.array(rows, np.float16).reshape(-1, width)
    first = np.cumsum(counts) - counts
    return Features([block], np.zeros(len(counts), np.int64), first, np.array(counts), width)


@pytest.mark.parametrize("counts", [[1] * 23, [4] * 23, [1, 3, 2] * 7 + [1, 2]])
def test_batches_of_features_are_those_of_their_pictures(counts):
    n = len(counts)
    labels = np.arange(3 * n, dtype=np.int8).reshape(n, 3)
    views = [made(counts, view) for view in range(3)]
    batches = TrainingBatches(n, 5, seed=2)
    loader = FeatureLoader(views, labels, batches, seed=2)
    drawn = []
    for epoch in (0, 1, 0):
        batches.start(epoch, 0)
        found: dict[int, float] = {}
        for batch in loader:
            assert np.array_equal(batch.labels, labels[batch.indices])
            assert sorted(torch.cat([group.places for group in batch.groups]).tolist()) == list(
                range(len(batch.indices))
            )
            assert len({group.features.shape[1] for group in batch.groups}) == len(batch.groups)
            for group in batch.groups:
                for place, features in zip(group.places.tolist(), group.features.numpy(), strict=True):
                    row = int(batch.indices[place])
                    assert features[:, 1].tolist() == list(range(counts[row]))
                    assert len(set(features[:, 0])) == 1
                    found[row] = float(features[0, 0]) - row
        assert sorted(found) == list(range(n))
        drawn.append([found[row] for row in range(n)])
    assert set(drawn[0]) == {0, 0.125, 0.25}
    assert drawn[0] == drawn[2] != drawn[1]
    batches.start(1, skip=2)
    tail = [int(row) for batch in loader for row in batch.indices]
    batches.start(1, skip=0)
    assert [int(row) for batch in loader for row in batch.indices][10:] == tail
    held_out = FeatureLoader(views, labels, EvaluationBatches(n, 7))
    assert torch.cat([batch.indices for batch in held_out]).tolist() == list(range(n))
    assert all(float(group.features[0, 0, 0]) % 1 == 0 for batch in held_out for group in batch.groups)
