"""Training from pictures that lie in the device's memory; here the device is the processor."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import manyhot
from manyhot.atomic import sha256_file
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.resizing import Resizing
from manyhot.errors import Interrupted, UserError
from manyhot.recipe import load_recipe
from manyhot.runs import Run
from manyhot.training.tracking import Tracker
from manyhot.training.train import train

CHANGES = [
    "training.on_device=true",
    "training.epochs=2",
    "training.checkpoint_steps=null",
    "input.augment=[random_resized_crop, horizontal_flip, color_jitter]",
]


def test_a_run_is_the_same_every_time_and_when_it_was_stopped(
    tiny_table: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare(manyhot.open_source(str(tiny_table)), tmp_path / "store", Preparation(Resizing(None))).manifest
    recipe = load_recipe(str(tiny_recipe), CHANGES)
    whole = train(recipe, store, tmp_path / "whole")
    assert all(line["waited"] is not None for line in whole.read_history())

    logged = Tracker.step

    def log_and_stop(self: Tracker, step: int, value: float) -> None:
        logged(self, step, value)
        if step == 9:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Tracker, "step", log_and_stop)
    with pytest.raises(Interrupted):
        train(recipe, store, tmp_path / "stopped")
    monkeypatch.undo()
    stopped = train(recipe, store, tmp_path / "stopped")
    assert weights(whole) == weights(stopped)
    assert manyhot.evaluate(whole.path).metrics["map"] > 0


def weights(run: Run) -> str:
    return sha256_file(run.model / "weights.safetensors")


def test_files_are_refused_before_anything_is_written(tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pixel store.*data prepare"):
        train(load_recipe(str(tiny_recipe), CHANGES), manyhot.open_source(str(tiny_table)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
