from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score

from manyhot.errors import UserError
from manyhot.metrics import bootstrap
from manyhot.metrics.bootstrap import _bca, _draws, _Ranking, bootstrap_ap, paired_bootstrap_ap
from manyhot.metrics.ranking import average_precision, mean_ap


def synthetic(n_images, n_classes=3, *, rate=0.2, distance=1.5, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n_images, n_classes)) < rate).astype(np.int8)
    scores = (rng.normal(size=labels.shape) + distance * labels).round(1).astype(dtype)
    labels[rng.random(labels.shape) < 0.05] = -1
    return scores, labels


@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([np.float32, np.float64]))
def test_weighted_ap_equals_scikit_learn_with_sample_weights(seed, n_images, dtype):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-4, 5, n_images) / 3).astype(dtype)
    labels = rng.integers(-1, 2, n_images).astype(np.int8)
    counts = rng.integers(0, 4, (n_images, 5)).astype(np.uint16)
    got = _Ranking.of(scores, labels).weighted_ap(counts)
    for value, weight in zip(got, counts.T, strict=True):
        drawn = (labels != -1) & (weight > 0)
        if not (labels[drawn] == 1).any():
            assert np.isnan(value)
            continue
        wanted = average_precision_score(labels[drawn], scores[drawn], sample_weight=weight[drawn])
        assert value == pytest.approx(wanted, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 25))
def test_each_image_left_out_equals_the_measure_of_the_rest(seed, n_images):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (n_images, 1)) / 5
    labels = rng.integers(-1, 2, scores.shape).astype(np.int8)
    got = _Ranking.of(scores[:, 0], labels[:, 0]).left_out_ap()
    wanted = [average_precision(np.delete(scores, i, 0), np.delete(labels, i, 0))[0] for i in range(n_images)]
    np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_resamples_are_whole_rows_drawn_with_replacement():
    scores, labels = synthetic(80)
    blocks = [counts for _, counts in _draws(80, 150, 3)]
    counts = np.concatenate(blocks, axis=1)
    assert counts.shape == (80, 150)
    assert (counts.sum(axis=0) == 80).all()
    result = bootstrap_ap(scores, labels, resamples=150, seed=3)
    rows = [np.repeat(np.arange(80), column) for column in counts.T]
    aps = np.array([average_precision(scores[row], labels[row]) for row in rows])
    for c in range(3):
        left_out = [average_precision(np.delete(scores, i, 0), np.delete(labels, i, 0))[c] for i in range(80)]
        wanted = _bca(result.ap[c], aps[:, c], np.array(left_out), 0.95)
        np.testing.assert_allclose((result.low[c], result.high[c]), wanted, atol=1e-12)
    np.testing.assert_allclose(result.ap, average_precision(scores, labels), atol=1e-15)
    assert result.map == pytest.approx(mean_ap(result.ap)[0])
    assert result.map_low < result.map < result.map_high
    assert result.map_high - result.map_low < (result.high - result.low).mean()


