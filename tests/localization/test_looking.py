"""From files to points and boxes, by a network that sees colours and whose map lies where its geometry says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from manyhot import recipe
from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.preprocessing import Preprocessing
from manyhot.localization.boxes import Largest
from manyhot.localization.finding import Finder
from manyhot.localization.heatmaps import heat_maps
from manyhot.localization.looking import Look
from manyhot.models.backbones import Backbone, Features
from manyhot.models.classifier import Classifier
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.head import Head
from manyhot.models.pooling import poolings
from manyhot.models.receptive import compose

CLASSES = ("red", "green", "blue")
SIZES = [(160, 120), (100, 150), (128, 128), (200, 90)]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twelve pictures of several shapes, each with one or two squares of pure colour on grey."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(5)
    rows = []
    for i in range(12):
        width, height = SIZES[i % 4]
        pixels = np.full((height, width, 3), 110, np.uint8)
        boxes = []
        for c in {i % 3, (i // 3) % 3}:
            side = int(rng.integers(38, 56))
            left = (0 if len(boxes) == 0 else width // 2) + int(rng.integers(0, width // 2 - min(side, width // 2) + 1))
            left, top = min(left, width - side), int(rng.integers(0, height - side + 1))
            if boxes and left < boxes[0].x1:
                continue
            pixels[top : top + side, left : left + side] = 40
            pixels[top : top + side, left : left + side, c] = 240
            boxes.append(Box(CLASSES[c], left, top, left + side, top + side))
        Image.fromarray(pixels).save(folder / f"{i}.png")
        labels = [int(name in {box.name for box in boxes}) for name in CLASSES]
        rows.append(Row(f"p{i}", f"{i}.png", "val", labels, width, height, boxes))
    return Manifest.from_rows(folder, CLASSES, rows, label_rule="drawn")


def forward(body, images):
    return body(images)


def colour_network(way: str) -> Classifier:
    """Channel c of the map is how much more of colour c than of the others a cell's pixels show."""
    body = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AvgPool2d(5, stride=4, padding=0), nn.AvgPool2d(2, stride=2)
    )
    body[0].weight.data = (1.5 * torch.eye(3) - 0.5)[..., None, None]
    backbone = Backbone(
        body, Features(forward, 3, compose(body)), name="colours", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    head = Head(3, 3, crop_poolings.build({"name": way}))
    head.linear.weight.data = 3 * torch.eye(3)
    nn.init.constant_(head.linear.bias, -2)
    return Classifier(backbone, poolings.build({"name": "max"}), head).eval()


def sigmoid(logits):
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def look(heatmap="cam", flip=False, way="max", **settings) -> Look:
    model = colour_network(way)
    rules = Preprocessing.from_recipe(recipe.Input.model_validate(settings), (0.5,) * 3, (0.25,) * 3)
    return Look(
        model, model.backbone.geometry, rules, heat_maps.build({"name": heatmap}), sigmoid, flip=flip, batch_size=5
    )


SQUASH = {"size": 128, "fit": "squash"}
SCALES = {"size": 128, "crops": {"name": "scales", "sizes": [96, 128], "mirrored": True}}


@pytest.mark.parametrize(
    ("settings", "flip", "least"),
    [
        (SQUASH, False, 0.8), (SQUASH, True, 0.8), (SCALES, False, 0.8), ({**SCALES, "fit": "squash"}, True, 0.8),
        ({"size": 96, "resize": 128, "crops": "five"}, False, 0.6),
        ({"size": 96, "resize": 128, "crops": "ten"}, True, 0.6),
        ({"size": 96, "crops": {"name": "dense", "sizes": [128]}}, False, 0.8),
    ],
)  # fmt: skip
def test_points_and_boxes_lie_on_the_squares_in_any_view(squares: Manifest, settings, flip: bool, least: float) -> None:
    looking = look(flip=flip, **settings)
    finder = Finder(squares, Largest(threshold=0.5), min_score=0.3)
    for sight in looking.at(squares.paths, finder.wanted):
        assert sight.heat.shape == (len(sight.classes), sight.size[1], sight.size[0])
        finder.take(sight)
    detections = finder.detections()
    metrics = finder.measures(detections)
    assert metrics["n_images"] == 12
    assert metrics["n_pairs"] == int(squares.labels.sum()) > 12
    assert metrics["pointing"]["accuracy"] == 1
    assert metrics["corloc"] >= least
    assert metrics["corloc"] > metrics["baselines"]["centre_box"]["corloc"]
    assert metrics["max_box_acc"]["0.3"] >= metrics["max_box_acc"]["0.5"] >= metrics["corloc"]
    if least == 0.8:
        assert metrics["detection"]["map_50"] > 0.75


def test_pictures_are_seen_the_same_alone_and_in_batches(squares: Manifest) -> None:
    looking = look(**SQUASH)
    together = {sight.row: sight for sight in looking.at(squares.paths, lambda row, scores: [0, 2])}
    assert sorted(together) == list(range(12))
    for row in (0, 5):
        (alone,) = looking.at([squares.paths[row]], lambda row, scores: [2, 0])
        np.testing.assert_allclose(alone.heat[::-1], together[row].heat, atol=1e-5)
        np.testing.assert_allclose(alone.scores, together[row].scores, atol=1e-6)


def test_flipping_averages_the_maps_of_both_views(squares: Manifest) -> None:
    plain = next(iter(look(**SQUASH).at(squares.paths[:1], lambda row, scores: [0])))
    flipped = next(iter(look(flip=True, **SQUASH).at(squares.paths[:1], lambda row, scores: [0])))
    mirrored = squares.root / "mirrored.bmp"
    Image.open(squares.paths[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    other = next(iter(look(**SQUASH).at([mirrored], lambda row, scores: [0])))
    np.testing.assert_allclose(flipped.heat, (plain.heat + other.heat[..., ::-1]) / 2, atol=1e-4)


def test_damaged_pictures_are_named_and_leave_the_measures(squares: Manifest, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(squares.paths[1].read_bytes()[:60])
    looking = look(**SQUASH)
    finder = Finder(squares, Largest(), min_score=0.3)
    paths = squares.paths
    paths[1] = broken
    for sight in looking.at(paths, finder.wanted):
        finder.take(sight)
    assert [row for row, _ in looking.damaged] == [1]
    metrics = finder.measures(finder.detections())
    assert metrics["n_images"] == 11
    assert metrics["n_pairs"] == int(np.delete(squares.labels, 1, axis=0).sum())
    assert sum(one["n_objects"] for one in metrics["classes"]) == metrics["n_pairs"]
    assert "p1" not in set(finder.places_table()["id"])


def test_without_true_boxes_there_are_detections_but_no_measures(squares: Manifest) -> None:
    bare = [
        Row(id_, path.name, "val", labels)
        for id_, path, labels in zip(squares.ids, squares.paths, squares.labels.tolist(), strict=True)
    ]
    manifest = Manifest.from_rows(squares.root, CLASSES, bare, label_rule="drawn")
    finder = Finder(manifest, Largest(), min_score=0.3)
    for sight in look(**SQUASH).at(manifest.paths, finder.wanted):
        finder.take(sight)
    detections = finder.detections()
    metrics = finder.measures(detections)
    assert len(detections) > 12
    assert metrics["n_pairs"] == 0
    assert metrics["n_pairs_without_box"] == int(squares.labels.sum())
    assert metrics["pointing"]["accuracy"] is metrics["corloc"] is metrics["detection"]["map_50"] is None
    assert set(metrics["max_box_acc"].values()) == {None}
