from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score
from sklearn.metrics import precision_recall_curve as sklearn_curve

from manyhot.errors import UserError
from manyhot.metrics import columns
from manyhot.metrics.ranking import (
    average_precision,
    average_precision_voc07,
    average_precision_voc10,
    mean_ap,
    precision_recall_curve,
    ranking_ap,
)


def textbook(scores, labels):
    """The three rules of one class as the VOC kit's loops have them, ties retrieved together."""
    known = [(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True) if y != -1]
    n_positive = sum(y for _, y in known)
    if n_positive == 0:
        return (np.nan,) * 3
    points = []
    for t in sorted({s for s, _ in known}, reverse=True):
        retrieved = [y for s, y in known if s >= t]
        points.append((sum(retrieved), sum(retrieved) / len(retrieved)))
    ap = before = 0.0
    for true, precision in points:
        ap += (true - before) / n_positive * precision
        before = true
    voc07 = sum(max(p for true, p in points if 10 * true >= j * n_positive) for j in range(11)) / 11
    recalls = [0.0, *(true / n_positive for true, _ in points), 1.0]
    envelope = [0.0, *(p for _, p in points), 0.0]
    for i in reversed(range(len(envelope) - 1)):
        envelope[i] = max(envelope[i], envelope[i + 1])
    voc10 = sum((recalls[i] - recalls[i - 1]) * envelope[i] for i in range(1, len(recalls)))
    return ap, voc07, voc10


@st.composite
def tables(draw, max_classes=5):
    shape = (draw(st.integers(0, 40)), draw(st.integers(0, max_classes)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(-6, 6))).astype(dtype) / dtype(7)
    labels = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))
    return scores, labels


def synthetic(n_images, n_classes, *, dtype=np.float32, rate=0.1, ignored=0.05, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n_images, n_classes)) < rate).astype(np.int8)
    scores = (1 / (1 + np.exp(-rng.normal(size=labels.shape) - labels))).astype(dtype)
    labels[rng.random(labels.shape) < ignored] = -1
    return scores, labels


def sklearn_ap(scores, labels):
    masks = enumerate((labels != -1).T)
    return [average_precision_score(labels[known, c], scores[known, c]) for c, known in masks]


