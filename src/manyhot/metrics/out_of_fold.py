"""Scores of every image from a model that has not seen it, over features that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels
from manyhot.progress import track

Features: TypeAlias = NDArray[np.floating[Any]]
"""float16, float32 or float64 [N, D], finite."""

Scorer: TypeAlias = Callable[[Features], NDArray[np.floating[Any]]]
"""Features [M, D] in, probabilities [M, C] out."""

Fit: TypeAlias = Callable[[Features, Labels], Scorer]
"""Features float32 [N, D] and labels int8 [N, C] in (1 present, 0 absent, -1 left out of that class), a scorer out."""


PRIOR_LOGIT_SD = 1.75
"""Before any label is seen, a logit spreads by this much: chosen on VOC (docs/label-errors.md)."""


def out_of_fold_scores(
    features: Features, labels: Labels, folds: NDArray[np.integer[Any]], fit: Fit
) -> NDArray[np.float64]:
    """Score each fold by what was fitted on the others.

    Arguments:
        features: float16, float32 or float64 [N, D], finite.
        labels: int8 [N, C]; 1 present, 0 absent, -1 left out of that class.
        folds: int [N], the fold of each image; `stratified_folds` makes them.
        fit: what is fitted; called once a fold.

    Returns:
        float64 [N, C], in 0…1.

    Raises:
        UserError: shapes do not fit, a feature is NaN or infinite, or there is only one fold.
    """
    if features.ndim != 2 or labels.ndim != 2 or not len(features) == len(labels) == len(folds):
        raise UserError(
            f"features {list(features.shape)}, labels {list(labels.shape)} and folds {list(folds.shape)} must be "
            "[images, D], [images, classes] and [images] of the same images."
        )
    names = np.unique(folds)
    if names.size < 2:
        raise UserError("scores out of fold need two folds or more.")
    features = features.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise UserError(f"{bad.size} images have features that are NaN or infinite, the first of them row {bad[0]}.")
    scores = np.empty(labels.shape)
    for name in track(names, names.size, "scoring out of fold", "folds"):
        inside = folds == name
        scores[inside] = fit(features[~inside], labels[~inside])(features[inside])
    return scores


def logistic_regression(prior_logit_sd: float = PRIOR_LOGIT_SD) -> Fit:
    """A fit of one L2-regularised logistic regression a class, over standardised features.

    The penalty is a normal prior of variance `prior_logit_sd`² / D on each weight: before any label is seen, a logit
    over D uncorrelated features spreads by `prior_logit_sd`. The intercept is free.

    A class whose known labels are all alike gets their smoothed share, (positives + ½) / (known + 1), for every image.

    Arguments:
        prior_logit_sd: above 0; smaller is smoother.
    """
    from sklearn.linear_model import LogisticRegression

    assert prior_logit_sd > 0

    def fit(features_ND: Features, labels_NC: Labels) -> Scorer:
        mean_D, spread_D = features_ND.mean(axis=0), features_ND.std(axis=0)
        spread_D[spread_D == 0] = 1
        standard_ND = (features_ND - mean_D) / spread_D
        n_features, n_classes = features_ND.shape[1], labels_NC.shape[1]
        weights_DC, offsets_C = np.zeros((n_features, n_classes)), np.empty(n_classes)
        for c, labels_N in enumerate(labels_NC.T):
            known = labels_N != -1
            n, n_positive = np.count_nonzero(known), np.count_nonzero(labels_N == 1)
            if 0 < n_positive < n:
                model = LogisticRegression(C=prior_logit_sd**2 / n_features, max_iter=2000)
                model.fit(standard_ND[known], labels_N[known])
                weights_DC[:, c], offsets_C[c] = model.coef_[0], model.intercept_[0]
            else:
                offsets_C[c] = np.log((n_positive + 0.5) / (n - n_positive + 0.5))
        return lambda features: expit((features - mean_D) / spread_D @ weights_DC + offsets_C)

    return fit
