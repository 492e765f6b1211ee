from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.metrics.localization import (
    best_iou,
    best_proposals,
    centre_boxes,
    centre_points,
    corloc,
    max_box_acc,
    pointing_ap,
    points_inside,
)
from manyhot.metrics.overlap import iou
from manyhot.metrics.ranking import average_precision


def test_the_last_pixel_of_a_box_is_inside_and_the_tolerance_is_inclusive():
    boxes = [np.array([[10, 20, 30, 40.0]])]
    for x, y, tolerance, inside in [
        (10, 20, 0, True), (29, 39, 0, True), (30, 39, 0, False), (9, 30, 0, False),
        (47, 57, 18, True), (48, 57, 18, False), (-8, 2, 18, True), (-9, 2, 18, False), (20, 1, 18, False),
    ]:  # fmt: skip
        assert points_inside(np.array([[x, y]]), boxes, tolerance).tolist() == [inside], (x, y)


def test_any_of_the_boxes_will_do():
    boxes = [np.array([[0, 0, 5, 5.0], [50, 50, 60, 60]])] * 3
    assert points_inside(np.array([[2, 2], [55, 55], [30, 30]]), boxes, 0).tolist() == [True, True, False]


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 40), st.integers(0, 20))
def test_tolerance_grows_the_box(x, y, tolerance, more):
    boxes = [np.array([[30, 40, 50, 45.0]])]
    wide = [np.array([[30 - tolerance, 40 - tolerance, 50 + tolerance, 45 + tolerance.__float__()]])]
    near = points_inside(np.array([[x, y]]), boxes, tolerance)
    assert near == points_inside(np.array([[x, y]]), wide, 0)
    assert near <= points_inside(np.array([[x, y]]), boxes, tolerance + more)


def pointing_loop(scores, labels, hits):
    """Precision and recall from the top of the ranking down; a missed positive is a false positive."""
    n_positive = sum(1 for label in labels if label == 1)
    if not n_positive:
        return math.nan
    known = [(s, label == 1 and hit) for s, label, hit in zip(scores, labels, hits, strict=True) if label != -1]
    total = 0.0
    before = 0
    for threshold in sorted({s for s, _ in known}, reverse=True):
        retrieved = [true for s, true in known if s >= threshold]
        total += (sum(retrieved) - before) / n_positive * sum(retrieved) / len(retrieved)
        before = sum(retrieved)
    return total


@st.composite
def rankings(draw):
    shape = draw(st.integers(0, 25)), draw(st.integers(1, 3))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 6))).astype(np.float32) / np.float32(7)
    labels = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))
    return scores, labels, draw(hnp.arrays(bool, shape))


@settings(deadline=None)
@given(rankings())
def test_pointing_ap_equals_the_loop(case):
    scores, labels, hits = case
    ours = pointing_ap(scores, labels, hits)
    for c in range(scores.shape[1]):
        wanted = pointing_loop(scores[:, c].tolist(), labels[:, c].tolist(), hits[:, c].tolist())
        assert ours[c] == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@settings(deadline=None)
@given(rankings())
def test_pointing_ap_lies_under_the_share_of_hits_and_under_plain_ap(case):
    scores, labels, hits = case
    plain = average_precision(scores, labels)
    ours = pointing_ap(scores, labels, hits)
    np.testing.assert_array_equal(pointing_ap(scores, labels, np.ones_like(hits)), plain)
    known = ~np.isnan(plain)
    share = ((labels == 1) & hits).sum(axis=0)[known] / (labels == 1).sum(axis=0)[known]
    assert (ours[known] <= np.minimum(plain[known], share) + 1e-12).all()
    assert np.isnan(ours[~known]).all()


def test_corloc_takes_the_best_instance_and_counts_the_limit_in():
    objects = [
        np.array([[0, 0, 10, 10], [50, 50, 60, 60.0]]),
        np.array([[0, 0, 10, 10.0]]),
        np.array([[0, 0, 10, 10.0]]),
    ]
    boxes = np.array([[50, 50, 60, 60], [0, 0, 10, 5], [np.nan] * 4])
    overlaps = best_iou(boxes, objects)
    assert overlaps.tolist() == [1, 0.5, 0]
    assert corloc(overlaps) == pytest.approx(2 / 3)
    assert corloc(overlaps, 0.6) == pytest.approx(1 / 3)
    assert math.isnan(corloc(best_iou(np.zeros((0, 4)), [])))


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=st.floats(0, 1)))
def test_max_box_acc_is_the_best_threshold(overlaps):
    found = max_box_acc(overlaps)
    for least, value in found.items():
        assert value == max(corloc(column, least) for column in overlaps.T)
    assert found[0.3] >= found[0.5] >= found[0.7]


def test_max_box_acc_of_nothing_is_undefined():
    assert all(math.isnan(value) for value in max_box_acc(np.zeros((0, 3))).values())


@settings(deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.floats(0.01, 1))
def test_the_centre_box_has_its_share_and_lies_in_the_middle(width, height, share):
    box = centre_boxes(np.array([[width, height]], np.float64), share)
    whole = np.array([[0, 0, width, height]], np.float64)
    assert iou(box, whole)[0, 0] == pytest.approx(share)
    assert box[0, 0] + box[0, 2] == pytest.approx(width)
    middle = centre_points(np.array([[width, height]]))[0]
    np.testing.assert_allclose(middle, [(box[0, 0] + box[0, 2]) / 2 - 0.5, (box[0, 1] + box[0, 3]) / 2 - 0.5])


def test_the_best_proposal_is_the_best_of_all():
    rng = np.random.default_rng(0)

    def some_boxes(count):
        return np.sort(rng.integers(0, 50, (count, 2, 2)), axis=1).reshape(count, 4) + np.array([0, 0, 1, 1])

    objects, proposals = [some_boxes(k) for k in (1, 3, 2)], [some_boxes(k) for k in (5, 9, 0)]
    found = best_proposals(proposals, objects)
    for some, own, value in zip(proposals, objects, found, strict=True):
        assert value == max([iou(a[None], b[None])[0, 0] for a in some for b in own], default=0.0)
    assert (best_proposals(objects, objects) == 1).all()
