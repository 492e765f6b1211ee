from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import beta, binom, binomtest, norm

from manyhot.errors import UserError
from manyhot.metrics.calibration import fit_isotonic
from manyhot.metrics.choosing import _sequence, best_f1, carried_over, wanted_precision, wanted_recall
from manyhot.metrics.thresholds import threshold_counts


@st.composite
def tables(draw, max_images=60):
    shape = (draw(st.integers(0, max_images)), draw(st.integers(0, 4)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 12))).astype(dtype) / dtype(12)
    return scores, draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1, 1])))


def every_threshold(scores, labels):
    """(threshold, true, predicted) of one class from the strictest down, by counting."""
    known = [(float(s), int(y)) for s, y in zip(scores, labels, strict=True) if y != -1]
    distinct = sorted({s for s, _ in known}, reverse=True)
    lower = [*distinct[1:], np.nextafter(distinct[-1], -np.inf)] if distinct else []
    for t in lower:
        taken = [y for s, y in known if s > t]
        yield t, sum(taken), len(taken)


@given(tables())
def test_best_f1_is_the_highest_of_all_thresholds(table):
    scores, labels = table
    chosen = best_f1(scores, labels)
    for c in range(scores.shape[1]):
        n_positive = int((labels[:, c] == 1).sum())
        if not n_positive:
            assert np.isnan(chosen.thresholds[c])
            continue
        f1 = {t: 2 * k / (n + n_positive) for t, k, n in every_threshold(scores[:, c], labels[:, c])}
        best = max(f1.values())
        assert chosen.achieved[c] == pytest.approx(best, abs=1e-15)
        assert chosen.thresholds[c] == max(t for t, value in f1.items() if value == best)
    counted = threshold_counts(scores, labels, chosen.filled()).f_beta(1)
    there = ~np.isnan(chosen.thresholds)
    np.testing.assert_allclose(counted[there], chosen.achieved[there], atol=1e-15)


@given(tables(), st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_plain_choices_equal_a_scan(table, wanted):
    scores, labels = table
    precision, recall = wanted_precision(scores, labels, wanted, None), wanted_recall(scores, labels, wanted, None)
    for c in range(scores.shape[1]):
        steps = list(every_threshold(scores[:, c], labels[:, c]))
        n_positive = int((labels[:, c] == 1).sum())
        reached = [t for t, k, n in steps if k / n >= wanted]
        np.testing.assert_equal(precision.thresholds[c], min(reached) if reached else np.nan)
        found = [t for t, k, _ in steps if n_positive and k / n_positive >= wanted]
        np.testing.assert_equal(recall.thresholds[c], max(found) if found else np.nan)


@settings(deadline=None)  # scipy's exact interval is slow
@given(tables(max_images=120), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.6, 0.9]))
def test_the_tested_sequence_stops_at_its_first_failure(table, precision, confidence):
    scores, labels = table
    chosen = wanted_precision(scores, labels, precision, confidence)
    sequence = _sequence(len(scores), precision, 1 - confidence)
    for c in range(scores.shape[1]):
        last = None
        steps = list(every_threshold(scores[:, c], labels[:, c]))
        for needed in sequence:
            step = next(((t, k, n) for t, k, n in steps if n >= needed), None)
            if step is None or binom.sf(step[1] - 1, step[2], precision) > 1 - confidence:
                break
            last = step
        wanted = (np.nan, np.nan)
        if last:
            t, k, n = last
            wanted = (t, binomtest(k, n, alternative="greater").proportion_ci(confidence, "exact").low)
        np.testing.assert_allclose((chosen.thresholds[c], chosen.bound[c]), wanted, rtol=1e-9)
        assert not chosen.bound[c] < precision - 1e-12


@pytest.mark.parametrize(("precision", "risk"), [(0.9, 0.1), (0.5, 0.1), (0.99, 0.01)])
def test_steps_are_the_least_numbers_that_let_one_more_wrong_image_pass(precision, risk):
    sequence = _sequence(2000, precision, risk)
    allowed = [binom.ppf(risk, n, 1 - precision) for n in sequence]  # the least e with P(wrong ≤ e) ≥ risk
    for n, e in zip(sequence.tolist(), allowed, strict=True):
        assert binom.cdf(e - 1, n, 1 - precision) <= risk < binom.cdf(e - 1, n - 1, 1 - precision)
    assert (np.diff(sequence) > 0).all()
    assert sequence[0] == np.ceil(np.log(risk) / np.log(precision))


