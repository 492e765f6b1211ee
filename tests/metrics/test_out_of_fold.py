from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.naive_bayes import GaussianNB

from manyhot.errors import UserError
from manyhot.metrics.folds import stratified_folds
from manyhot.metrics.out_of_fold import logistic_regression, out_of_fold_scores


def problem(seed=0, n=120, d=5, c=3):
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(n, d)) * [1, 10, 0.1, 3, 0] + 5).astype(np.float32)  # the last one is constant
    labels = (features[:, :c] + rng.normal(size=(n, c)) > features[:, :c].mean(axis=0)).astype(np.int8)
    return features, labels


def naive_bayes(features, labels):
    models = [GaussianNB().fit(features, column) for column in labels.T]
    return lambda images: np.stack([model.predict_proba(images)[:, 1] for model in models], axis=1)


def test_equal_to_scikit_learns_cross_validation():
    features, labels = problem()
    features = features[:, :4]
    folds = stratified_folds(labels, 4)
    got = out_of_fold_scores(features, labels, folds, naive_bayes)
    for c in range(3):
        split = PredefinedSplit(folds)
        wanted = cross_val_predict(GaussianNB(), features, labels[:, c], cv=split, method="predict_proba")
        np.testing.assert_allclose(got[:, c], wanted[:, 1], rtol=1e-6)


def test_no_image_is_scored_by_a_fit_that_saw_it():
    features, labels = np.arange(20, dtype=np.float16)[:, None], np.zeros((20, 2), np.int8)
    folds = np.arange(20) % 3

    def fit(seen, _):
        assert seen.dtype == np.float32

        def score(images):
            assert not np.isin(images, seen).any()
            return np.repeat(images / 100, 2, axis=1)

        return score

    np.testing.assert_allclose(out_of_fold_scores(features, labels, folds, fit)[:, 0], np.arange(20) / 100, rtol=1e-6)


def test_the_logistic_regression_minimises_the_penalised_loss():
    features, labels = problem()
    labels[:7, 0] = -1
    got = logistic_regression(1.5)(features, labels)(features)
    standard = (features - features.mean(axis=0)) / np.where(features.std(axis=0), features.std(axis=0), 1)
    standard = standard.astype(np.float64)
    for c in range(3):
        known = labels[:, c] != -1
        x, sign = standard[known], 2.0 * labels[known, c] - 1

        def objective(w, x=x, sign=sign):
            return np.logaddexp(0, -sign * (x @ w[:-1] + w[-1])).sum() + (w[:-1] ** 2).sum() / (2 * 1.5**2 / 5)

        w = minimize(objective, np.zeros(6), method="BFGS", options={"gtol": 1e-6}).x
        np.testing.assert_allclose(got[:, c], 1 / (1 + np.exp(-(standard @ w[:-1] + w[-1]))), atol=1e-3)


def test_constant_classes_get_their_smoothed_share():
    features, _ = problem(n=20)
    labels = np.tile(np.array([0, 1, -1, 0], np.int8), (20, 1))
    labels[:10, 3] = -1
    scores = logistic_regression()(features, labels)(features[:2])
    np.testing.assert_allclose(scores, np.tile([0.5 / 21, 20.5 / 21, 0.5, 0.5 / 11], (2, 1)))


def test_scale_and_offset_of_features_do_not_matter():
    features, labels = problem(d=5)
    a = logistic_regression()(features, labels)(features)
    b = logistic_regression()(features * 8 + 1, labels)(features * 8 + 1)
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_bad_input():
    features, labels = problem(n=10)
    with pytest.raises(UserError, match="of the same images"):
        out_of_fold_scores(features, labels[:9], np.arange(10) % 2, naive_bayes)
    with pytest.raises(UserError, match="two folds or more"):
        out_of_fold_scores(features, labels, np.zeros(10, int), naive_bayes)
    features[3, 1] = np.nan
    with pytest.raises(UserError, match="the first of them row 3"):
        out_of_fold_scores(features, labels, np.arange(10) % 2, naive_bayes)
