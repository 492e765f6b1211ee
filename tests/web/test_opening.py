"""From the command line to a gallery: runs, tables of any program, and what does not fit."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manyhot.data.manifest import Manifest, Row
from manyhot.errors import UserError
from manyhot.predictions import Predictions
from manyhot.web.app import create_app
from manyhot.web.collection import descending
from manyhot.web.opening import open_gallery
from manyhot.web.serving import serve


@given(arrays(np.float32, st.integers(0, 60), elements=st.sampled_from([0.0, -0.0, 1e-45, 0.25, 0.5, 0.50000006, 1.0])))
def test_the_ranking_is_a_stable_sort(scores):
    np.testing.assert_array_equal(descending(scores), np.argsort(-scores, kind="stable"))


def test_a_run_that_is_not_evaluated_shows_its_learning(gallery_run):
    (gallery_run / "evaluation" / "val" / "predictions.parquet").unlink()
    opened = open_gallery(gallery_run)
    assert opened.collection is None
    assert {route.path for route in create_app(opened).routes} >= {"/api/live", "/api/gallery"}


def test_any_table_of_scores_is_read(tmp_path):
    frame = pl.DataFrame({"id": [7, 8], "cat": [0.25, 1.0], "note": ["x", "y"], "dog": [0, 1]})
    frame.write_csv(tmp_path / "scores.csv")
    frame.write_parquet(tmp_path / "scores.parquet")
    for name in ("scores.csv", "scores.parquet"):
        found = open_gallery(tmp_path / name).collection
        assert found is not None
        assert found.predictions.ids == ("7", "8")
        assert found.predictions.classes == ("cat", "dog")
        np.testing.assert_array_equal(found.predictions.scores, np.array([[0.25, 0], [1, 1]], np.float32))
        assert (found.predictions.labels == -1).all()


def test_labels_come_from_the_data_where_the_table_has_none(tmp_path):
    rows = [Row(f"{i}", f"{i}.jpg", "val", [i % 2, 0]) for i in range(4)]
    Manifest.from_rows(tmp_path, ("cat", "dog"), rows, label_rule="made up").save(tmp_path / "manifest.parquet")
    pl.DataFrame({"id": ["3", "2"], "cat": [0.5, 0.4], "dog": [0.1, 0.2]}).write_csv(tmp_path / "scores.csv")
    found = open_gallery(tmp_path / "scores.csv", data=str(tmp_path / "manifest.parquet")).collection
    assert found is not None
    assert found.predictions.labels.tolist() == [[1, 0], [0, 0]]
    assert found.file(0) == tmp_path / "3.jpg"


def test_ids_that_do_not_fit_are_named(gallery_run):
    path = gallery_run / "evaluation" / "val" / "predictions.parquet"
    known = Predictions.load(path)
    ids = (*known.ids[:5], "foreign-a", "foreign-b", *known.ids[7:])
    Predictions(ids, known.splits, known.scores, known.labels, known.classes).save(path)
    with pytest.raises(UserError, match=r"2 of 60 ids are not in the data; the first: foreign-a, foreign-b\..*--data"):
        open_gallery(gallery_run)
    Predictions(known.ids, known.splits, known.scores, known.labels, ("cat", "cow", *known.classes[2:])).save(path)
    with pytest.raises(UserError, match="the first that differ: 'cow' and 'dog'"):
        open_gallery(gallery_run)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"name": ["a"], "cat": [0.5]}, "no column 'id'"),
        ({"id": ["a"], "note": ["b"]}, "no column of scores"),
        ({"id": ["a", "a"], "cat": [0.5, 0.5]}, "stands twice"),
        ({"id": ["a", "b"], "cat": [0.5, -3.0]}, "the score of 'b' for 'cat' is -3, not in 0…1"),
        ({"id": ["a", "b"], "cat": [0.5, None]}, "the score of 'b' for 'cat' is nan"),
        ({"id": [], "cat": []}, "no column of scores|no picture"),
    ],
)
def test_faulty_tables_are_refused(tmp_path: Path, columns, words):
    pl.DataFrame(columns).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=words):
        open_gallery(tmp_path / "scores.parquet")


def test_what_is_not_there_is_refused(tmp_path, gallery_run):
    (tmp_path / "broken.parquet").write_bytes(b"nonsense")
    for path, settings in (
        (tmp_path / "none.parquet", {}), (tmp_path / "broken.parquet", {}), (tmp_path / "none", {}), (tmp_path, {}),
        (gallery_run, {"images": tmp_path}), (gallery_run, {"images": tmp_path / "x"}), (gallery_run, {"kind": "voc"}),
    ):  # fmt: skip
        with pytest.raises(UserError):
            open_gallery(path, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0", "token": None}, "needs a token"),  # noqa: S104
        ({"host": "127.0.0.1", "token": "short"}, "16 characters or more"),
        ({"host": "203.0.113.7", "token": "0123456789abcdef"}, "cannot be had"),
    ],
)
def test_an_address_must_be_safe_and_ours(gallery_run, settings, words):
    with pytest.raises(UserError, match=words):
        serve(open_gallery(gallery_run), port=0, ready=lambda _: None, **settings)


def test_scores_are_read_when_they_are_asked_for(gallery_run, monkeypatch):
    path = gallery_run / "evaluation" / "val" / "predictions.parquet"
    known, load, read = Predictions.load(path), Predictions.load, []
    monkeypatch.setattr(Predictions, "load", lambda file: read.append(file) or load(file))
    stored = open_gallery(gallery_run).collection.predictions
    for name in ("ids", "splits", "classes", "thresholds", "task", "source", "calibrated"):
        assert getattr(stored, name) == getattr(known, name)
    assert (len(stored), read) == (60, [])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: stored.scores, range(8)))
    assert all(one is found[0] for one in found)
    assert read == [path]
    np.testing.assert_array_equal(stored.scores, known.scores)
    np.testing.assert_array_equal(stored.labels, known.labels)
    np.testing.assert_array_equal(stored.ranking, known.ranking)
    np.testing.assert_array_equal(stored.take([3, 1]).scores, known.scores[[3, 1]])
    assert stored.predicted() == known.predicted()


def test_damaged_scores_are_told_in_words(tmp_path):
    rng = np.random.default_rng(0)
    scores, labels = rng.random((5000, 4), np.float32), np.zeros((5000, 4), np.int8)
    ids = tuple(map(str, range(5000)))
    Predictions(ids, ("val",) * 5000, scores, labels, ("a", "b", "c", "d")).save(tmp_path / "scores.parquet")
    data = bytearray((tmp_path / "scores.parquet").read_bytes())
    start = len(data) // 2
    data[start : start + 20000] = b"\xff" * 20000
    (tmp_path / "scores.parquet").write_bytes(data)
    opened = open_gallery(tmp_path / "scores.parquet")
    opened.collection.warm()
    client = TestClient(create_app(opened))
    assert client.get("/api/gallery").json()["n"] == 5000
    answer = client.get("/api/classes/0/ranking")
    assert answer.status_code == 409
    assert re.search("a score is not in 0…1|not a table of predictions", answer.json()["detail"])