def true_precision(t, rate, distance):
    found, false = rate * norm.sf(t - distance), (1 - rate) * norm.sf(t)
    return found / (found + false)


@pytest.mark.parametrize("n_positive", [50, 200, 1000])
def test_a_promised_precision_holds_in_nine_draws_of_ten_and_the_plain_choice_does_not(n_positive):
    rate, distance, draws = 0.2, 3.0, 500
    rng = np.random.default_rng(n_positive)
    labels = (rng.random((round(n_positive / rate), draws)) < rate).astype(np.int8)  # a column is a draw
    scores = rng.normal(size=labels.shape) + distance * labels
    promised, plain = wanted_precision(scores, labels, 0.9, 0.9), wanted_precision(scores, labels, 0.9, None)
    # A class that is never predicted breaks no promise; how often one is predicted is asserted beside it.
    kept, lucky = (
        np.isnan(one.thresholds) | (true_precision(one.thresholds, rate, distance) >= 0.9) for one in (promised, plain)
    )
    assert kept.mean() >= 0.9
    assert lucky.mean() < 0.7
    assert (~np.isnan(promised.thresholds)).mean() > {50: 0.7, 200: 0.9, 1000: 0.99}[n_positive]
    recall = norm.sf(promised.thresholds - distance)
    assert np.nanmean(recall) > {50: 0.5, 200: 0.7, 1000: 0.8}[n_positive]


def test_the_promise_holds_where_the_highest_scores_are_often_wrong_and_many_scores_tie():
    rng = np.random.default_rng(1)
    levels = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    share = np.array([0.80, 1.00, 0.99, 0.98, 0.65, 0.50, 0.20])
    weight = np.array([0.02, 0.08, 0.1, 0.1, 0.1, 0.2, 0.4])
    level = rng.choice(7, (600, 500), p=weight)
    scores, labels = levels[level], (rng.random(level.shape) < share[level]).astype(np.int8)
    chosen = wanted_precision(scores, labels, 0.9, 0.9).thresholds
    precision = {t: (weight * share)[levels > t].sum() / weight[levels > t].sum() for t in (*levels[1:], 0.3)}
    assert 0.88 < precision[0.5] < 0.9 < precision[0.6]
    kept = [np.isnan(t) or precision[float(t)] >= 0.9 for t in chosen]
    assert np.mean(kept) >= 0.9
    assert np.isnan(chosen).mean() < 0.5


@pytest.mark.parametrize("n_positive", [25, 200])
def test_a_promised_recall_holds_in_nine_draws_of_ten_and_hardly_more(n_positive):
    rng = np.random.default_rng(n_positive)
    labels = np.zeros((20 * n_positive, 500), np.int8)
    labels[:n_positive] = 1
    scores = rng.normal(size=labels.shape) + labels
    chosen = wanted_recall(scores, labels, 0.8, 0.9)
    kept = norm.sf(chosen.thresholds - 1) >= 0.8
    assert 0.9 <= kept.mean() < 0.97
    assert (norm.sf(wanted_recall(scores, labels, 0.8, None).thresholds - 1) >= 0.8).mean() < 0.8
    missed = n_positive - round(chosen.achieved[0] * n_positive)
    assert chosen.bound[0] == pytest.approx(beta.ppf(0.1, n_positive - missed, missed + 1))
    assert chosen.bound[0] >= 0.8


