"""The verbs one after the other, as a person would type them, on a small data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import manyhot
from manyhot.cli import main
from manyhot.data.loading import Pictures
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.sources import digits as digits_source
from manyhot.data.transforms import augmentations
from manyhot.models.backbones import create_backbone
from manyhot.predictions import Predictions


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line in this process: what it prints."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["manyhot", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert stop.value.code in (0, None), printed.err
        return printed.out

    return call


@pytest.fixture(scope="module")
def trained(tiny_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    manyhot.train(manyhot.load_recipe(str(tiny_recipe)), manyhot.open_source(str(tiny_table)), out)
    return out


def test_recipes_are_listed_printed_and_described(run) -> None:
    listed = run("recipes")
    for name in ("digits-small", "voc-squeezenet-frozen", "voc-squeezenet", "voc-resnet18-sgd"):
        assert name in listed
        assert f"manyhot train {name} --data" in run("recipes", name)
    assert json.loads(run("recipes", "--schema"))["properties"]["training"]


def test_inspect_counts(run, tiny_table: Path) -> None:
    said = run("data", "inspect", tiny_table)
    for word in ("red", "green", "blue", "train", "val", "test"):
        assert word in said
    assert "26" in said


def test_show_describes_and_draws(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_source, "COUNTS", {"train": 4, "val": 2, "test": 2})
    drawn = tmp_path / "drawn.png"
    said = run("data", "show", "digits", "0", "--out", drawn)
    assert "box " in said
    assert "split    train" in said
    with Image.open(drawn) as image:
        assert min(image.size) >= 96


def test_recipes_print_the_layers_of_a_network(run) -> None:
    said = run("recipes", "caltech256-preact50", "--summary", "--classes", "256")
    rows = [line.split() for line in said.splitlines()]
    assert ["backbone.body.stages.3.2.conv3", "Conv2d", "1×2048×7×7", "1,048,576", "1,048,576"] in rows
    assert ["head.linear", "Linear", "1×256", "524,544", "524,544"] in rows


def test_a_sheet_shows_what_a_recipe_does_to_a_picture(
    run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    said = run("data", "show", tiny_table, "0", "--augment", "7", "--recipe", tiny_recipe, "--out", sheet)
    assert f"drawn: {sheet}" in said
    with Image.open(sheet) as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.shape == (3 * (224 + 22 + 8) + 8, 3 * (224 + 8) + 8, 3)
    tiles = [pixels[8 + 254 * (i // 3) :, 8 + 232 * (i % 3) :][:224, :224] for i in range(9)]
    assert len({tile.tobytes() for tile in tiles[:8]}) == 8
    assert (tiles[8] == 255).all()
    # The first is the picture as at test, 32 pixels enlarged sevenfold; the second that of training's first epoch.
    manifest, recipe = manyhot.open_source(str(tiny_table)), manyhot.load_recipe(str(tiny_recipe))
    rules = Preprocessing.from_recipe(recipe.input, create_backbone(recipe.model.backbone, "none").mean, (1, 1, 1))
    parts = tuple(augmentations.build(one) for one in recipe.input.augment)
    loaded = Pictures(manifest.paths, manifest.labels, rules, parts, recipe.seed)
    for tile, epoch in ((tiles[0], -1), (tiles[1], 0), (tiles[7], 6)):
        np.testing.assert_array_equal(tile[3::7, 3::7], loaded[epoch, 0][1][0])


def test_a_learning_rate_is_found(run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    plot = tmp_path / "rates.svg"
    said = run("find-lr", tiny_recipe, "--data", tiny_table, "--out", plot, "--steps", "12", "--highest", "0.1")
    assert said.startswith("12 steps; smoothed loss lowest")
    assert f"plot: {plot}" in said
    assert "Loss by learning rate" in plot.read_text()
    assert list(tmp_path.iterdir()) == [plot]


def test_digits_written_as_voc_read_the_same(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_source, "COUNTS", {"train": 6, "val": 3, "test": 3})
    run("data", "prepare", "digits", "--as", "voc", "--out", tmp_path / "voc")
    ours, theirs = manyhot.open_source("digits"), manyhot.open_source(str(tmp_path / "voc"))
    order = [theirs.classes.index(name) for name in ours.classes]
    assert {*ours.splits} == {*theirs.splits}
    for split in ours.splits:
        np.testing.assert_array_equal(ours.split(split).labels, theirs.split(split).labels[:, order])


def test_pixels_are_prepared_verified_shown_and_trained_on(run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path):
    store = tmp_path / "store"
    said = run("data", "prepare", tiny_table, "--out", store, "--exact", 36, 30, "--jpeg", "--seed", 3)
    assert "50 pictures (train 26, val 12, test 12), 30 x 36, " in said
    assert "split 'train': mean [" in said
    said = run("data", "inspect", store, "--verify")
    assert "50 pictures match their SHA-256" in said
    assert "Width 30 – 30 – 30, height 36 – 36 – 36" in said
    assert f"image    {store}/pixels.parquet/7" in run("data", "show", store, "7")
    run("train", tiny_recipe, "--data", store, "--out", tmp_path / "run", "--set", "training.epochs=1")
    line = json.loads((tmp_path / "run" / "history.jsonl").read_text())
    assert 0 <= line["waited"] <= 1


def test_train_evaluate_predict(run, tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = run("train", tiny_recipe, "--data", tiny_table, "--out", out, "--set", "training.epochs=1")
    assert f"manyhot evaluate {out}" in said
    said = run("evaluate", out, "--split", "test")
    metrics = json.loads((out / "evaluation" / "test" / "metrics.json").read_text())
    assert f"mAP {metrics['map']:.4f}" in said
    assert "12 images" in said
    assert metrics["bundle_sha256"] == json.loads((out / "model" / "config.json").read_text())["weights_sha256"]
    assert (out / "evaluation" / "test" / "report.html").exists()
    again = run("evaluate", out, "--split", "test", "--data", tiny_table)
    assert again == said
    other = run("evaluate", out, "--split", "test", "--set", "evaluation.threshold=0.9")
    assert f"mAP {metrics['map']:.4f}" in other
    assert json.loads((out / "evaluation" / "test" / "metrics.json").read_text())["classes"][0]["threshold"] == 0.9


def test_rankings_are_exported_and_removed_with_the_scores_they_are_of(run, trained: Path) -> None:
    run("evaluate", trained, "--export", "npy", "--set", "evaluation.resamples=0")
    folder = trained / "evaluation" / "val"
    assert json.loads((folder / "metrics.json").read_text())["map_interval"] is None
    predictions = Predictions.load(folder / "predictions.parquet")
    for c, name in enumerate(predictions.classes):
        scores = np.load(folder / "export" / f"{name}.npy", allow_pickle=False)
        np.testing.assert_array_equal(scores, np.sort(predictions.scores[:, c])[::-1])
        files = (folder / "export" / f"{name}.txt").read_text().splitlines()
        assert sorted(files) == [f"{i:02}.png" for i in range(26, 38)]
    run("evaluate", trained)
    assert not (folder / "export").exists()


def test_predictions_are_the_same_in_every_format(run, trained: Path, tiny_table: Path, tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "json"):
        said = run("predict", trained, tiny_table.parent, "--out", tmp_path / f"scores.{suffix}")
        assert "50 pictures scored" in said
    whole = Predictions.load(tmp_path / "scores.parquet")
    table = pl.read_csv(tmp_path / "scores.csv")
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert table["id"].to_list() == list(whole.ids) == [row["id"] for row in rows]
    for c, name in enumerate(whole.classes):
        np.testing.assert_allclose(table[name].to_numpy(), whole.scores[:, c], atol=1e-6)
        np.testing.assert_allclose([row[name] for row in rows], whole.scores[:, c], atol=1e-6)
    assert (whole.labels == -1).all()


def test_five_lines_of_python(trained: Path, tiny_table: Path) -> None:
    model = manyhot.load(trained)
    predictions = model.predict([tiny_table.parent / "00.png", tiny_table.parent / "01.png"])
    best = predictions.scores.argmax(axis=1)
    assert [predictions.classes[c] in {"red", "green", "blue"} for c in best] == [True, True]
    alone = model.predict(tiny_table.parent / "01.png")
    np.testing.assert_allclose(alone.scores[0], predictions.scores[1], atol=1e-6)


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = manyhot.trian
    assert "train" in dir(manyhot)
