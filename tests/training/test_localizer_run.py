"""A localizer from training to places: it is evaluated, predicts and is read back like any other model."""

import numpy as np
import pytest

import manyhot
from manyhot.errors import UserError
from manyhot.extraction import extract_features
from manyhot.models.bundle import load_bundle
from manyhot.models.localizer import Localizer
from manyhot.recipe import load_recipe, parse_recipe

RECIPE = """
name: tiny-localizer
seed: 3
input: {size: 32, fit: squash, augment: [horizontal_flip]}
model:
  backbone: preact_resnet
  stages: [[16, 1]]
  weights: none
  localizer: {name: convolutions, width: 8}
  pooling: {name: dropped_max, p: 0.3}
optimizer: {name: adamw, lr: 0.01}
training: {epochs: 1, batch_size: 8}
evaluation: {resamples: 0}
"""


def test_a_localizer_goes_the_whole_way(tiny_table, tmp_path):
    source = manyhot.open_source(str(tiny_table))
    run = manyhot.train(parse_recipe(RECIPE, "x"), source, tmp_path / "run")
    bundle = load_bundle(run.model)
    assert isinstance(bundle.model, Localizer)
    assert (bundle.config.stride, bundle.config.offset) == (4, 4)
    scores = manyhot.evaluate(run.path).predictions
    val = source.split("val")
    predicted = manyhot.load(run.path).predict(val.paths)
    np.testing.assert_allclose(predicted.scores, scores.scores, atol=1e-6)
    found = manyhot.localize(run.path, heatmap="cam", boxes="largest", min_score=0)
    assert found.metrics["n_images"] == len(val)
    assert len(found.detections) > 0
    assert found.report.is_file()
    with pytest.raises(UserError, match="a localizer pools scores: it has no features"):
        extract_features(run.path, source)


@pytest.mark.parametrize("name", ["voc07-alexnet-localizer", "voc07-alexnet-localizer-robust"])
def test_the_published_settings(name):
    recipe = load_recipe(name)
    assert recipe.training.batch_size == 32
    assert recipe.training.epochs == (45 if name.endswith("robust") else 30)
    assert recipe.optimizer == {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    assert recipe.schedule == {"name": "step", "epochs": 30, "gamma": 0.1}
    assert recipe.input.size == 512