@given(tables())
def test_the_three_rules_equal_the_textbook_loops(table):
    scores, labels = table
    result = ranking_ap(scores, labels)
    wanted = np.array([textbook(s, y) for s, y in zip(scores.T, labels.T, strict=True)]).reshape(-1, 3)
    np.testing.assert_allclose(result.ap, wanted[:, 0], atol=1e-12)
    np.testing.assert_allclose(result.voc07, wanted[:, 1], atol=1e-12)
    np.testing.assert_allclose(result.voc10, wanted[:, 2], atol=1e-12)
    np.testing.assert_array_equal(result.n_positive, (labels == 1).sum(axis=0))
    np.testing.assert_array_equal(result.n_ignored, (labels == -1).sum(axis=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [1, 3, 12])
def test_ap_equals_scikit_learn_with_and_without_ties(dtype, decimals):
    scores, labels = synthetic(3000, 30, dtype=dtype)
    scores = np.round(scores, decimals)
    np.testing.assert_allclose(average_precision(scores, labels), sklearn_ap(scores, labels), rtol=0, atol=1e-12)


def test_float64_scores_that_differ_below_float32_are_kept_apart():
    scores = np.array([[0.5 + 1e-12], [0.5], [0.5 - 1e-12]])
    assert len(np.unique(scores.astype(np.float32))) == 1
    labels = np.array([[0], [1], [0]], np.int8)
    assert average_precision(scores, labels)[0] == 0.5


def test_the_smallest_steps_of_float32_and_both_zeros():
    tiny = np.nextafter(np.float32(0), np.float32(1))
    scores = np.array([[tiny], [0.0], [-0.0], [-tiny]], np.float32)
    labels = np.array([[1], [0], [1], [0]], np.int8)
    assert average_precision(scores, labels)[0] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_no_bit(table, random):
    scores, labels = table
    order = list(range(len(scores)))
    random.shuffle(order)
    a, b = ranking_ap(scores, labels), ranking_ap(scores[order], labels[order])
    for name in ("ap", "voc07", "voc10", "n_positive", "n_ignored"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@given(tables(), st.sampled_from([lambda x: 3 * x + 1, np.exp, np.arctan, lambda x: x**3]))
def test_a_monotone_transform_changes_nothing(table, transform):
    scores, labels = table
    moved = transform(scores.astype(np.float64))
    np.testing.assert_array_equal(ranking_ap(scores, labels).ap, ranking_ap(moved, labels).ap)


@given(tables())
def test_ignored_images_might_as_well_not_be_there(table):
    scores, labels = table
    for c in range(labels.shape[1]):
        known = labels[:, c] != -1
        a = ranking_ap(scores[:, [c]], labels[:, [c]])
        b = ranking_ap(scores[known][:, [c]], labels[known][:, [c]])
        np.testing.assert_array_equal(a.ap, b.ap)
        np.testing.assert_array_equal(a.voc07, b.voc07)


@given(tables())
def test_the_envelope_lies_above_and_everything_within_0_and_1(table):
    result = ranking_ap(*table)
    there = result.n_positive > 0
    assert (result.voc10[there] >= result.ap[there] - 1e-15).all()
    for rule in (result.ap, result.voc07, result.voc10):
        assert ((rule[there] > 0) & (rule[there] <= 1)).all()
        assert np.isnan(rule[~there]).all()


def test_many_threads_and_any_slicing_give_the_same_bits(monkeypatch):
    scores, labels = synthetic(9000, 37)
    whole = ranking_ap(scores, labels)
    monkeypatch.setattr(columns, "_THREADS", 1)
    np.testing.assert_array_equal(whole.ap, ranking_ap(scores, labels).ap)
    monkeypatch.setattr(columns, "_BLOCK_ELEMENTS", 1)
    np.testing.assert_array_equal(whole.voc10, ranking_ap(scores, labels).voc10)
    monkeypatch.undo()
    pieces = [ranking_ap(scores[:, a : a + 5], labels[:, a : a + 5]).ap for a in range(0, 37, 5)]
    np.testing.assert_array_equal(whole.ap, np.concatenate(pieces))
    fortran = ranking_ap(np.asfortranarray(scores), np.asfortranarray(labels))
    np.testing.assert_array_equal(whole.voc07, fortran.voc07)
    np.testing.assert_array_equal(whole.ap, ranking_ap(scores[::-1], labels[::-1]).ap)


def test_inputs_are_left_as_they_were():
    scores, labels = synthetic(50, 3)
    scores.flags.writeable = labels.flags.writeable = False
    before = scores.copy()
    ranking_ap(scores, labels)
    np.testing.assert_array_equal(scores, before)


def test_each_rule_has_its_own_function():
    scores, labels = synthetic(200, 4)
    result = ranking_ap(scores, labels)
    np.testing.assert_array_equal(average_precision(scores, labels), result.ap)
    np.testing.assert_array_equal(average_precision_voc07(scores, labels), result.voc07)
    np.testing.assert_array_equal(average_precision_voc10(scores, labels), result.voc10)
    assert not np.allclose(result.ap, result.voc07)
    assert not np.allclose(result.ap, result.voc10)


def test_recall_of_exactly_three_tenths_reaches_the_fourth_point():
    # Three of ten positives come first, then a hundred negatives: four of the eleven points see precision 1.
    labels = np.array([1] * 3 + [0] * 100 + [1] * 7, np.int8)[:, None]
    scores = -np.arange(110.0)[:, None]
    assert average_precision_voc07(scores, labels)[0] == pytest.approx((4 * 1 + 7 * 10 / 110) / 11, abs=1e-15)


def test_perfect_and_constant_rankings():
    labels = np.array([[1], [1], [0], [0], [0]], np.int8)
    perfect = ranking_ap(labels.astype(np.float32), labels)
    assert (perfect.ap[0], perfect.voc07[0], perfect.voc10[0]) == (1.0, 1.0, 1.0)
    constant = ranking_ap(np.zeros((5, 1)), labels)
    assert (constant.ap[0], constant.voc07[0], constant.voc10[0]) == pytest.approx((0.4, 0.4, 0.4))


def test_degenerate_tables():
    empty = ranking_ap(np.empty((0, 3), np.float32), np.empty((0, 3), np.int8))
    assert np.isnan(empty.ap).all()
    assert empty.n_positive.tolist() == [0, 0, 0]
    assert ranking_ap(np.empty((4, 0), np.float32), np.empty((4, 0), np.int8)).ap.shape == (0,)
    one = ranking_ap(np.array([[0.2, 0.2, 0.2]], np.float32), np.array([[1, 0, -1]], np.int8))
    np.testing.assert_array_equal(one.ap, [1.0, np.nan, np.nan])
    assert one.n_ignored.tolist() == [0, 0, 1]
    assert one.ap.dtype == np.float64
    assert one.n_positive.dtype == np.int64


def test_mean_ap_says_how_many_classes_it_counts():
    assert mean_ap(np.array([0.5, np.nan, 1.0])) == (0.75, 2)
    value, counted = mean_ap(np.array([np.nan]))
    assert np.isnan(value)
    assert counted == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("images", [5, 20000])
def test_scores_that_are_not_finite_are_named(bad, images):
    scores, labels = np.zeros((images, 12), np.float32), np.zeros((images, 12), np.int8)
    scores[1:3, 9] = bad
    with pytest.raises(UserError, match=rf"class 9 has 2 of {images} scores that are NaN or infinite"):
        ranking_ap(scores, labels)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8])
