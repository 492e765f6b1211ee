"""Frozen backbones: training on stored features is training on pictures, but for the time it takes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

import manyhot
from manyhot.atomic import sha256_file
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.models.bundle import load_bundle
from manyhot.recipe import load_recipe
from manyhot.training.checkpoints import load_checkpoint
from manyhot.training.train import train

FROZEN = ["model.frozen=true", "training.views=3"]


@pytest.fixture(scope="module")
def tiny(tiny_table: Path) -> Manifest:
    return manyhot.open_source(str(tiny_table))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def history(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["images_per_second"], line["waited"]
    return lines


def weights(run: Path) -> str:
    return sha256_file(run / "model" / "weights.safetensors")


@pytest.mark.parametrize("crops", ["one", "five"])
def test_features_and_pictures_train_the_same_head(cache, tiny, tiny_recipe, tmp_path, crops):
    same = ["model.frozen=true", "input.augment=[]", f"input.crops={crops}", "model.crop_pooling=mean"]
    same += ["model.dropout=0"]  # drawn for a batch: bags of crops are laid out alike, but let nothing hang on it
    for name, views in (("pictures", 0), ("features", 1)):
        train(load_recipe(str(tiny_recipe), [*same, f"training.views={views}"]), tiny, tmp_path / name)
    for one, other in zip(history(tmp_path / "pictures"), history(tmp_path / "features"), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=2e-3)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=2e-3)
        assert one["val_map"] == pytest.approx(other["val_map"], abs=0.03)
    one, other = (load_bundle(tmp_path / name / "model").model for name in ("pictures", "features"))
    assert set(one.state_dict()) == set(other.state_dict())
    for name, tensor in one.backbone.state_dict().items():
        assert torch.equal(tensor, other.backbone.state_dict()[name])


def test_a_warm_cache_and_workers_change_nothing(cache, tiny, tiny_recipe, tmp_path):
    train(load_recipe(str(tiny_recipe), FROZEN), tiny, tmp_path / "cold")
    kept = sorted(path.name for path in cache.rglob("*.safetensors"))
    assert len(kept) == 4  # three views of train, one of val
    for workers in (0, 2):
        train(load_recipe(str(tiny_recipe), [*FROZEN, f"training.workers={workers}"]), tiny, tmp_path / f"{workers}")
        assert (weights(tmp_path / f"{workers}"), history(tmp_path / f"{workers}")) == (
            weights(tmp_path / "cold"), history(tmp_path / "cold"),
        )  # fmt: skip
    assert sorted(path.name for path in cache.rglob("*.safetensors")) == kept
    train(load_recipe(str(tiny_recipe), [*FROZEN, "optimizer.lr=0.03"]), tiny, tmp_path / "another head")
    assert sorted(path.name for path in cache.rglob("*.safetensors")) == kept
    assert weights(tmp_path / "another head") != weights(tmp_path / "cold")


def test_checkpoints_hold_the_head_alone_and_the_bundle_everything(cache, tiny, tiny_recipe, tmp_path):
    run = train(load_recipe(str(tiny_recipe), FROZEN), tiny, tmp_path / "run")
    saved = load_checkpoint(run.last)
    assert {name.split(".")[0] for name in saved["model"]} == {"norm", "linear"}
    bundle = load_bundle(run.model)
    assert bundle.config.epoch == load_checkpoint(run.best)["epoch"]
    best = load_checkpoint(run.best)["weights"]
    assert all(torch.equal(bundle.model.head.state_dict()[name], tensor) for name, tensor in best.items())
    scores = manyhot.load(run.path).predict_manifest(tiny.split("val"))[0].scores
    assert scores.shape == (12, 3)


def test_sigkill_and_resume(tiny_table, tiny_recipe, cache, tmp_path):
    """Also while features are computed: the cache starts empty."""

    def start(out: Path, *extra: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "manyhot",
            "train",
            str(tiny_recipe),
            "--data",
            str(tiny_table),
            "--out",
            str(out),
        ]
        for setting in (*FROZEN, "training.epochs=60"):
            command += ["--set", setting]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    kills = 0
    for _ in range(4):
        process = start(tmp_path / "killed", "--resume")
        deadline = time.monotonic() + 60
        log = tmp_path / "killed" / "log.txt"
        lines = log.read_text().count("training on") if log.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_text().count("training on") > lines:
                break
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.0))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    for out in ("killed", "whole"):
        process = start(tmp_path / out, *(["--resume"] if out == "killed" else []))
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def test_resuming_needs_the_same_backbone(cache, tiny, tiny_recipe, tmp_path):
    model = manyhot_backbone(tmp_path / "w.pth", seed=1)
    settings = [*FROZEN, f"model.weights={model}"]
    train(load_recipe(str(tiny_recipe), settings), tiny, tmp_path / "run")
    manyhot_backbone(tmp_path / "w.pth", seed=2)
    with pytest.raises(UserError, match="weights of timm/test_resnet are not those that the run was started with"):
        train(load_recipe(str(tiny_recipe), settings), tiny, tmp_path / "run", resume=True)


def manyhot_backbone(path: Path, seed: int) -> Path:
    import timm

    torch.manual_seed(seed)
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.views=2"], "training.views has an effect only with model.frozen"),
        (["training.solver=lbfgs"], "training.solver needs model.frozen"),
        (["model.frozen=true"], "input.augment has no effect with training.views 1"),
        (["model.frozen=true", "training.views=2", "input.augment=[]"], "training.views above 1 are all alike"),
        ([*FROZEN, "training.mix=mixup"], "training.mix needs pictures, not their features"),
        (
            ["model.frozen=true", "training.views=0", "training.solver=lbfgs", "model.dropout=0", "training.ema=null"],
            "training.solver needs features",
        ),
        ([*FROZEN, "training.solver=lbfgs"], "training.solver goes without training.ema and model.dropout"),
        (
            [
                "model.frozen=true",
                "input.augment=[]",
                "input.crops=five",
                "training.ema=null",
                "model.dropout=0",
                "training.solver=lbfgs",
            ],
            "needs a smooth objective, and the maximum over crops",
        ),
        (["input.crops=five"], "input.augment names a part that crops, and input.crops is 'five'"),
        (
            ["input.crops=five", "input.augment=[]", "training.mix=mixup"],
            "training.mix mixes pictures of one crop, and input.crops is 'five'",
        ),
        (
            ["input.augment=[]", "input.crops=five", "model.crop_pooling=concat", "evaluation.crops=ten"],
            "needs as many crops at test as in training",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tiny, tiny_recipe, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train(load_recipe(str(tiny_recipe), settings), tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


SOLVED = ["model.frozen=true", "training.solver={name: lbfgs, penalties: [1, 0.1], folds: 3}", "training.ema=null"]
SOLVED += ["model.dropout=0", "training.views=2", "input.augment=[horizontal_flip]"]


@pytest.mark.parametrize(("crops", "pooling"), [("one", "max"), ("five", "mean"), ("five", "concat")])
def test_a_solved_head_is_an_epoch_of_its_own(cache, tiny, tiny_recipe, tmp_path, crops, pooling):
    settings = [*SOLVED, f"input.crops={crops}", f"model.crop_pooling={pooling}"]
    for name in ("one", "other"):
        train(load_recipe(str(tiny_recipe), settings), tiny, tmp_path / name)
    assert (weights(tmp_path / "one"), history(tmp_path / "one")) == (
        weights(tmp_path / "other"), history(tmp_path / "other"),
    )  # fmt: skip
    (line,) = history(tmp_path / "one")
    assert (line["epoch"], line["lr"], line["lr_backbone"]) == (1, None, None)
    assert "penalties by cross-validation" in (tmp_path / "one" / "log.txt").read_text()
    evaluation = manyhot.evaluate(tmp_path / "one", "val")
    assert evaluation.metrics["map"] == pytest.approx(line["val_map"], abs=0.05)
    assert evaluation.metrics["loss"] == pytest.approx(line["val_loss"], rel=0.01)
    # Resuming a run that is complete leaves it as it is.
    before = weights(tmp_path / "one")
    train(load_recipe(str(tiny_recipe), settings), tiny, tmp_path / "one", resume=True)
    assert weights(tmp_path / "one") == before


def test_penalties_follow_the_reduction(cache, tiny, tiny_recipe, tmp_path):
    """The mean over C classes is a C-th of their sum: so is the penalty, and the head is the same."""
    for reduction in ("sum", "mean"):
        settings = [*SOLVED, f"loss={{name: bce, reduction: {reduction}}}", "training.solver.penalties=[0.3]"]
        train(load_recipe(str(tiny_recipe), settings), tiny.rows((tiny.labels >= 0).all(axis=1)), tmp_path / reduction)
    one, other = (load_bundle(tmp_path / name / "model").model.head.linear for name in ("sum", "mean"))
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-3)


def test_a_signal_stops_a_solver_and_the_run_resumes(cache, tiny_table, tiny_recipe, tmp_path):
    command = [sys.executable, "-m", "manyhot", "train", str(tiny_recipe), "--data", str(tiny_table)]
    command += ["--out", str(tmp_path / "run")]
    for setting in (*SOLVED[:1], *SOLVED[2:], "training.solver={name: lbfgs, folds: 13}"):
        command += ["--set", setting]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "run" / "log.txt"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("in the cache") == 3:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (143, 0), output  # 0 where it was faster than the signal
    assert "Traceback" not in output
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(history(tmp_path / "run")) == 1


def test_a_solver_refuses_windows_that_differ_in_number(cache, tiny, tiny_recipe, tmp_path):
    dense = ["input.crops={name: dense, sizes: [32, 64], step: 4}", "input.fit=crop", "input.size=16"]
    few = tiny.rows([i < 30 for i in range(len(tiny))])
    narrow = few.paths[0]
    with Image.open(narrow) as image:
        tall = image.transpose(Image.Transpose.ROTATE_90).resize((40, 80))
    tall.save(tmp_path / "tall.png")
    table = few.table.with_columns(
        pl.when(pl.col("id") == few.ids[0]).then(pl.lit(str(tmp_path / "tall.png"))).otherwise("image").alias("image")
    )
    mixed = replace(few, table=table)
    with pytest.raises(UserError, match="needs as many crops of every picture"):
        train(load_recipe(str(tiny_recipe), [*SOLVED, *dense, "model.crop_pooling=mean"]), mixed, tmp_path / "run")