def test_the_interval_is_scipys_bca():
    values = np.random.default_rng(0).exponential(size=60)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(1))
    rows = np.random.default_rng(2).integers(0, 60, (4000, 60))
    left_out = np.array([np.delete(values, i).mean() for i in range(60)])
    ours = _bca(values.mean(), values[rows].mean(axis=1), left_out, 0.95)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.03)
    # On the very same resamples it is theirs but for the chance of drawing.
    again = _bca(values.mean(), theirs.bootstrap_distribution, left_out, 0.95)
    np.testing.assert_allclose(again, theirs.confidence_interval, atol=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth = average_precision(*synthetic(200_000, 1, seed=99))[0]
    scores, labels = synthetic(200, 200, seed=5)  # a column is a draw
    result = bootstrap_ap(scores, labels, resamples=400)
    covered = (result.low <= truth) & (truth <= result.high)
    assert 0.88 <= covered.mean() <= 0.99


def test_the_block_size_changes_nothing_and_the_seed_does(monkeypatch):
    scores, labels = synthetic(60)
    whole = bootstrap_ap(scores, labels, resamples=100)
    monkeypatch.setattr(bootstrap, "_BLOCK_ELEMENTS", 60 * 7)
    sliced = bootstrap_ap(scores, labels, resamples=100)
    np.testing.assert_array_equal(whole.low, sliced.low)
    assert (whole.map_low, whole.map_high) == (sliced.map_low, sliced.map_high)
    assert bootstrap_ap(scores, labels, resamples=100, seed=1).map_low != whole.map_low


def test_pairs_share_their_resamples():
    scores, labels = synthetic(150)
    same = paired_bootstrap_ap(scores, 2 * scores, labels, resamples=100)
    assert not same.difference.any()
    assert (same.low.tolist(), same.high.tolist(), same.favour) == ([0.0] * 3, [0.0] * 3, 0.5)
    noise = np.random.default_rng(0).normal(0, 0.3, scores.shape)
    a, b = scores - noise.astype(np.float32), scores
    pair, back = (paired_bootstrap_ap(*tables, labels, resamples=300) for tables in ((a, b), (b, a)))
    np.testing.assert_allclose(pair.difference, average_precision(b, labels) - average_precision(a, labels))
    np.testing.assert_allclose(pair.low, -back.high, atol=1e-12)
    assert pair.favour == pytest.approx(1 - back.favour)
    assert pair.map_difference == pytest.approx(pair.map_b - pair.map_a)
    assert pair.map_low <= pair.map_difference <= pair.map_high
    one = bootstrap_ap(b, labels, resamples=300)
    assert pair.map_high - pair.map_low < 0.8 * (one.map_high - one.map_low)


def test_a_clear_difference_is_found_and_a_missing_one_as_a_rule_is_not():
    scores, labels = synthetic(300, 4, distance=2.0)
    rng = np.random.default_rng(1)
    worse = scores + rng.normal(0, 1.5, scores.shape)
    clear = paired_bootstrap_ap(worse, scores, labels, resamples=200)
    assert clear.map_low > 0
    assert clear.favour == 1.0
    found = 0
    for _ in range(40):
        a, b = (scores + rng.normal(0, 0.5, scores.shape) for _ in range(2))
        chance = paired_bootstrap_ap(a, b, labels, resamples=100)
        found += not chance.map_low <= 0 <= chance.map_high
    assert found <= 8


def test_classes_without_positives_and_rare_ones():
    scores, labels = synthetic(50)
    labels[:, 1] = 0
    labels[:, 2] = 0
    labels[7, 2] = 1
    result = bootstrap_ap(scores, labels, resamples=200)
    assert np.isnan([result.ap[1], result.low[1], result.high[1]]).all()
    assert result.n_undefined[0] == 0
    assert result.n_undefined[1] == 200
    assert 0.25 < result.n_undefined[2] / 200 < 0.5  # (1 − 1/50)^50 = 0.36
    assert result.map == pytest.approx((result.ap[0] + result.ap[2]) / 2)
    assert not np.isnan([result.low[2], result.map_low]).any()
    none = bootstrap_ap(scores, np.zeros_like(labels), resamples=100)
    assert np.isnan([none.map, none.map_low]).all()
    assert np.isnan(paired_bootstrap_ap(scores, scores, np.zeros_like(labels), resamples=100).favour)
    empty = bootstrap_ap(scores[:0], labels[:0], resamples=100)
    assert np.isnan(empty.low).all()


def test_a_perfect_ranking_has_no_width():
    labels = np.array([[1], [1], [0], [0], [0]], np.int8)
    result = bootstrap_ap(labels.astype(np.float64), labels, resamples=100)
    assert (result.ap[0], result.low[0], result.high[0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resamples": 99}, "100 resamples"), ({"confidence": 1.0}, "between 0 and 1"), ({"seed": -1}, "seed")],
)
def test_options_out_of_range(options, message):
    scores, labels = synthetic(10)
    with pytest.raises(UserError, match=message):
        bootstrap_ap(scores, labels, **options)
    with pytest.raises(UserError, match=message):
        paired_bootstrap_ap(scores, scores, labels, **options)
