"""Published selective-search boxes of two genuine photographs, and our search beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manyhot.data.images import image_size, open_image
from manyhot.data.manifest import Manifest, Row
from manyhot.data.proposal_files import read_mat
from manyhot.data.selective_search import SelectiveSearch, search
from manyhot.metrics.overlap import iou


@pytest.fixture(scope="module")
def pictures(realdata: Path) -> Manifest:
    root = realdata / "VOCdevkit" / "VOC2007"
    rows = []
    for name in ("000004", "001551"):
        image = f"JPEGImages/{name}.jpg"
        rows.append(Row(name, image, "test", [1], *image_size(root / image)))
    return Manifest.from_rows(root, ("thing",), rows, label_rule="none")


def test_the_mat_files_say_what_the_csv_files_say(realdata: Path, pictures: Manifest) -> None:
    found = read_mat(realdata / "proposals", "xyxy0", pictures, min_side=1)
    for id_, own in zip(found.ids, found.boxes, strict=True):
        table = np.loadtxt(realdata / "proposals" / f"{id_}_boxes.csv", delimiter=",", skiprows=1)
        np.testing.assert_array_equal(own, np.unique(table + np.array([0, 0, 1, 1]), axis=0))


def test_our_search_overlaps_the_published_boxes(realdata: Path, pictures: Manifest) -> None:
    published = read_mat(realdata / "proposals", "xyxy0", pictures)
    for path, theirs in zip(pictures.paths, published.boxes, strict=True):
        ours = search(open_image(path), SelectiveSearch())
        overlap = iou(theirs, ours)
        assert overlap.max(axis=1).mean() >= 0.6
        assert overlap.max(axis=0).mean() >= 0.6
