from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from manyhot.data.manifest import Box, Manifest, Row
from manyhot.detections import Detections
from manyhot.errors import UserError

ROWS = [("b", "cat", 0.25, (1, 2, 30.5, 40)), ("a", "dog", 0.75, (0, 0, 5, 5)), ("b", "cat", 0.25, (1, 2, 3, 4))]


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    table = Detections.from_rows(ROWS, ["cat", "dog", "bird"], {"heatmap": "cam"})
    path = tmp_path / "detections.parquet"
    table.save(path)
    again = Detections.load(path)
    assert (again.ids, again.names, again.classes, again.source) == (
        ("b", "a", "b"), ("cat", "dog", "cat"), ("cat", "dog", "bird"), {"heatmap": "cam"},
    )  # fmt: skip
    np.testing.assert_array_equal(again.scores, np.array([0.25, 0.75, 0.25], np.float32))
    np.testing.assert_array_equal(again.boxes, table.boxes)
    assert pl.read_parquet(path).columns == ["id", "class", "score", "x0", "y0", "x1", "y1"]


def test_a_table_without_boxes_is_one(tmp_path: Path) -> None:
    Detections.from_rows([], ["cat"]).save(tmp_path / "none.parquet")
    again = Detections.load(tmp_path / "none.parquet")
    assert len(again) == 0
    assert again.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a", "cow", 0.5, (0, 0, 5, 5)), "row 1: class 'cow'"),
        (("a", "cat", float("nan"), (0, 0, 5, 5)), "row 1: a score or corner"),
        (("a", "cat", 0.5, (0, 0, float("inf"), 5)), "row 1: a score or corner"),
        (("a", "cat", 0.5, (5, 0, 5, 5)), "row 1: x1 must be greater"),
    ],
)
def test_faulty_rows_are_named(tmp_path: Path, row, said: str) -> None:
    table = Detections.from_rows([ROWS[0], row], ["cat", "cow"])
    path = tmp_path / "detections.parquet"
    table.save(path)
    stored = pl.read_parquet_metadata(path)["manyhot.detections"].replace(', "cow"', "")
    pl.read_parquet(path).write_parquet(path, metadata={"manyhot.detections": stored})
    with pytest.raises(UserError, match=said):
        Detections.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Detections.load(tmp_path / "none.parquet")
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not a table of detections"):
        Detections.load(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(UserError, match="not a table of detections"):
        Detections.load(tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"as \.parquet"):
        Detections.from_rows(ROWS, ["cat", "dog"]).save(tmp_path / "table.csv")


def test_the_objects_of_a_manifest(tmp_path: Path) -> None:
    rows = [
        Row("p", "p.jpg", "val", [1, 0], 50, 60, [Box("cat", 0, 1, 10, 20), Box("cat", 3, 3, 9, 9, difficult=True)]),
        Row("q", "q.jpg", "val", [0, 0]),
        Row("r", "r.jpg", "val", [0, 1], 50, 60, [Box("dog", 5, 6, 7, 8)]),
    ]
    objects = Manifest.from_rows(tmp_path, ["cat", "dog"], rows, label_rule="test").objects()
    assert objects.ids == ("p", "p", "r")
    assert objects.names == ("cat", "cat", "dog")
    assert objects.difficult.tolist() == [False, True, False]
    places = objects.places()
    assert places.keys() == {("p", "cat"), ("r", "dog")}
    np.testing.assert_array_equal(places["p", "cat"], [[0, 1, 10, 20], [3, 3, 9, 9]])
    assert len(Manifest.from_rows(tmp_path, ["cat"], [rows[1]][:0], label_rule="test").objects()) == 0
