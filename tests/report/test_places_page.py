"""The page of places: pictures of the right ends, boxes where they belong, nothing from outside."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Box, Manifest, Row
from manyhot.localization.extremes import Extremes, Placed
from manyhot.localization.overlays import FOUND, TRUE
from manyhot.report.places import write_places_report

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(tmp_path: Path) -> str:
    rows = []
    for i in range(4):
        Image.new("RGB", (200, 100), (90, 90, 90)).save(tmp_path / f"{i}.png")
        rows.append(Row(f"{i}{HOSTILE}", f"{i}.png", "val", [1, 0], 200, 100, [Box("cat", 20, 10, 80, 60)]))
    (tmp_path / "3.png").write_bytes(b"no picture")
    manifest = Manifest.from_rows(tmp_path, ("cat", HOSTILE), rows, label_rule="made up")
    extremes = Extremes(2)
    heat = np.zeros((50, 100), np.uint8)
    heat[:, 70:] = 255
    true = np.array([[20.0, 10, 80, 60]])
    for i, overlap in enumerate((0.9, 0.7, 0.4, 0.0)):
        box = None if i == 3 else (30, 20, 90, 70)
        extremes.take(0, Placed(i, (200, 100), 0.5, overlap, i < 2, box, true, heat))
    one = {"n_positive": 4, "n_objects": 4, "pointing": 0.5, "pointing_ap": None, "corloc": 0.5, "ap_50": 0.25}
    classes = [{"name": name, "centre_point": 0.1, **one} for name in manifest.classes]
    metrics = {
        "n_images": 4,
        "n_pairs": 4,
        "pointing": {"accuracy": 0.5, "tolerance_px": 18.0},
        "corloc": 0.5,
        "detection": {"map_50": None, "n_boxes": 3},
        "max_box_acc": {"0.5": 0.6},
        "classes": classes,
        "baselines": {
            "centre_point": {"pointing": 0.25},
            "centre_box": {"corloc": 0.125},
            "whole_image": {"corloc": None},
        },
        "method": {"heatmap": "cam", "boxes": "mass", "settings": {"boxes": {"threshold": 0.03}}, "grabcut": True,
                   "proposals": HOSTILE},
        "crops": "whole picture",
        "chosen_here": True,
    }  # fmt: skip
    path = write_places_report(tmp_path / "out", manifest, metrics, extremes, title=f"run {HOSTILE}")
    again = write_places_report(tmp_path / "again", manifest, metrics, extremes, title=f"run {HOSTILE}")
    assert path.read_bytes() == again.read_bytes()
    return path.read_text(encoding="utf-8")


def test_best_and_worst_are_shown_each_once(page: str) -> None:
    assert [float(value) for value in re.findall(r'class="score">([\d.]+)', page)] == [0.9, 0.7, 0.0, 0.4]
    assert page.count("</i>hit") == 2
    assert page.count("</i>missed") == 2
    assert page.count("<b>damaged</b>") == 1
    assert page.count("<article") == 1  # a class without a placed picture has none


def test_the_boxes_lie_where_they_belong(page: str) -> None:
    uri = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))).astype(int)
    assert shown.shape == (120, 240, 3)
    near = lambda colour: np.abs(shown - np.array(colour)).sum(axis=2) < 150  # noqa: E731
    scale = 240 / 200
    ys, xs = np.nonzero(near(TRUE))
    assert abs(xs.min() - 20 * scale) <= 2
    assert abs(ys.min() - 10 * scale) <= 2
    ys, xs = np.nonzero(near(FOUND))
    assert abs(xs.max() - 90 * scale) <= 3
    assert abs(ys.max() - 70 * scale) <= 3
    left, right = shown[100, 20], shown[100, 230]
    assert np.abs(left - 90).max() < 12  # cold: the picture itself
    assert right.sum() > 450  # hot


def test_figures_stand_beside_their_baselines_and_nothing_comes_from_outside(page: str) -> None:
    assert "the picture&#39;s centre: 0.250" in page
    assert "centre box: 0.125; whole picture: –" in page
    assert "redrawn by GrabCut" in page
    assert "Optimistic" in page
    assert HOSTILE not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
