"""Two models of the same pictures: which differ most, and tables that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from manyhot.errors import UserError
from manyhot.metrics.ranking import average_precision
from manyhot.predictions import Predictions
from manyhot.web.app import create_app
from manyhot.web.comparing import compared
from manyhot.web.guard import Guard
from manyhot.web.opening import open_gallery


def table(seed: int, n: int = 40, order: np.ndarray | None = None) -> Predictions:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 9, (n, 3)) / 8).astype(np.float32)
    labels = np.random.default_rng(0).integers(-1, 2, (n, 3)).astype(np.int8)
    ids = tuple(f"{i}" for i in range(n))
    made = Predictions(ids, ("val",) * n, scores, labels, ("cat", "dog", "cow"), thresholds=(0.5, 0.25, 0.75))
    return made if order is None else made.take(order.tolist())


@given(st.integers(0, 5), st.booleans())
def test_what_differs_most_comes_first(seed, shuffled):
    a, plain = table(100 + seed), table(200 + seed)
    order = np.random.default_rng(seed).permutation(len(a)) if shuffled else np.arange(len(a))
    found = compared(a, plain.take(order.tolist()), ("a", "b"))
    assert (found.rows is None) == (not shuffled)
    n = len(a)
    for c in range(3):
        body = found.disagreement(c)
        np.testing.assert_array_equal(np.frombuffer(body, "<f4", n), plain.scores[:, c])
        away = np.abs(a.scores[:, c] - plain.scores[:, c])
        assert np.frombuffer(body, "<u4", n, 4 * n).tolist() == sorted(range(n), key=lambda row: (-away[row], row))
    away = np.abs(a.scores - plain.scores)
    expected = sorted(range(n), key=lambda row: (-away[row].max(), row))
    body = found.overall()
    rows, classes = np.frombuffer(body, "<u4", n), np.frombuffer(body, "<u4", n, 4 * n)
    assert rows.tolist() == expected
    assert classes.tolist() == [int(away[row].argmax()) for row in expected]
    np.testing.assert_array_equal(np.frombuffer(body, "<f4", n, 8 * n), a.scores[rows, classes])
    np.testing.assert_array_equal(np.frombuffer(body, "<f4", n, 12 * n), plain.scores[rows, classes])
    np.testing.assert_array_equal(np.frombuffer(body, "i1", n, 16 * n), a.labels[rows, classes])
    for c, one in enumerate(found.classes()):
        assert one["mean"] == pytest.approx(away[:, c].mean())
        t = a.thresholds[c]
        assert one["differ"] == ((a.scores[:, c] > t) != (plain.scores[:, c] > t)).sum()
        assert one["ap_b"] == pytest.approx(average_precision(plain.scores, a.labels)[c])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: replace(b, classes=("cat", "cow", "dog")), "classes of A.* and B.* differ; first: 'dog' and 'cow'"),
        (lambda b: replace(b, ids=("x", "y", *b.ids[2:])), r"2 only in A: 0, 1; 2 only in B: x, y"),
        (lambda b: b.take(range(35)), r"5 only in A: 35, 36, 37, …\)"),
        (lambda b: replace(b, ids=(*b.ids[:39], "0")), "1 only in A: 39"),
        (lambda b: b.take([*range(40), 3]), "an id stands twice"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        compared(table(1), change(table(2)), ("A", "B"))


def test_a_run_beside_a_run(gallery_run: Path, tmp_path):
    known = Predictions.load(gallery_run / "evaluation" / "val" / "predictions.parquet")
    scores = np.random.default_rng(5).random(known.scores.shape, dtype=np.float32)
    other = replace(known, scores=scores)
    run = tmp_path / "other"
    run.mkdir()
    (run / "recipe.yaml").write_text((gallery_run / "recipe.yaml").read_text())
    with pytest.raises(UserError, match="split 'val' of this run has not been evaluated"):
        open_gallery(gallery_run, compare=run)
    other.save(run / "evaluation" / "val" / "predictions.parquet")
    opened = open_gallery(gallery_run, compare=run)
    client = TestClient(Guard(create_app(opened)), base_url="http://127.0.0.1:1")
    assert client.get("/api/gallery").json()["compared"] == [str(gallery_run), str(run)]
    n = len(known)
    np.testing.assert_array_equal(np.frombuffer(client.get("/api/classes/1/compare").content, "<f4", n), scores[:, 1])
    assert len(client.get("/api/compare/pictures").content) == 17 * n
    assert len(client.get("/api/compare").json()) == len(known.classes)
    assert client.get("/api/classes/9/compare").status_code == 404
    replace(other, ids=("strange", *known.ids[1:])).save(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"1 only in .*run: picture-00; 1 only in .*other.parquet: strange"):
        open_gallery(gallery_run, compare=tmp_path / "other.parquet")
