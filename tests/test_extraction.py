"""`features`: what is written, in which layouts, of which network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import manyhot
from manyhot.errors import UserError
from manyhot.extraction import extract_features
from manyhot.recipe import load_recipe
from manyhot.training.train import train

PLAIN = ["input.augment=[]", "training.epochs=1"]


@pytest.fixture(scope="module")
def run(tiny_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(load_recipe(str(tiny_recipe), [*PLAIN, "input.crops=five"]), manyhot.open_source(str(tiny_table)), out)
    return out


def manyhot_features(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "manyhot", "features", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_runs_features_give_its_scores(run, tiny_table, tmp_path):
    done = manyhot_features(run, "--data", tiny_table, "--split", "val", "--out", tmp_path / "f.npy")
    assert done.returncode == 0, done.stderr
    assert "12 pictures, 96 numbers each, of five crops 32 of picture squashed to 37" in done.stdout
    features = np.load(tmp_path / "f.npy", allow_pickle=False)
    assert (features.dtype, features.shape) == (np.float16, (12, 5, 96))
    val = manyhot.open_source(str(tiny_table)).split("val")
    assert pl.read_csv(tmp_path / "f.csv", schema_overrides={"id": pl.String}).rows() == [
        (one, "val") for one in val.ids
    ]
    predictor = manyhot.load(run)
    head = predictor.bundle.model.head
    weight, bias = head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()
    standard = (features - head.norm.running_mean.numpy()) / np.sqrt(head.norm.running_var.numpy() + head.norm.eps)
    logits = (standard @ weight.T + bias).max(axis=1)
    wanted = predictor.predict_manifest(val)[0].scores
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), wanted, atol=2e-3)


def test_a_table_carries_labels(tiny_table, tiny_recipe, tmp_path):
    settings = [part for one in PLAIN for part in ("--set", one)]
    done = manyhot_features(tiny_recipe, "--data", tiny_table, "--out", tmp_path / "f.parquet", *settings)
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "f.parquet")
    manifest = manyhot.open_source(str(tiny_table))
    assert table.columns == ["id", "split", "labels", "features"]
    assert table.select("id", "split", "labels").equals(manifest.table.select("id", "split", "labels"))
    assert table["features"].dtype == pl.Array(pl.Float32, 96)
    again = extract_features(tiny_recipe, manifest, overrides=PLAIN)
    np.testing.assert_array_equal(table["features"].to_numpy(), again.features.dense()[:, 0].astype(np.float32))


def test_windows_that_differ_in_number_go_into_lists(tiny_table, tiny_recipe, tmp_path):
    manifest = manyhot.open_source(str(tiny_table))
    dense = ["input.crops={name: dense, sizes: [32, 48], step: 8}", "input.fit=crop", "input.size=16", *PLAIN]
    found = extract_features(tiny_recipe, manifest, split="val", overrides=dense)
    assert (found.features.counts > 4).all()
    found.save(tmp_path / "f.parquet")
    assert pl.read_parquet(tmp_path / "f.parquet")["features"].len() == 12
    found.features.counts[0] += 1
    with pytest.raises(UserError, match=r"different numbers of windows.*\.parquet"):
        found.save(tmp_path / "f.npy")
    found.save(tmp_path / "lists.parquet")
    lists = pl.read_parquet(tmp_path / "lists.parquet")["features"]
    assert lists.dtype == pl.List(pl.Array(pl.Float32, 96))
    assert lists.list.len().to_list() == found.features.counts.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "f.csv"], "features are written as .parquet or .npy"),
        (["--out", "f.npy", "--split", "nowhere"], "nowhere"),
        (["--out", "f.npy", "--set", "input.size=40"], "the model is trained already"),
    ],
)
def test_bad_input(run, tiny_table, tmp_path, arguments, message):
    arguments[1] = str(tmp_path / arguments[1])
    done = manyhot_features(run, "--data", tiny_table, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
