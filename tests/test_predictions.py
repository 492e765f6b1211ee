"""Predictions: what is saved is what is read, bit for bit."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.data.manifest import Manifest, Row
from manyhot.errors import UserError
from manyhot.predictions import Predictions, require_suffix

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@st.composite
def predictions(draw, min_size=0):
    n, c = draw(st.integers(min_size, 5)), draw(st.integers(1, 4))
    scores = hnp.arrays(np.float32, (n, c), elements=st.floats(0, 1, width=32))
    return Predictions(
        ids=tuple(draw(st.lists(names, min_size=n, max_size=n, unique=True))),
        splits=tuple(draw(st.lists(st.sampled_from(["train", "val", ""]), min_size=n, max_size=n))),
        scores=draw(scores),
        labels=draw(hnp.arrays(np.int8, (n, c), elements=st.sampled_from([-1, 0, 1]))),
        classes=tuple(draw(st.lists(names.filter(lambda name: name != "id"), min_size=c, max_size=c, unique=True))),
        task=draw(st.sampled_from(["multilabel", "multiclass"])),
        source=draw(st.dictionaries(names, names, max_size=2)),
        uncalibrated=draw(st.none() | scores),
        thresholds=draw(st.none() | st.tuples(*[st.floats(-1, 1)] * c)),
    )


def some(classes=("cat", "dog")) -> Predictions:
    return Predictions(
        ids=("a", "b,c", "ü"),
        splits=("val", "train", "val"),
        scores=np.array([[0.25, 1e-8], [1.0, 0.5], [0.1, 0.0]], np.float32),
        labels=np.array([[1, 0], [-1, 1], [0, 0]], np.int8),
        classes=classes,
        source={"crops": "whole picture"},
    )


def assert_same(one: Predictions, other: Predictions) -> None:
    for name in ("ids", "splits", "classes", "task", "source", "thresholds"):
        assert getattr(one, name) == getattr(other, name)
    assert (one.uncalibrated is None) == (other.uncalibrated is None)
    for name in ("scores", "labels", "ranking"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@settings(deadline=None, max_examples=40)
@given(predictions())
def test_parquet_reads_back_as_written(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("round") / "predictions.parquet"
    table.save(path)
    assert_same(Predictions.load(path), table)


def test_parquet_is_a_plain_table_for_others(tmp_path: Path):
    some().save(tmp_path / "p.parquet")
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert frame.columns == ["id", "split", "scores", "labels"]
    assert frame["scores"].dtype == pl.Array(pl.Float32, 2)
    assert frame["labels"].to_list() == [[1, 0], [-1, 1], [0, 0]]


@settings(deadline=None, max_examples=25)
@given(predictions(min_size=1))
def test_json_holds_every_score(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("json") / "p.json"
    table.save(path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row.pop("id") for row in rows] == list(table.ids)
    assert [list(row) for row in rows] == [list(table.classes)] * len(table)
    np.testing.assert_array_equal(np.array([list(row.values()) for row in rows], np.float32), table.scores)


def test_csv_is_read_by_any_reader(tmp_path: Path):
    some().save(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "b,c", "ü"]
    scores = [[float(row["cat"]), float(row["dog"])] for row in rows]
    np.testing.assert_allclose(scores, some().scores, atol=5e-7)


def test_a_split_keeps_order_and_values():
    part = some().split("val")
    assert (part.ids, part.splits, len(part)) == (("a", "ü"), ("val", "val"), 2)
    np.testing.assert_array_equal(part.scores, some().scores[[0, 2]])
    np.testing.assert_array_equal(part.labels, some().labels[[0, 2]])
    assert (part.classes, part.source) == (some().classes, some().source)
    with pytest.raises(UserError, match="'test'"):
        some().split("test")


@pytest.mark.parametrize("name", ["p.txt", "p", "p.parquet.gz", "p.CSV"])
def test_another_suffix_is_refused(tmp_path: Path, name):
    with pytest.raises(UserError, match=r"\.parquet, \.csv or \.json"):
        require_suffix(tmp_path / name)
    with pytest.raises(UserError, match=r"\.parquet, \.csv or \.json"):
        some().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_class_named_id_is_refused_where_it_would_hide_the_ids(tmp_path: Path, suffix):
    with pytest.raises(UserError, match="'id'"):
        some(("id", "dog")).save(tmp_path / f"p{suffix}")
    some(("id", "dog")).save(tmp_path / "p.parquet")
    assert_same(Predictions.load(tmp_path / "p.parquet"), some(("id", "dog")))


def test_what_is_no_table_of_predictions_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        Predictions.load(tmp_path / "none.parquet")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("not a table at all\n")
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "foreign.parquet")
    Manifest.from_rows(tmp_path, ["a"], [Row("1", "1.png", "val", [1])], label_rule="x").save(
        tmp_path / "manifest.parquet"
    )
    for name in ("empty", "text", "foreign", "manifest"):
        with pytest.raises(UserError, match=rf"{name}\.parquet: this is not a table of predictions"):
            Predictions.load(tmp_path / f"{name}.parquet")


@settings(deadline=None, max_examples=30)
@given(keep=st.floats(0, 0.999))
def test_a_cut_table_is_refused(tmp_path_factory, keep):
    path = tmp_path_factory.mktemp("cut") / "p.parquet"
    some().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match="not a table"):
        Predictions.load(path)


def test_shapes_that_do_not_fit_are_a_bug():
    with pytest.raises(AssertionError):
        Predictions(("a",), ("val",), np.zeros((1, 2), np.float32), np.zeros((1, 1), np.int8), ("cat",))
    with pytest.raises(AssertionError):
        Predictions(("a",), (), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int8), ("cat",))


def test_rankings_go_by_the_scores_before_calibration():
    table = some()
    assert table.ranking is table.scores
    calibrated = replace(table, uncalibrated=table.scores, scores=table.scores / 2)
    np.testing.assert_array_equal(calibrated.ranking, table.scores)
    part = calibrated.split("val")
    np.testing.assert_array_equal(part.ranking, table.scores[[0, 2]])
    np.testing.assert_array_equal(part.scores, table.scores[[0, 2]] / 2)


def test_predicted_is_above_the_threshold(tmp_path: Path):
    table = replace(some(), thresholds=(0.1, 1e-9))
    assert table.predicted() == [["cat", "dog"], ["cat", "dog"], ["cat"]]  # float32 .1 is above .1
    assert replace(table, thresholds=(1.0, 0.5)).predicted() == [[], [], []]
    table.save(tmp_path / "p.csv", predicted=True)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == ["cat;dog", "cat;dog", "cat"]
    table.save(tmp_path / "p.json", predicted=True)
    assert json.loads((tmp_path / "p.json").read_text())[2]["predicted"] == ["cat"]
    table.save(tmp_path / "p.parquet", predicted=True)
    assert_same(Predictions.load(tmp_path / "p.parquet"), table)
    with pytest.raises(UserError, match="know no thresholds"):
        some().save(tmp_path / "q.csv", predicted=True)
    with pytest.raises(UserError, match="'predicted'"):
        replace(table, classes=("cat", "predicted")).save(tmp_path / "q.csv", predicted=True)
