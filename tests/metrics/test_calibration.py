from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression

from manyhot.errors import UserError
from manyhot.metrics.calibration import (
    Calibration,
    expected_calibration_error,
    fit_isotonic,
    fit_temperature,
    reliability_curve,
)
from manyhot.metrics.ranking import average_precision


def synthetic(n_images=800, n_classes=3, *, sharpness=3.0, dtype=np.float32, ignored=0.1, seed=0):
    """Labels drawn from the true probabilities; scores that are too sure of them."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1, 1.5, (n_images, n_classes))
    labels = (rng.random(true.shape) < expit(true)).astype(np.int8)
    labels[rng.random(labels.shape) < ignored] = -1
    return expit(sharpness * true).astype(dtype), labels


def slow_error(scores, labels, edges):
    """Σ over bins (a, b] of their share of images times |share of positives − mean score|; the first takes a too."""
    known = [(float(s), int(y)) for s, y in zip(scores, labels, strict=True) if y != -1]
    total = 0.0
    for i, (a, b) in enumerate(pairwise(edges)):
        inside = [(s, y) for s, y in known if (a < s or i == 0) and (s <= b or i == len(edges) - 2)]
        if inside:
            total += abs(sum(y for _, y in inside) - sum(s for s, _ in inside)) / len(known)
    return total


@given(st.integers(0, 50), st.sampled_from([1, 4, 15]), st.sampled_from([np.float32, np.float64]))
def test_the_error_equals_a_loop_over_bins(seed, bins, dtype):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 21, (40, 2)) / 20).astype(dtype)
    labels = rng.integers(-1, 2, scores.shape).astype(np.int8)
    by_width = expected_calibration_error(scores, labels, bins, "width")
    by_mass = expected_calibration_error(scores, labels, bins)
    for c in range(2):
        known = scores[labels[:, c] != -1, c].astype(np.float64)
        at = np.linspace(0, 1, bins + 1)
        assert by_width[c] == pytest.approx(slow_error(scores[:, c], labels[:, c], at), abs=1e-12)
        quantiles = np.quantile(known, at)
        assert by_mass[c] == pytest.approx(slow_error(scores[:, c], labels[:, c], quantiles), abs=1e-12)


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_curve_equals_scikit_learn(binning, strategy):
    # No quantile falls on one of 998 scores, where the last bit of an edge would decide about a bin.
    scores, labels = synthetic(998, 1, dtype=np.float64, ignored=0)
    share, score = calibration_curve(labels[:, 0], scores[:, 0], n_bins=15, strategy=strategy)
    curve = reliability_curve(scores[:, 0], labels[:, 0], 15, binning)
    np.testing.assert_allclose(curve.share, share, atol=1e-12)
    np.testing.assert_allclose(curve.score, score, atol=1e-12)
    assert curve.n.sum() == 998
    assert curve.error() == expected_calibration_error(scores, labels, 15, binning)[0]


def loss(scores, labels, temperature):
    z = logit(scores.astype(np.float64)) / temperature
    return float(np.mean(np.logaddexp(0, z) - labels * z))


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_a_temperature_is_the_minimum_that_scipy_finds(sharpness):
    scores, labels = synthetic(sharpness=sharpness, dtype=np.float64)
    fitted = fit_temperature(scores, labels)
    for c, temperature in enumerate(fitted.temperatures):
        known = labels[:, c] != -1
        s, y = scores[known, c], labels[known, c]
        found = minimize_scalar(lambda a: loss(s, y, 1 / a), bounds=(0.05, 20), method="bounded")  # noqa: B023
        assert temperature == pytest.approx(1 / found.x, rel=1e-3)
        assert loss(s, y, temperature) <= found.fun + 1e-12
        assert temperature == pytest.approx(sharpness, rel=0.3)
    (shared,) = set(fit_temperature(scores, labels, shared=True).temperatures)
    pooled = fit_temperature(scores.reshape(-1, 1), labels.reshape(-1, 1)).temperatures[0]
    assert shared == pytest.approx(pooled, rel=1e-9)


def test_both_maps_mend_scores_of_another_split_and_temperature_keeps_the_order():
    scores, labels = synthetic(seed=1)
    others, theirs = synthetic(n_images=4000, seed=2)
    before = expected_calibration_error(others, theirs)
    for fit in (fit_temperature, fit_isotonic):
        assert (expected_calibration_error(fit(scores, labels).apply(others), theirs) < 0.6 * before).all()
    calibrated = fit_temperature(scores, labels).apply(others)
    np.testing.assert_array_equal(average_precision(calibrated, theirs), average_precision(others, theirs))
    for fit in (fit_temperature, fit_isotonic):
        out = fit(scores, labels).apply(others)
        order = others.argsort(axis=0)
        assert (np.diff(np.take_along_axis(out, order, 0), axis=0) >= 0).all()
        assert ((out >= 0) & (out <= 1)).all()


def test_isotonic_equals_scikit_learn_and_ties_whole_plateaus():
    scores, labels = synthetic(300, 2, dtype=np.float64)
    others, _ = synthetic(500, 2, dtype=np.float64, seed=3)
    out = fit_isotonic(scores, labels).apply(others)
    for c in range(2):
        known = labels[:, c] != -1
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores[known, c], labels[known, c])
        np.testing.assert_allclose(out[:, c], model.predict(others[:, c]), atol=1e-12)
        assert np.unique(out[:, c]).size < 500


def test_scores_of_0_and_1_stay_finite_and_in_order():
    scores = np.array([[0.0], [1e-30], [0.5], [1 - 2**-24], [1.0]], np.float32)
    out = Calibration("temperature", temperatures=(2.0,)).apply(scores)[:, 0]
    assert (np.diff(out) > 0).all()
    assert 0 < out[0] < out[-1] < 1
    labels = np.array([[1], [0], [1], [0], [1]], np.int8)
    assert fit_temperature(scores, labels).temperatures == (pytest.approx(20.0),)


def test_separated_reversed_and_one_sided_classes():
    scores = np.array([[0.9, 0.1, 0.7], [0.8, 0.2, 0.6], [0.2, 0.8, 0.5], [0.1, 0.9, 0.4]])
    labels = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, -1]], np.int8)
    assert fit_temperature(scores, labels).temperatures == pytest.approx((0.05, 20.0, 1.0))
    np.testing.assert_allclose(fit_isotonic(scores, labels).apply(scores)[:, 2], scores[:, 2])
    nothing = np.full(labels.shape, -1, np.int8)
    assert fit_temperature(scores, nothing, shared=True).temperatures == (1.0, 1.0, 1.0)
    assert np.isnan(expected_calibration_error(scores, nothing)).all()
    assert reliability_curve(scores[:, 0], nothing[:, 0]).n.size == 0
    assert fit_temperature(scores[:, :0], labels[:, :0], shared=True).temperatures == ()


@pytest.mark.parametrize("fit", [fit_temperature, fit_isotonic])
def test_a_calibration_survives_json(fit):
    scores, labels = synthetic(120)
    calibration = fit(scores, labels)
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False)))
    assert again == calibration
    np.testing.assert_array_equal(again.apply(scores), calibration.apply(scores))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not a calibration"),
        ({"method": "plat"}, "no calibration 'plat'"),
        ({"method": "temperature", "temperatures": [1.0, 0.0]}, "above 0"),
        ({"method": "temperature", "temperatures": "x"}, "not a calibration"),
        ({"method": "isotonic", "knots": [{"score": [0.5, 0.4], "calibrated": [0, 1]}]}, "rise"),
        ({"method": "isotonic", "knots": [{"score": [0.1], "calibrated": [0, 1]}]}, "rise"),
        ({"method": "isotonic", "knots": [{"score": [], "calibrated": []}]}, "rise"),
    ],
)
def test_json_of_something_else_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        Calibration.from_json(content)


def test_what_is_asked_is_checked():
    scores, labels = synthetic(20)
    with pytest.raises(UserError, match="for 2 classes"):
        Calibration("temperature", temperatures=(1.0, 1.0)).apply(scores)
    for measure in (expected_calibration_error, fit_temperature, fit_isotonic):
        with pytest.raises(UserError, match="outside 0…1"):
            measure(scores * 3, labels)
    with pytest.raises(UserError, match="bins must be"):
        expected_calibration_error(scores, labels, 0)
    with pytest.raises(UserError, match="Did you mean 'width'"):
        expected_calibration_error(scores, labels, 5, "widht")


@given(st.integers(0, 60), st.sampled_from([0.001, 0.2]))
def test_without_plateaus_the_map_rises_and_moves_by_the_share_at_most(seed, share):
    rng = np.random.default_rng(seed)
    scores = rng.random((rng.integers(1, 30), 2)).round(rng.integers(1, 4))
    labels = rng.integers(-1, 2, scores.shape).astype(np.int8)
    flat = fit_isotonic(scores, labels)
    rising = flat.without_plateaus(share)
    assert Calibration.from_json(json.loads(json.dumps(rising.to_json()))) == rising
    grid = np.sort(np.concatenate([rng.random((200, 2)), scores, np.zeros((1, 2)), np.ones((1, 2))]), axis=0)
    expected = (1 - share) * flat.apply(grid) + share * grid
    np.testing.assert_allclose(rising.apply(grid), expected, atol=1e-12)
    assert (np.diff(rising.apply(grid), axis=0)[np.diff(grid, axis=0) > 1e-6] > 0).all()
    warm = fit_temperature(scores, labels)
    assert warm.without_plateaus() == warm
