"""Boxes against boxes: by slow loops as the VOC kit describes them, and by torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from manyhot.detections import Detections, Objects
from manyhot.metrics.detection import detection_ap, judge
from manyhot.metrics.overlap import area, iou, suppress

CLASSES = ("cat", "dog")


def kit_iou(a, b):
    """Of two VOC boxes (xmin, ymin, xmax, ymax), 1-based and inclusive: every side has one pixel more."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    pixels = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(pixels) - width * height)


def kit(detections, objects, name, least):
    """Both averages of one class, one box after the other, in the kit's own coordinates."""
    voc = [
        (one[0], one[1] + 1, one[2] + 1, one[3], one[4])
        for one in ((i, *map(float, b)) for i, b in enumerate(objects.boxes))
    ]
    taken = set()
    n_objects = sum(1 for own, hard in zip(objects.names, objects.difficult, strict=True) if own == name and not hard)
    if not n_objects:
        return math.nan, math.nan
    rows = [row for row in range(len(detections)) if detections.names[row] == name]
    true = false = 0
    recalls, precisions = [], []
    for row in sorted(rows, key=lambda row: -detections.scores[row]):  # Python's sort is stable
        x0, y0, x1, y1 = map(float, detections.boxes[row])
        best, at = -1.0, None
        for i, xmin, ymin, xmax, ymax in voc:
            if objects.ids[i] == detections.ids[row] and objects.names[i] == name:
                overlap = kit_iou((x0 + 1, y0 + 1, x1, y1), (xmin, ymin, xmax, ymax))
                if overlap > best:
                    best, at = overlap, i
        if at is not None and best >= least:
            if objects.difficult[at]:
                continue
            if at in taken:
                false += 1
            else:
                taken.add(at)
                true += 1
        else:
            false += 1
        recalls.append(true)
        precisions.append(true / (true + false))
    eleven = 0.0
    for tenth in range(11):
        reached = [p for r, p in zip(recalls, precisions, strict=True) if 10 * r >= tenth * n_objects]
        eleven += max(reached, default=0.0) / 11
    total = before = 0.0
    for k, recall in enumerate(recalls):
        total += (recall - before) / n_objects * max(precisions[k:])
        before = recall
    return total, eleven


@st.composite
def corners(draw):
    x, y = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    return x, y, x + draw(st.integers(1, 6)), y + draw(st.integers(1, 6))


@st.composite
def scenes(draw):
    """Few places and few scores, so that ties, duplicates and equal overlaps are common; some pictures are empty."""
    pairs = st.tuples(st.sampled_from("abc"), st.sampled_from(CLASSES))
    truth = draw(st.lists(st.tuples(pairs, corners(), st.booleans()), max_size=8))
    objects = Objects(
        tuple(pair[0] for pair, _, _ in truth),
        tuple(pair[1] for pair, _, _ in truth),
        np.array([box for _, box, _ in truth], np.float64).reshape(-1, 4),
        np.array([hard for _, _, hard in truth], bool),
    )
    boxes = [corners(), *([st.sampled_from([box for _, box, _ in truth])] if truth else [])]
    found = draw(st.lists(st.tuples(pairs, st.one_of(boxes), st.integers(0, 3)), max_size=12))
    return Detections.from_rows(((*pair, score / 4, box) for pair, box, score in found), CLASSES), objects


@settings(deadline=None)
@given(scenes(), st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]))
def test_both_rules_equal_the_loops_of_the_kit(scene, least):
    detections, objects = scene
    result = detection_ap(detections, objects, least_iou=least)
    for c, name in enumerate(CLASSES):
        np.testing.assert_allclose((result.area[c], result.voc07[c]), kit(detections, objects, name, least), atol=1e-12)
        assert result.n_detections[c] == detections.names.count(name)


@settings(deadline=None)
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_rows_matters_among_equal_scores_only(scene, random):
    detections, objects = scene
    scores = np.array(random.sample(range(100), len(detections)), np.float32)
    order = random.sample(range(len(detections)), len(detections))
    distinct = Detections(detections.ids, detections.names, scores, detections.boxes, CLASSES)
    shuffled = Detections(
        tuple(detections.ids[i] for i in order), tuple(detections.names[i] for i in order), scores[order],
        detections.boxes[order], CLASSES,
    )  # fmt: skip
    np.testing.assert_array_equal(detection_ap(distinct, objects).area, detection_ap(shuffled, objects).area)


