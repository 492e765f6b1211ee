"""The summary of places, on a table small enough to count by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from manyhot.detections import Detections, Objects
from manyhot.metrics.places import Places, measure_places

SQUARE = (40, 40, 60, 60)


def objects(*rows):
    return Objects(
        tuple(row[0] for row in rows), tuple(row[1] for row in rows), np.array([row[2] for row in rows], float),
        np.zeros(len(rows), bool),
    )  # fmt: skip


@pytest.fixture
def case():
    """Pictures a (cat, seen), b (cat, missed), c (dog without a box), d (nothing); all 100 × 100."""
    places = Places(
        rows=np.array([0, 1]),
        columns=np.array([0, 0]),
        sizes=np.full((2, 2), 100.0),
        points=np.array([[50, 50], [5, 5.0]]),
        boxes=np.array([[40, 40, 60, 58], [np.nan] * 4]),
        curve=np.array([[0.9, 0.2], [0.1, 0.6]]),
        objects=[np.array([SQUARE], float), np.array([[70, 70, 90, 90.0]])],
    )
    detections = Detections.from_rows([("a", "cat", 0.9, (40, 40, 60, 58)), ("d", "cat", 0.95, SQUARE)], ["cat", "dog"])
    truth = objects(("a", "cat", SQUARE), ("b", "cat", (70, 70, 90, 90)))
    scores = np.array([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7], [0.95, 0.2]], np.float32)
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.int8)
    return places, detections, truth, scores, labels


def test_every_number_by_hand(case):
    found = measure_places(*case)
    cat, dog = found["classes"]
    assert (found["n_images"], found["n_pairs"], found["n_pairs_without_box"]) == (4, 2, 1)
    # Ranked d (wrong), a (right), b (right picture, wrong place): AP = 1/2 · 1/2.
    assert found["pointing"] == {"accuracy": 0.5, "ap": 0.25, "tolerance_px": 18.0}
    assert (found["corloc"], found["mean_corloc"]) == (0.5, 0.5)
    assert found["max_box_acc"] == {"0.3": 0.5, "0.5": 0.5, "0.7": 0.5}
    assert found["detection"] == {
        "map_50": 0.25,
        "map_50_voc07": pytest.approx(0.5 * 6 / 11),
        "n_classes_in_map": 1,
        "n_boxes": 2,
    }
    assert cat == {
        "name": "cat", "n_positive": 2, "n_objects": 2, "pointing": 0.5, "pointing_ap": 0.25, "corloc": 0.5,
        "ap_50": 0.25, "ap_50_voc07": pytest.approx(0.5 * 6 / 11), "centre_point": 0.5,
    }  # fmt: skip
    assert dog == {"name": "dog", "n_positive": 0, "n_objects": 0, **dict.fromkeys(list(cat)[3:])}
    base = found["baselines"]
    assert base["centre_box"] == base["whole_image"] == {"corloc": 0.0}  # the squares are a twenty-fifth of the picture
    assert base["centre_point"] == {"pointing": 0.5, "ap": 0.25}
    assert base["best_proposal"] == {"corloc": None}
    json.dumps(found, allow_nan=False)


def test_tolerance_and_proposals(case):
    wide = measure_places(*case, tolerance=65, proposals={0: np.array([SQUARE, (0, 0, 9, 9)], float)})
    assert wide["pointing"]["accuracy"] == 1
    assert wide["baselines"]["best_proposal"] == {"corloc": 0.5}  # the second picture has none
    everywhere = {row: np.array([SQUARE, (70, 70, 90, 90)], float) for row in range(4)}
    assert measure_places(*case, proposals=everywhere)["baselines"]["best_proposal"] == {"corloc": 1.0}
