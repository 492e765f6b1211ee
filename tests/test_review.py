from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from manyhot.data.manifest import Manifest, Row
from manyhot.errors import UserError
from manyhot.metrics.folds import stratified_folds
from manyhot.metrics.label_errors import find_label_errors
from manyhot.metrics.out_of_fold import logistic_regression, out_of_fold_scores
from manyhot.review import COLUMNS, MISSING, WRONG, Review, review, solved_logistic_regression, summarize

CLASSES = ("cat", 'dog, "hot"', "=owl", "none")
PLANTED = {(3, 0), (40, 0), (77, 0), (10, 1), (51, 1)}


def data(n: int = 200) -> tuple[np.ndarray, Manifest]:
    """Features that tell two classes apart, five labels turned; a third class is chance, a fourth never shown."""
    rng = np.random.default_rng(0)
    truth = (rng.random((n, 4)) < [0.4, 0.3, 0.2, 0]).astype(np.int8)
    features = rng.normal(size=(n, 8)) * 0.3
    features[:, :2] += 3 * truth[:, :2]
    labels = truth.copy()
    for row, column in PLANTED:
        labels[row, column] = 1 - labels[row, column]
    labels[5, 0] = labels[6, 1] = -1
    rows = [Row(f"{i:03}", f"images/{i:03}.jpg", "train", labels[i].tolist()) for i in range(n)]
    return features.astype(np.float32), Manifest.from_rows(Path("root"), CLASSES, rows, label_rule="by hand")


@pytest.fixture(scope="module")
def reviewed() -> Review:
    return review(*data())


def test_planted_errors_are_first_of_their_classes(reviewed):
    table = reviewed.table.filter(pl.col("class").is_in(CLASSES[:2]))
    first = table.filter(pl.col("rank_in_class") <= 3)
    assert {(int(row["id"]), CLASSES.index(row["class"])) for row in first.iter_rows(named=True)} >= PLANTED
    # Of images that truly show a class, about half score below their mean, and are not flagged.
    assert first.filter("flagged").height >= 3


def test_rows_say_what_the_labels_and_scores_say(reviewed):
    features, manifest = data()
    labels = manifest.labels
    scores = out_of_fold_scores(features, labels, stratified_folds(labels, 5, 0), logistic_regression())
    found = find_label_errors(scores, labels)
    assert dict(reviewed.table.schema) == COLUMNS
    assert reviewed.table.height == (labels != -1).sum()
    seen: dict[str, int] = {}
    for k, row in enumerate(reviewed.table.iter_rows(named=True)):
        i, c = int(row["id"]), CLASSES.index(row["class"])
        seen[row["class"]] = seen.get(row["class"], 0) + 1
        assert (i, c) == (found.images[k], found.classes[k])
        assert (row["rank"], row["rank_in_class"]) == (k + 1, seen[row["class"]])
        assert (row["image"], row["split"]) == (f"images/{i:03}.jpg", "train")
        assert (row["label"], row["suggested_label"]) == (labels[i, c], 1 - labels[i, c])
        assert row["issue"] == (WRONG if labels[i, c] else MISSING)
        assert row["score"] == np.float32(scores[i, c])
        assert row["flagged"] == found.flagged[k]


def test_save_and_load(reviewed, tmp_path):
    path = tmp_path / "folder" / "review.parquet"
    beside = reviewed.save(path)
    assert beside == path.with_name("review.csv")
    assert sorted(one.name for one in path.parent.iterdir()) == ["review.csv", "review.parquet"]
    loaded = Review.load(path)
    assert loaded.table.equals(reviewed.table)
    assert (loaded.classes, loaded.label_rule, loaded.folds) == (CLASSES, "by hand", 5)
    with beside.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    flagged = reviewed.table.filter("flagged")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["class"] for row in rows] == flagged["class"].to_list()
    assert [int(row["rank"]) for row in rows] == flagged["rank"].to_list()