@settings(deadline=None)
@given(scenes())
def test_the_truth_itself_is_perfect_and_difficult_boxes_change_nothing(scene):
    _, objects = scene
    perfect = Detections.from_rows(
        ((i, n, 0.5, box) for i, n, box in zip(objects.ids, objects.names, objects.boxes, strict=True)), CLASSES
    )
    result = detection_ap(perfect, objects)
    distinct = len({(i, n, *box) for i, n, box in zip(objects.ids, objects.names, objects.boxes, strict=True)})
    if distinct == len(objects):  # the second of two objects in one place is never reached
        assert all(value == 1 for value in result.area[result.n_objects > 0])
    assert np.isnan(result.area[result.n_objects == 0]).all()
    easy = [i for i in range(len(objects)) if not objects.difficult[i]]
    assert result.n_objects.sum() == len(easy)


def test_a_difficult_object_swallows_any_number_of_boxes():
    objects = Objects(
        ("p", "p"), ("cat", "cat"), np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]]), np.array([True, False])
    )
    rows = [("p", "cat", 0.9, (0, 0, 10, 10)), ("p", "cat", 0.8, (0, 0, 10, 9)), ("p", "cat", 0.7, (20, 20, 30, 30))]
    assert detection_ap(Detections.from_rows(rows, ["cat"]), objects).area == 1.0
    again = Detections.from_rows([*rows, ("p", "cat", 0.75, (20, 20, 30, 30))], ["cat"])
    result = detection_ap(again, objects)
    assert (result.area, result.voc07, result.n_detections) == (1.0, 1.0, 4)  # the duplicate comes after full recall


def test_classes_and_pictures_without_anything():
    nothing = Objects((), (), np.zeros((0, 4)), np.zeros(0, bool))
    result = detection_ap(Detections.from_rows([("p", "cat", 0.9, (0, 0, 5, 5))], ["cat", "dog"]), nothing)
    assert np.isnan(result.area).all()
    assert result.n_detections.tolist() == [1, 0]
    assert detection_ap(Detections.from_rows([], []), nothing).area.shape == (0,)


boxes = st.lists(corners(), max_size=12).map(lambda rows: np.array(rows, np.float64).reshape(-1, 4))


@settings(deadline=None)
@given(boxes, boxes)
def test_iou_is_torchvisions_and_the_kits(a, b):
    ours = iou(a, b)
    np.testing.assert_allclose(ours, box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy(), atol=1e-12)
    for i, first in enumerate(a):
        for k, second in enumerate(b):
            shift = np.array([1, 1, 0, 0])
            assert ours[i, k] == pytest.approx(kit_iou(first + shift, second + shift), abs=1e-12)


def test_boxes_without_area_overlap_nothing():
    empty, some = np.array([[5, 5, 5, 9.0], [7, 7, 3, 3]]), np.array([[0, 0, 10, 10.0]])
    assert area(empty).tolist() == [0, 0]
    assert not iou(empty, some).any()
    assert not iou(empty, empty).any()


@settings(deadline=None)
@given(boxes, st.floats(0.05, 1), st.randoms(use_true_random=False))
def test_suppression_is_torchvisions(rows, limit, random):
    scores = np.array(random.sample(range(100), len(rows)), np.float64)
    theirs = nms(torch.from_numpy(rows), torch.from_numpy(scores), limit)
    assert suppress(rows, scores, limit).tolist() == theirs.tolist()


@settings(deadline=None)
@given(boxes, st.floats(0, 1))
def test_what_is_left_overlaps_little_and_what_is_gone_overlaps_something_better(rows, limit):
    scores = np.arange(len(rows)) // 2
    kept = suppress(rows, scores, limit).tolist()
    overlap = iou(rows, rows)
    for i in range(len(rows)):
        better = [k for k in kept if k != i and (scores[k] > scores[i] or (scores[k] == scores[i] and k < i))]
        assert (i in kept) == all(overlap[i, k] <= limit for k in better)


@given(scenes(), st.sampled_from([0.3, 0.5]))
def test_verdicts_and_curve_give_the_average_precision(scene, least):
    detections, objects = scene
    found = detection_ap(detections, objects, CLASSES, least_iou=least)
    for c, name in enumerate(CLASSES):
        judged = judge(detections, objects, name, least_iou=least)
        assert sorted(judged.rows.tolist()) == [row for row, one in enumerate(detections.names) if one == name]
        assert (np.diff(detections.scores[judged.rows]) <= 0).all()
        assert judged.n_objects == found.n_objects[c]
        if judged.curve is None:
            assert not judged.n_objects or not (judged.verdicts == 1).any()
            continue
        recall, precision = judged.curve
        assert len(recall) == (judged.verdicts == 1).sum()
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        area_under = float((np.diff(np.r_[0, recall]) * envelope).sum())
        assert area_under == pytest.approx(found.area[c])
