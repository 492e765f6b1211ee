from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.errors import UserError
from manyhot.metrics.tail import mean_tail_curve, tail_accuracy, tail_curve, tails


def formula(scores, labels, t):
    """Tailacc(t) as the formula is written; None where no score exceeds t."""
    above = right = 0
    for f, y in zip(scores.tolist(), labels.tolist(), strict=True):
        if y == -1 or not f > t:
            continue
        above += 1
        right += (f > 0.5) == (y == 1)
    return right / above if above else None


@st.composite
def tables(draw, max_classes=4):
    shape = (draw(st.integers(0, 30)), draw(st.integers(1, max_classes)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 20))).astype(dtype) / dtype(20)
    labels = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))
    return scores, labels


@given(tables(max_classes=1), st.lists(st.floats(0.5, 1.0), max_size=10))
def test_the_curve_is_the_formula_at_every_threshold(table, thresholds):
    scores, labels = table[0][:, 0], table[1][:, 0]
    curve = tail_curve(scores, labels)
    for t in [0.5, *thresholds, *(f for f in scores.tolist() if f >= 0.5), *curve.starts.tolist()]:
        wanted, got = formula(scores, labels, t), float(curve.at(t))
        assert (wanted is None) == np.isnan(got)
        assert wanted is None or got == wanted


@given(tables(max_classes=1))
def test_the_steps_begin_at_a_half_and_end_at_the_highest_score(table):
    scores, labels = table[0][:, 0], table[1][:, 0]
    curve = tail_curve(scores, labels)
    known = scores[labels != -1].astype(np.float64)
    if not (known > 0.5).any():
        assert curve.starts.size == curve.values.size == 0
        assert curve.stop == 0.5
        assert np.isnan(curve.mean())
        return
    assert curve.starts[0] == 0.5
    assert (np.diff(curve.starts) > 0).all()
    assert curve.stop == known.max()
    assert np.isnan(curve.at([0.4999, curve.stop, 2.0])).all()


@given(tables(max_classes=1))
def test_the_mean_is_what_evenly_spaced_thresholds_tend_to(table):
    scores, labels = table
    got = tail_accuracy(scores, labels)[0]
    stop = tail_curve(scores[:, 0], labels[:, 0]).stop
    if np.isnan(got):
        assert stop == 0.5
        return
    # Midpoints of 200 even cells; scores lie on twentieths, so a cell edge meets every step up to rounding.
    thresholds = 0.5 + (np.arange(200) + 0.5) / 200 * (stop - 0.5)
    sampled = [formula(scores[:, 0], labels[:, 0], t) for t in thresholds]
    assert got == pytest.approx(np.mean(sampled), abs=10 / 200)
    assert 0 <= got <= 1


def test_a_curve_by_hand():
    scores = np.array([0.9, 0.7, 0.6, 0.4, 0.95])
    labels = np.array([1, 0, 1, 1, -1], np.int8)
    curve = tail_curve(scores, labels)
    assert curve.starts.tolist() == [0.5, 0.6, 0.7]
    assert curve.values.tolist() == [2 / 3, 1 / 2, 1]
    assert curve.stop == 0.9
    assert curve.mean() == pytest.approx((0.1 * 2 / 3 + 0.1 * 1 / 2 + 0.2 * 1) / 0.4, abs=1e-15)


def test_confident_and_right_everywhere_is_one_exactly():
    scores = np.random.default_rng(0).uniform(0.5001, 1, (1000, 3)).astype(np.float32)
    assert tail_accuracy(scores, np.ones((1000, 3), np.int8)).tolist() == [1.0, 1.0, 1.0]


def test_a_score_of_exactly_a_half_is_not_predicted():
    assert np.isnan(tail_accuracy(np.full((4, 1), 0.5), np.ones((4, 1), np.int8))[0])
    barely = np.full((4, 1), np.nextafter(0.5, 1))
    assert tail_accuracy(barely, np.ones((4, 1), np.int8))[0] == 1.0


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_no_bit(table, random):
    scores, labels = table
    order = list(range(len(scores)))
    random.shuffle(order)
    np.testing.assert_array_equal(tail_accuracy(scores, labels), tail_accuracy(scores[order], labels[order]))


@given(tables(), st.lists(st.floats(0.5, 1.1), max_size=6))
def test_the_mean_curve_counts_the_classes_that_are_left(table, thresholds):
    scores, labels = table
    curve = mean_tail_curve(scores, labels, thresholds)
    for k, t in enumerate(thresholds):
        values = [formula(s, y, t) for s, y in zip(scores.T, labels.T, strict=True)]
        counted = [value for value in values if value is not None]
        assert curve.n[k] == len(counted)
        if counted:
            assert curve.mean[k] == pytest.approx(np.mean(counted), abs=1e-15)
        else:
            assert np.isnan(curve.mean[k])


def test_samples_unless_given_run_from_a_half_to_just_below_one():
    curve = mean_tail_curve(np.array([[0.8]]), np.array([[1]], np.int8))
    assert curve.thresholds[[0, 1, -1]].tolist() == [0.5, 0.505, 0.995]
    assert curve.n.tolist() == (curve.thresholds < 0.8).astype(int).tolist()


def test_no_images_and_no_classes():
    accuracy, curve = tails(np.empty((0, 2), np.float32), np.empty((0, 2), np.int8), [0.5, 0.6])
    assert np.isnan(accuracy).all()
    assert accuracy.shape == (2,)
    assert curve.n.tolist() == [0, 0]
    accuracy, curve = tails(np.empty((3, 0), np.float32), np.empty((3, 0), np.int8), [0.5])
    assert accuracy.shape == (0,)
    assert np.isnan(curve.mean).all()


@pytest.mark.parametrize("thresholds", [[0.4], [np.nan], [[0.5]], 0.5])
def test_thresholds_below_a_half_are_refused(thresholds):
    with pytest.raises(UserError, match=r"0\.5 or more"):
        mean_tail_curve(np.zeros((2, 1)), np.zeros((2, 1), np.int8), thresholds)


def test_values_are_checked():
    with pytest.raises(UserError, match="class 0 has 1 of 2 scores"):
        tail_accuracy(np.array([[np.nan], [0.0]]), np.zeros((2, 1), np.int8))
    with pytest.raises(UserError, match="first of them 7"):
        tail_curve(np.zeros(2), np.array([0, 7], np.int8))