def test_other_files_are_refused(tmp_path, reviewed):
    with pytest.raises(UserError, match=r"a\.csv: a review is written as \.parquet"):
        reviewed.save(tmp_path / "a.csv")
    with pytest.raises(UserError, match="no such file"):
        Review.load(tmp_path / "a.parquet")
    data()[1].save(tmp_path / "manifest.parquet")
    with pytest.raises(UserError, match=r"manifest\.parquet: this is not a review of labels"):
        Review.load(tmp_path / "manifest.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UserError, match="not a review"):
        Review.load(tmp_path / "text.parquet")
    reviewed.table.drop("score").write_parquet(tmp_path / "b.parquet", metadata={"manyhot.review": json.dumps({})})
    with pytest.raises(UserError, match="or its columns"):
        Review.load(tmp_path / "b.parquet")


def test_summary(reviewed):
    text = summarize(reviewed, top=2)
    lines = text.splitlines()
    for name in CLASSES:
        known = reviewed.table.filter(pl.col("class") == name)
        wrong, missing = (known.filter(pl.col("issue") == one, "flagged").height for one in (WRONG, MISSING))
        present = int(known["label"].sum())
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert line[len(name) :].split() == [str(n) for n in (present, wrong, known.height - present, missing)]
    entries = reviewed.table.filter(pl.col("class") == "cat", "flagged").head(2)
    start = next(k for k, line in enumerate(lines) if line.startswith("cat:"))
    shown = [line.split() for line in lines[start + 2 : start + 4]]
    assert [int(row[0]) for row in shown] == entries["rank"].to_list()
    assert [row[-1] for row in shown] == entries["id"].to_list()
    flagged = int(reviewed.table["flagged"].sum())
    assert f"{flagged} of {reviewed.table.height} labels of 200 pictures" in text
    assert "none:" not in text, "nothing is flagged there"
    assert "cat:" not in summarize(reviewed, top=0)


def test_bad_input():
    features, manifest = data()
    with pytest.raises(UserError, match="features of 199 pictures, and 200 pictures"):
        review(features[:-1], manifest)
    with pytest.raises(UserError, match="200 images cannot be dealt into 201 folds"):
        review(features, manifest, folds=201)


def test_another_fit_is_used():
    features, manifest = data()
    half = review(features, manifest, fit=lambda _, labels: lambda x: np.full((len(x), labels.shape[1]), 0.5))
    assert half.table["score"].unique().to_list() == [0.5]
    assert not half.table["flagged"].any()


def test_the_solver_of_heads_gives_the_scores_of_scikit_learn():
    rng = np.random.default_rng(5)
    features = rng.normal(3, 2, (120, 30)).astype(np.float32)
    labels = (features @ rng.normal(size=(30, 4)) > 3).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = -1
    labels[:, 3] = np.where(labels[:, 3] == 1, 0, labels[:, 3])  # a class without a positive
    new = rng.normal(3, 2, (50, 30)).astype(np.float32)
    wanted = logistic_regression()(features, labels)(new)
    found = solved_logistic_regression()(features, labels)(new)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_a_run_is_reviewed_from_the_command_line(tiny_table, tiny_recipe, tmp_path):
    run = tmp_path / "run"
    frozen = ["--set", "model.frozen=true", "--set", "training.views=2", "--set", "training.epochs=1"]
    frozen += ["--set", "input.augment=[horizontal_flip]", "--set", "input.crops=ten"]
    manyhot("train", tiny_recipe, "--data", tiny_table, "--out", run, *frozen)
    said = manyhot("data", "review", run, "--folds", "3", "--top", "2")
    assert f"review: {run / 'review.parquet'}, {run / 'review.csv'}" in said
    found = Review.load(run / "review.parquet")
    assert found.folds == 3
    assert set(found.table["split"]) == {"train"}
    assert found.table["id"].n_unique() == 26
    said = manyhot("data", "review", run, "--split", "val", "--out", tmp_path / "val.parquet")
    assert Review.load(tmp_path / "val.parquet").table["id"].n_unique() == 12
    command = [sys.executable, "-m", "manyhot", "data", "review", str(run), "--out", str(tmp_path / "x.csv")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "a review is written as .parquet" in refused.stderr


def manyhot(*arguments: object) -> str:
    command = [sys.executable, "-m", "manyhot", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout
