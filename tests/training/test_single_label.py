"""From class folders to a pre-activation ResNet: top-1 by epoch, a schedule that follows it, and an exact resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import manyhot
from manyhot.atomic import sha256_file
from manyhot.errors import UserError
from manyhot.runs import Run
from manyhot.training.gradients import count_hits
from manyhot.training.schedules import schedules

RECIPE = """
name: twin
seed: 3
input:
  size: 32
  resize: 36
  augment: [random_crop, shift_scale_rotate, brightness_contrast, equalize, rand_augment, random_erasing]
model: {backbone: preact_resnet, stages: [[16, 1], [32, 1]], weights: none}
loss: cross_entropy
optimizer: {name: sgd, lr: 0.05, nesterov: true}
schedule: {name: plateau, metric: val_top1, gamma: 0.5, patience: 0, warmup_epochs: 1}
training: {epochs: 8, batch_size: 8, checkpoint_steps: 2}
"""
NAMES = ("001.red", "002.green", "003.blue", "257.clutter")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of Caltech-256 with what lies about in it: a folder within a class, and a file without a suffix."""
    root = tmp_path_factory.mktemp("256_ObjectCategories")
    rng = np.random.default_rng(0)
    for c, name in enumerate(NAMES):
        (root / name).mkdir()
        for i in range(15):
            pixels = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
            if c < 3:
                pixels[..., c] = np.maximum(pixels[..., c], 140)
            Image.fromarray(pixels).save(root / name / f"{c + 1:03}_{i + 1:04}.jpg", quality=95)
    (root / NAMES[0] / "greg").mkdir()
    (root / NAMES[1] / "RENAME2").write_text("mv")
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "twin.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def trained(folders: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by the command line, as its resumed twin below."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = start(recipe, folders, out)
    said, _ = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert "top-1 0." in said
    return out


def start(recipe: Path, folders: Path, out: Path, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "manyhot", "train", str(recipe), "--data", str(folders), "--out", str(out), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_the_layout_of_caltech_256_is_read_unchanged(folders: Path) -> None:
    manifest = manyhot.open_source(str(folders))
    assert manifest.classes == ("red", "green", "blue", "clutter")
    assert manifest.task == "multiclass"
    assert len(manifest) == 60
    assert manifest.ids[0] == "001.red/001_0001.jpg"


def test_a_fifth_of_each_class_is_validated_on(trained: Path) -> None:
    manifest = manyhot.Manifest.load(Run(trained).manifest)
    assert manifest.split("val").labels.sum(axis=0).tolist() == [3, 3, 3, 3]
    assert manifest.split("train").labels.sum(axis=0).tolist() == [12, 12, 12, 12]


def test_the_history_has_top_1_and_the_rate_follows_it(trained: Path) -> None:
    history = Run(trained).read_history()
    schedule = schedules.build(
        {"name": "plateau", "metric": "val_top1", "gamma": 0.5, "patience": 0, "warmup_epochs": 1}
    )
    steps = history[0]["step"]
    for done, line in enumerate(history):
        assert 0 <= line["val_top1"] <= 1
        assert 0 <= line["train_top1"] <= 1
        assert line["train_top1"] * 48 == pytest.approx(round(line["train_top1"] * 48))
        assert line["lr"] == pytest.approx(0.05 * schedule.factor(line["step"] - 1, steps, 8, history[:done]))
    assert len({line["lr"] for line in history}) > 2  # it was reduced on the way


def test_the_best_epochs_top_1_is_the_evaluations(trained: Path) -> None:
    evaluation = manyhot.evaluate(trained)
    history = Run(trained).read_history()
    epoch = json.loads((trained / "model" / "config.json").read_text())["epoch"]
    assert evaluation.metrics["top1"] == pytest.approx(history[epoch - 1]["val_top1"])
    assert evaluation.metrics["map"] == pytest.approx(history[epoch - 1]["val_map"], abs=1e-6)
    confusion = np.array(evaluation.metrics["confusion"])
    assert confusion.sum(axis=1).tolist() == [3, 3, 3, 3]
    assert np.trace(confusion) / 12 == pytest.approx(evaluation.metrics["top1"])
    np.testing.assert_allclose(evaluation.predictions.scores.sum(axis=1), 1, atol=1e-5)


def test_a_killed_run_resumes_to_the_same_weights_and_rates(
    trained: Path, folders: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    process = start(recipe, folders, out)
    deadline = time.monotonic() + 120
    while len(_lines(out)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 4 <= len(_lines(out)) < 8
    process = start(recipe, folders, out, "--resume")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    whole, resumed = Run(trained).read_history(), Run(out).read_history()
    for line in (*whole, *resumed):
        del line["seconds"], line["images_per_second"], line["waited"]
    assert resumed == whole
    assert sha256_file(out / "model" / "weights.safetensors") == sha256_file(trained / "model" / "weights.safetensors")


def _lines(out: Path) -> list[str]:
    history = out / "history.jsonl"
    return history.read_text().splitlines() if history.exists() else []


def test_top_1_is_not_counted_over_mixed_pictures(folders: Path, recipe: Path, tmp_path: Path) -> None:
    loaded = manyhot.load_recipe(str(recipe), ["training.epochs=1", "training.mix=mixup"])
    run = manyhot.train(loaded, manyhot.open_source(str(folders)), tmp_path / "mixed")
    (line,) = run.read_history()
    assert line["train_top1"] is None
    assert line["val_top1"] is not None


def test_many_labels_have_no_top_1(tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    loaded = manyhot.load_recipe(str(tiny_recipe), ["training.epochs=1", "schedule=plateau"])
    run = manyhot.train(loaded, manyhot.open_source(str(tiny_table)), tmp_path / "run")
    (line,) = run.read_history()
    assert line["train_top1"] is line["val_top1"] is None


def test_waiting_for_what_never_comes_is_refused(tiny_table: Path, folders: Path, recipe: Path, tmp_path: Path) -> None:
    many = manyhot.load_recipe(str(recipe), ["loss=bce"])
    with pytest.raises(UserError, match="one class a picture"):
        manyhot.train(many, manyhot.open_source(str(tiny_table)), tmp_path / "a")
    mixed = manyhot.load_recipe(str(recipe), ["schedule.metric=train_top1", "training.mix=mixup"])
    with pytest.raises(UserError, match=r"no train_top1 with training\.mix"):
        manyhot.train(mixed, manyhot.open_source(str(folders)), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_hits_are_counted_as_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(50, 4)))
    labels = torch.zeros(50, 4, dtype=torch.int8)
    hits = judged = 0
    for row in range(50):
        if row % 7:
            truth = int(rng.integers(4))
            labels[row, truth] = 1
            judged += 1
            hits += int(logits[row].argmax()) == truth
        else:
            labels[row] = -1
    assert count_hits(logits, labels) == (hits, judged)