def test_labels_out_of_range_are_named(dtype):
    labels = np.zeros((4, 3), dtype)
    labels[2, 1] = 2
    with pytest.raises(UserError, match="class 1 has 1 labels other than 1, 0 and -1, the first of them 2"):
        ranking_ap(np.zeros((4, 3)), labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2), np.int8), r"\[4, 3\] and \[4, 2\]"),
        (np.zeros(4), np.zeros(4, np.int8), r"\[images, classes\]"),
        (np.zeros((4, 3), np.float16), np.zeros((4, 3), np.int8), "not float16"),
        (np.zeros((4, 3)), np.zeros((4, 3)), "labels must be integers, not float64"),
    ],
)
def test_shapes_and_dtypes_that_do_not_fit(scores, labels, message):
    with pytest.raises(UserError, match=message):
        ranking_ap(scores, labels)


@given(tables(max_classes=1))
def test_the_curve_equals_scikit_learn(table):
    scores, labels = table
    scores, labels = scores.ravel(), labels.ravel()
    curve = precision_recall_curve(scores, labels)
    known = labels != -1
    assert curve.thresholds.tolist() == sorted(set(scores[known].tolist()), reverse=True)
    assert curve.thresholds.dtype == scores.dtype
    if not (labels == 1).any():
        assert np.isnan(curve.recall).all()
        assert not curve.precision.any()
        return
    precision, recall, thresholds = sklearn_curve(labels[known], scores[known])
    np.testing.assert_allclose(curve.precision, precision[-2::-1], atol=1e-15)
    np.testing.assert_allclose(curve.recall, recall[-2::-1], atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds[::-1])


def test_the_curve_checks_its_input():
    with pytest.raises(UserError, match=r"\[images\]"):
        precision_recall_curve(np.zeros((2, 2)), np.zeros((2, 2), np.int8))
    with pytest.raises(UserError, match="1 of 2 scores"):
        precision_recall_curve(np.array([0.0, np.nan]), np.zeros(2, np.int8))
