"""Boxes drawn anew: by the colours of the picture, and by proposals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manyhot.localization.boxes import HeatBox
from manyhot.localization.grabcut import GrabCut
from manyhot.localization.proposals import Snapping
from manyhot.metrics.overlap import iou


def blob(height: int, width: int, y: float, x: float, spread: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2)).astype(np.float32)


def test_grabcut_finds_the_edge_of_what_the_heat_only_hints_at(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    assert cv2.__version__
    rng = np.random.default_rng(0)
    pixels = rng.normal((90, 140, 80), 12, (150, 200, 3))
    pixels[40:110, 60:150] = rng.normal((200, 60, 50), 12, (70, 90, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    heat = blob(150, 200, 70, 100, 12)
    loose = HeatBox((50, 35, 160, 118), 0.4)
    cutter = GrabCut([tmp_path / "a.png"])
    (found,) = cutter.refine(0, heat, [loose])
    true = np.array([[60, 40, 150, 110]])
    assert iou(np.array([found.corners]), true)[0, 0] > 0.95 > iou(np.array([loose.corners]), true)[0, 0]
    assert found.heat == loose.heat
    assert cutter.refine(0, heat, [loose]) == [found]  # the same every time
    everything = HeatBox((0, 0, 200, 150), 0.1)
    assert GrabCut([tmp_path / "a.png"], room=0).refine(0, heat, [everything]) == [everything]


corners = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20)).map(
    lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3])
)


@given(st.lists(corners, min_size=1, max_size=4), st.lists(corners, min_size=1, max_size=6), st.floats(0, 1))
def test_a_box_goes_to_the_proposal_it_overlaps_most(boxes, proposals, least):
    heat = np.zeros((60, 60), np.float32)
    own = np.array(proposals, np.float64)
    found = [HeatBox(box, 0.5) for box in boxes]
    snapped = Snapping({3: own}, least).refine(3, heat, found)
    expected: list[tuple[int, ...]] = []
    for box in boxes:
        overlaps = [float(iou(np.array([box], float), np.array([one], float))[0, 0]) for one in proposals]
        best = max(range(len(proposals)), key=lambda i: overlaps[i])
        corner = proposals[best] if overlaps[best] >= least else box
        if corner not in expected:
            expected.append(corner)
    assert [box.corners for box in snapped] == expected
    assert Snapping({3: own}, least).refine(2, heat, found) == found
