"""Training from scratch on genuine photographs in class folders: the recipes of Caltech, in small and in short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import manyhot
from manyhot.data.manifest import Manifest
from manyhot.recipe import load_recipe

RECIPES = {
    "caltech256-preact20": ["input.size=64", "input.resize=72"],
    "caltech256-preact26": ["input.size=64", "input.resize=72"],
    "caltech256-preact50": ["input.size=32", "input.resize=36", "training.batch_size=32"],
    "caltech101-preact20": ["input.size=64", "input.resize=72"],
    "caltech101-preact26": ["input.size=64", "input.resize=72"],
}


@pytest.fixture(scope="module")
def some(realdata: Path) -> Manifest:
    """Fifteen pictures of each of twenty classes."""
    manifest = manyhot.open_source(str(realdata / "caltech101"))
    assert len(manifest.classes) == 20
    assert manifest.labels.sum(axis=0).tolist() == [60] * 20
    keep = np.zeros(len(manifest), dtype=bool)
    for c in range(20):
        keep[np.flatnonzero(manifest.labels[:, c])[::4]] = True
    return manifest.rows(keep)


@pytest.mark.parametrize("name", RECIPES)
def test_an_epoch_of_each_recipe(some: Manifest, tmp_path: Path, name: str) -> None:
    run = manyhot.train(load_recipe(name, ["training.epochs=1", *RECIPES[name]]), some, tmp_path / "run")
    (line,) = run.read_history()
    metrics = manyhot.evaluate(run.path).metrics
    assert metrics["n_images"] == 60
    assert np.sum(metrics["confusion"]) == 60
    assert metrics["top1"] == pytest.approx(line["val_top1"])
    assert metrics["top5"] >= metrics["top1"]
    assert 0 < line["train_loss"] < 10
