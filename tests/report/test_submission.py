"""Submission files, read back as VOC's kit and COCO's tools read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manyhot.data.manifest import Manifest, Row
from manyhot.detections import Detections
from manyhot.errors import UserError
from manyhot.report.submission import write_coco, write_voc

ROWS = [("000004", "cat", 0.1, (0, 0, 10, 20)), ("000007", "cat", 1 / 3, (2.25, 3.5, 7.125, 9))]


def found(rows: list[tuple[str, str, float, tuple[float, ...]]] = ROWS) -> Detections:  # type: ignore[assignment]
    return Detections.from_rows(rows, ("cat", "dog"))


def test_voc_files(tmp_path: Path) -> None:
    files = write_voc(found(), tmp_path, "test")
    assert [file.name for file in files] == ["comp4_det_test_cat.txt", "comp4_det_test_dog.txt"]
    lines = [line.split() for line in files[0].read_text().splitlines()]
    assert [line[0] for line in lines] == ["000004", "000007"]
    assert [float(one) for one in lines[0][2:]] == [1, 1, 10, 20]  # first pixel 1, last one included
    assert [float(one) for one in lines[1][2:]] == [3.25, 4.5, 7.125, 9]
    assert [np.float32(line[1]) for line in lines] == [np.float32(0.1), np.float32(1 / 3)]
    assert files[1].read_text() == ""


@pytest.mark.parametrize(("id_", "name", "message"), [("a b", "cat", "holds a blank"), ("a", "x/y", "no file name")])
def test_what_voc_files_cannot_hold(tmp_path: Path, id_: str, name: str, message: str) -> None:
    detections = Detections.from_rows([(id_, name, 0.5, (0, 0, 1, 1))], (name,))
    with pytest.raises(UserError, match=message):
        write_voc(detections, tmp_path, "test")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("ids", "numbers"), [(("000004", "000007"), [1, 2]), (("4", "7"), [4, 7])])
def test_coco_results(tmp_path: Path, ids: tuple[str, str], numbers: list[int]) -> None:
    rows = [Row(id_, f"{id_}.jpg", "test", [1, 0]) for id_ in ids]
    manifest = Manifest.from_rows(tmp_path, ("cat", "dog"), rows, label_rule="made up")
    given = [(id_, *row[1:]) for id_, row in zip(ids, ROWS, strict=True)]
    write_coco(found(given), manifest, tmp_path / "coco.json")
    results = json.loads((tmp_path / "coco.json").read_text())
    assert [one["image_id"] for one in results] == numbers
    assert [one["bbox"] for one in results] == [[0, 0, 10, 20], [2.25, 3.5, 4.875, 5.5]]
    assert {one["category_id"] for one in results} == {1}
    assert [one["file_name"] for one in results] == [f"{id_}.jpg" for id_ in ids]
