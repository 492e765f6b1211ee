"""Training from the outside: what a run leaves, and that it is a function of its inputs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import manyhot
from manyhot.atomic import sha256_file
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.recipe import load_recipe
from manyhot.training.checkpoints import load_checkpoint
from manyhot.training.train import train


@pytest.fixture(scope="module")
def tiny(tiny_table: Path) -> Manifest:
    return manyhot.open_source(str(tiny_table))


@pytest.fixture(scope="module")
def run_folder(tiny: Manifest, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    train(load_recipe(str(tiny_recipe)), tiny, out)
    return out


def outcome(run: Path) -> tuple[str, list[dict[str, object]]]:
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for line in history:
        del line["seconds"], line["images_per_second"], line["waited"]
    return sha256_file(run / "model" / "weights.safetensors"), history


def test_a_run_leaves_what_the_plan_promises(run_folder: Path) -> None:
    names = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    assert names >= {
        "recipe.yaml", "environment.json", "log.txt", "history.jsonl", "manifest.parquet",
        "checkpoints/last.pt", "checkpoints/best.pt", "model/config.json", "model/weights.safetensors",
        "model/MODEL_CARD.md",
    }  # fmt: skip
    assert "timm/test_resnet" in (run_folder / "recipe.yaml").read_text()
    assert "parameters" in (run_folder / "log.txt").read_text()
    environment = json.loads((run_folder / "environment.json").read_text())
    assert torch.__version__.startswith(environment[0]["packages"]["torch"])
    assert [line["epoch"] for line in outcome(run_folder)[1]] == [1, 2, 3, 4]


def test_tensorboard_holds_the_history(run_folder: Path) -> None:
    events = EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    history = outcome(run_folder)[1]
    assert [event.value for event in events.Scalars("mAP/val")] == pytest.approx([line["val_map"] for line in history])
    assert [event.step for event in events.Scalars("mAP/val")] == [line["step"] - 1 for line in history]
    assert len(events.Scalars("loss/step")) == history[-1]["step"]
    assert {
        "AP/red",
        "AP/green",
        "AP/blue",
        "lr/head",
        "lr/backbone",
        "loss/train",
        "loss/val",
        "images_per_second",
        "waited",
    } <= {*events.Tags()["scalars"]}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_repetition_change_nothing(
    run_folder: Path, tiny: Manifest, tiny_recipe: Path, tmp_path: Path, workers: int
) -> None:
    train(load_recipe(str(tiny_recipe), [f"training.workers={workers}"]), tiny, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(run_folder)


def test_another_seed_changes_the_weights(run_folder: Path, tiny: Manifest, tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(str(tiny_recipe), ["seed=6"]), tiny, tmp_path / "other")
    assert outcome(tmp_path / "other")[0] != outcome(run_folder)[0]


def test_the_bundle_scores_as_the_best_epoch_did(run_folder: Path, tiny: Manifest) -> None:
    best = json.loads((run_folder / "model" / "config.json").read_text())
    predictions, _ = manyhot.load(run_folder).predict_manifest(tiny.split("val"))
    metrics = manyhot.measure(predictions.scores, predictions.labels, predictions.classes)
    line = outcome(run_folder)[1][best["epoch"] - 1]
    assert metrics["map"] == pytest.approx(line["val_map"], abs=1e-9)
    assert line["val_map"] == max(line["val_map"] for line in outcome(run_folder)[1])


def test_a_frozen_backbone_stays_as_it_came(tiny: Manifest, tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(str(tiny_recipe), ["model.frozen=true", "training.views=0"]), tiny, tmp_path / "run")
    epochs = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    torch.manual_seed(0)  # the comparison must not depend on what else was drawn
    train(
        load_recipe(str(tiny_recipe), ["model.frozen=true", "training.views=0", "training.epochs=1"]),
        tiny,
        tmp_path / "short",
    )
    short = load_checkpoint(tmp_path / "short" / "checkpoints" / "last.pt")
    backbone = [name for name in epochs["model"] if name.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(epochs["model"][name], short["model"][name]) for name in backbone)
    assert not torch.equal(epochs["model"]["head.linear.weight"], short["model"]["head.linear.weight"])


def test_val_split_is_made_where_there_is_none(tiny: Manifest, tiny_recipe: Path, tmp_path: Path) -> None:
    train_only = tiny.split("train")
    overrides = ["data.val_fraction=0.25", "training.epochs=1"]
    train(load_recipe(str(tiny_recipe), overrides), train_only, tmp_path / "run")
    used = Manifest.load(tmp_path / "run" / "manifest.parquet")
    assert len(used.split("val")) == math.floor(26 * 0.25)
    assert sorted(used.ids) == sorted(train_only.ids)


def test_early_stopping_ends_the_run(tiny: Manifest, tiny_recipe: Path, tmp_path: Path) -> None:
    overrides = ["training.early_stopping=1", "optimizer.lr=1e-12", "optimizer.backbone_lr=1e-12", "training.epochs=30"]
    train(load_recipe(str(tiny_recipe), [*overrides, "training.ema=null"]), tiny, tmp_path / "run")
    assert len(outcome(tmp_path / "run")[1]) < 30


def test_a_loss_that_is_not_finite_names_step_rate_and_pictures(
    tiny: Manifest, tiny_recipe: Path, tmp_path: Path
) -> None:
    overrides = ["optimizer={name: sgd, lr: 1.0e+30}", "training.grad_clip=null", "model.feature_norm=false"]
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+ .*learning rate .*pictures \d\d") as caught:
        train(load_recipe(str(tiny_recipe), overrides), tiny, tmp_path / "run")
    assert "e+29 (head)" in str(caught.value)


def test_faults_are_found_before_anything_is_written(tiny: Manifest, tiny_recipe: Path, tmp_path: Path) -> None:
    for override in ("loss=bec", "optimizer.nam=sgd", "model.backbone=resnet81", "model.pooling=maxx"):
        with pytest.raises(UserError):
            train(load_recipe(str(tiny_recipe), [override]), tiny, tmp_path / "run")
        assert not (tmp_path / "run").exists()
