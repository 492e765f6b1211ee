from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.errors import UserError
from manyhot.metrics.folds import stratified_folds


@st.composite
def problems(draw, max_classes=5):
    shape = (draw(st.integers(2, 60)), draw(st.integers(1, max_classes)))
    labels = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 0, 1])))
    return labels, draw(st.integers(2, min(shape[0], 7))), draw(st.integers(0, 9))


def spread(labels, assigned, folds):
    """The largest number of positives that a class has more in one fold than in another, [C]."""
    counts = np.array([(labels[assigned == k] == 1).sum(axis=0) for k in range(folds)])
    return counts.max(axis=0) - counts.min(axis=0)


@given(problems())
def test_every_image_has_one_fold_that_labels_and_seed_decide(problem):
    labels, folds, seed = problem
    assigned = stratified_folds(labels, folds, seed)
    assert assigned.shape == (len(labels),)
    assert set(assigned) <= set(range(folds))
    np.testing.assert_array_equal(assigned, stratified_folds(labels, folds, seed))
    np.testing.assert_array_equal(assigned, stratified_folds(np.maximum(labels, 0), folds, seed))


@given(problems())
def test_the_rarest_class_is_even(problem):
    labels, folds, seed = problem
    n_positive = (labels == 1).sum(axis=0)
    shown = np.flatnonzero(n_positive)
    if shown.size:
        rarest = shown[np.argmin(n_positive[shown])]
        assert spread(labels, stratified_folds(labels, folds, seed), folds)[rarest] <= 1


@given(st.lists(st.integers(-1, 4), min_size=2, max_size=80), st.integers(0, 9), st.data())
def test_classes_that_share_no_image_are_even_and_so_are_the_folds(of, seed, data):
    """One class an image, or none (-1)."""
    labels = (np.array(of)[:, None] == np.arange(5)).astype(np.int8)
    folds = data.draw(st.integers(2, min(len(of), 7)))
    assigned = stratified_folds(labels, folds, seed)
    assert (spread(labels, assigned, folds) <= 1).all()
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_overlapping_classes_are_more_even_than_by_chance():
    rng = np.random.default_rng(0)
    rates, worst, chance = np.geomspace(0.01, 0.4, 20), [], []
    for seed in range(5):
        labels = (rng.random((1000, 20)) < rates).astype(np.int8)
        assigned = stratified_folds(labels, 5, seed)
        sizes = np.bincount(assigned)
        assert sizes.max() - sizes.min() <= 4
        worst.append(spread(labels, assigned, 5).max())
        chance.append(spread(labels, rng.permutation(1000) % 5, 5).max())
    assert max(worst) <= 3
    assert min(chance) > 10


def test_another_seed_deals_otherwise():
    labels = (np.random.default_rng(0).random((100, 4)) < 0.3).astype(np.int8)
    assert (stratified_folds(labels, 5, 0) != stratified_folds(labels, 5, 1)).any()


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_folds_out_of_range(folds):
    with pytest.raises(UserError, match=f"3 images cannot be dealt into {folds} folds"):
        stratified_folds(np.ones((3, 2), np.int8), folds)