def test_too_few_images_promise_nothing():
    labels = np.ones((22, 1), np.int8)
    scores = np.linspace(0.5, 0.9, 22)[:, None]
    for choose in (wanted_precision, wanted_recall):
        assert choose(scores, labels, 0.9).thresholds[0] < 0.5
        few = choose(scores[1:], labels[1:], 0.9)
        assert np.isnan([few.thresholds[0], few.achieved[0], few.bound[0]]).all()
        assert few.filled().tolist() == [1.0]
        assert np.isnan(choose(scores, labels, 1.0).thresholds[0])
        assert choose(scores, labels, 1.0, None).achieved[0] == 1.0
        assert choose(scores, labels, 0.9).rule.endswith("≥ 0.9 with confidence 0.9")
        assert choose(scores, labels, 0.9, None).rule.endswith("≥ 0.9 on these images")
        assert np.isnan(choose(scores, -labels, 0.9).thresholds[0])
        assert np.isnan(choose(scores, 0 * labels, 0.9).thresholds[0])


def test_a_threshold_of_float32_scores_is_a_score_and_splits_them_exactly():
    scores = np.array([[0.9], [0.3], [0.1]], np.float32)
    labels = np.array([[1], [0], [0]], np.int8)
    chosen = best_f1(scores, labels)
    assert chosen.thresholds[0] == float(np.float32(0.3))
    assert threshold_counts(scores, labels, chosen.thresholds).tp.tolist() == [1]
    assert threshold_counts(scores, labels, chosen.thresholds).fp.tolist() == [0]


@pytest.mark.parametrize(
    ("wanted", "confidence", "message"),
    [(0.0, 0.9, "above 0"), (1.1, 0.9, "above 0"), (np.nan, 0.9, "above 0"), (0.9, 1.0, "between 0 and 1")],
)
def test_options_out_of_range(wanted, confidence, message):
    for choose in (wanted_precision, wanted_recall):
        with pytest.raises(UserError, match=message):
            choose(np.zeros((2, 1)), np.zeros((2, 1), np.int8), wanted, confidence)


def test_values_are_checked():
    with pytest.raises(UserError, match="class 0 has 1 of 2 scores"):
        best_f1(np.array([[0.0], [np.nan]]), np.zeros((2, 1), np.int8))


@settings(deadline=None, max_examples=60)
@given(table=tables(), digits=st.integers(0, 2), wanted=st.floats(0.05, 1), stricter=st.booleans())
def test_a_threshold_carried_over_keeps_to_its_side_of_a_tie(table, digits, wanted, stricter):
    scores, labels = table
    moved = (scores / 2 + 0.1).round(digits).astype(np.float32)  # rises, and ties more or fewer
    chosen = (wanted_precision if stricter else wanted_recall)(scores, labels, wanted, 0.6)
    carried = carried_over(chosen, scores, moved, stricter=stricter)
    was, now = scores > chosen.filled(2), moved > np.where(np.isnan(carried), 2, carried)
    assert (now <= was).all() if stricter else (now >= was).all()
    for c in np.flatnonzero(~np.isnan(chosen.thresholds)):
        # No other cut between two values of `moved` is nearer to what was chosen.
        cuts = [moved[:, c] > t for t in [*np.unique(moved[:, c]), -1.0]]
        allowed = [cut for cut in cuts if ((cut <= was[:, c]) if stricter else (cut >= was[:, c])).all()]
        assert now[:, c].sum() == (max if stricter else min)(cut.sum() for cut in allowed)


def test_a_promise_carried_over_the_plateaus_of_isotonic_regression_holds():
    draws, rate, distance = 150, 0.2, 3.0
    rng = np.random.default_rng(5)
    labels = (rng.random((1000, draws)) < rate).astype(np.int8)
    x = rng.normal(size=labels.shape) + distance * labels
    scores = norm.cdf(x)
    calibration = fit_isotonic(scores, labels)
    calibrated = calibration.apply(scores).astype(np.float32)
    thresholds = carried_over(wanted_precision(scores, labels, 0.9, 0.9), scores, calibrated, stricter=True)
    grid = np.linspace(-3, 7, 4001)
    above = calibration.apply(np.repeat(norm.cdf(grid)[:, None], draws, axis=1)).astype(np.float32) > thresholds
    cut = grid[above.argmax(axis=0)][above.any(axis=0)]  # the least score that is predicted
    found, wrong = rate * norm.sf(cut - distance), (1 - rate) * norm.sf(cut)
    assert cut.size > 0.9 * draws
    assert (found / (found + wrong) >= 0.9).mean() >= 0.9
