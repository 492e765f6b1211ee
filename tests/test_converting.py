"""A trained run in, a weight-standardised run of the same scores out; and training in the recipe's own way."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import manyhot
from manyhot.cli import main
from manyhot.converting import convert, summarize
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.features import Extraction
from manyhot.models.bundle import load_bundle
from manyhot.models.classifier import create_classifier
from manyhot.models.weight_standardization import (
    WeightStandardizedConv2d,
    output_difference,
    standardizations,
    standardize_weights,
)
from manyhot.predictions import Predictions
from manyhot.recipe import Input, Model

MODES = [name for name, _ in standardizations]


@pytest.fixture(scope="module")
def trained(tiny_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converting") / "run"
    changes = ["training.epochs=2", "evaluation.resamples=0"]
    manyhot.train(manyhot.load_recipe(str(tiny_recipe), changes), manyhot.open_source(str(tiny_table)), out)
    manyhot.evaluate(out, "test")
    return out


@pytest.mark.parametrize("mode", ["alpha", "channel-eps", "gain", "exact-mean"])
def test_a_converted_run_scores_as_its_source(trained, mode, tmp_path):
    conversion = convert(trained, mode, tmp_path / "run")
    assert conversion.float64.relative <= 1e-12
    assert conversion.float32.relative <= 1e-5
    assert {row.mode for row in conversion.report.convs} <= {mode, "gain"}
    assert mode in {row.mode for row in conversion.report.convs}
    assert conversion.float64.largest > 0 or mode == "gain"
    before, after = load_bundle(trained / "model"), load_bundle(tmp_path / "run" / "model")
    assert sum(isinstance(layer, WeightStandardizedConv2d) for layer in after.model.modules()) == len(
        conversion.report.convs
    )
    changed = {"model", "weights_sha256"}
    assert before.config.model_dump(exclude=changed) == after.config.model_dump(exclude=changed)
    assert after.config.model.weight_standardization == {"name": mode}
    assert after.model.backbone.geometry == before.model.backbone.geometry

    found = manyhot.evaluate(tmp_path / "run", "test")
    wanted = json.loads((trained / "evaluation" / "test" / "metrics.json").read_text())
    assert found.metrics["map"] == pytest.approx(wanted["map"], abs=1e-6)
    source = Predictions.load(trained / "evaluation" / "test" / "predictions.parquet")
    np.testing.assert_allclose(found.predictions.scores, source.scores, atol=1e-5)
    assert str(trained) in (tmp_path / "run" / "log.txt").read_text()
    assert manyhot.load_recipe(str(tmp_path / "run" / "recipe.yaml")).model.weight_standardization == {"name": mode}


def test_a_bundle_becomes_a_bundle_and_is_converted_once(trained, tmp_path):
    conversion = convert(trained / "model", "alpha", tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == [
        "MODEL_CARD.md",
        "config.json",
        "weights.safetensors",
    ]
    assert "float64" in summarize(conversion)
    with pytest.raises(UserError, match=r"weight-standardised already \(by alpha\)"):
        convert(tmp_path / "bundle", "gain", tmp_path / "again")
    with pytest.raises(UserError, match="something here already"):
        convert(trained, "gain", tmp_path / "bundle")
    with pytest.raises(UserError, match="unknown weight standardization 'alhpa'"):
        convert(trained, "alhpa", tmp_path / "again")
    with pytest.raises(UserError, match="no such run folder"):
        convert(tmp_path / "nowhere", "alpha", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_verb_prints_the_check(trained, tmp_path, monkeypatch, capsys):
    arguments = ["convert", trained, "--weight-standardize", "alpha", "--out", tmp_path / "run"]
    monkeypatch.setattr(sys, "argv", ["manyhot", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().out
    assert stop.value.code in (0, None)
    for line in (
        "backbone.body.layer1.0.conv1 ",
        " backbone.body.layer1.0.bn1 ",
        "float64 ",
        "float32 ",
        f"written: {tmp_path / 'run' / 'model'}",
    ):
        assert line in said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "torchvision/squeezenet1_1", "torchvision/resnet18"])
def test_a_recipe_standardises_the_weights_that_it_loads(backbone, mode, tmp_path):
    plain = create_classifier(Model(backbone=backbone, weights="none"), 3)
    torch.save(plain.backbone.body.state_dict(), tmp_path / "weights.pth")
    settings = {"backbone": backbone, "weights": str(tmp_path / "weights.pth"), "weight_standardization": mode}
    made = create_classifier(Model(**settings, frozen=True), 3)
    assert made.backbone.frozen
    assert not any(parameter.requires_grad for parameter in made.backbone.parameters())
    x = torch.randn(2, 3, 64, 64)
    difference = output_difference(plain.backbone, made.backbone, x)
    assert difference.relative > 0.01 if mode == "unadapted" else difference.relative < 1e-3
    assert made.backbone.geometry == plain.backbone.geometry


def test_a_classifier_is_traced_through_its_backbone():
    model = create_classifier(Model(backbone="torchvision/densenet121", weights="none"), 3)
    _, report = standardize_weights(model, "alpha", torch.randn(1, 3, 64, 64))
    modes = [row.mode for row in report.convs]
    assert (report.untraced, modes.count("alpha"), modes.count("gain")) == (None, 59, 61)
    assert report.difference.relative < 1e-5


def test_features_of_another_standardisation_are_not_found_in_the_cache(tiny_table, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    paths = manyhot.open_source(str(tiny_table)).paths[:3]
    rules = Preprocessing.from_recipe(Input(size=32, fit="squash"), (0.5,) * 3, (0.5,) * 3)
    weights = create_classifier(Model(backbone="timm/test_resnet", weights="none"), 3).backbone.body.state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    found = {}
    for setting in (None, "unadapted", {"name": "unadapted", "eps": 1e-2}, "alpha", "gain"):
        settings = {"weights": str(tmp_path / "weights.pth"), "weight_standardization": setting, "frozen": True}
        model = create_classifier(Model(backbone="timm/test_resnet", **settings), 3)
        seen = []
        model.backbone.register_forward_hook(lambda *_: seen.append(1))  # noqa: B023 - called before the next one
        (features,) = Extraction(model, rules, workers=1).compute(paths)
        assert seen, setting
        found[str(setting)] = features.dense()
    np.testing.assert_allclose(found["alpha"], found["None"], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found["gain"], found["None"], rtol=2e-3, atol=1e-4)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 5


def test_a_standardised_recipe_trains_resumes_and_is_loaded(tiny_recipe, tiny_table, tmp_path):
    changes = ["model.weight_standardization=channel-eps", "training.epochs=2"]
    recipe = manyhot.load_recipe(str(tiny_recipe), changes)
    run = manyhot.train(recipe, manyhot.open_source(str(tiny_table)), tmp_path / "run")
    bundle = load_bundle(run.model)
    assert bundle.config.model.weight_standardization == {"name": "channel-eps"}
    assert any(name.endswith("channel_eps") for name in bundle.model.state_dict())
    manyhot.train(recipe, manyhot.open_source(str(tiny_table)), tmp_path / "run", resume=True)
    with pytest.raises(UserError, match=r"model\.weight_standardization"):
        manyhot.train(
            manyhot.load_recipe(str(tiny_recipe), ["model.weight_standardization=alhpa"]),
            manyhot.open_source(str(tiny_table)),
            tmp_path / "other",
        )
