from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from manyhot.errors import UserError
from manyhot.metrics import columns
from manyhot.metrics.topk import top_k_accuracy


def one_hot(targets, n_classes):
    return (np.arange(n_classes) == np.asarray(targets)[:, None]).astype(np.int8)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(3, 8), st.integers(1, 8))
def test_without_ties_it_equals_scikit_learn(seed, n_images, n_classes, k):
    rng = np.random.default_rng(seed)
    k = min(k, n_classes - 1)
    scores = np.stack([rng.permutation(n_classes) for _ in range(n_images)]) / n_classes
    targets = rng.integers(n_classes, size=n_images)
    wanted = top_k_accuracy_score(targets, scores, k=k, labels=np.arange(n_classes))
    assert top_k_accuracy(scores, one_hot(targets, n_classes), k) == pytest.approx(wanted, abs=1e-14)


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_ties_count_as_breaking_them_at_random_would(seed, k):
    rng = np.random.default_rng(seed)
    scores, target = rng.integers(0, 3, 4).astype(np.float32), int(rng.integers(4))
    orders = [np.random.default_rng(i).permutation(4) for i in range(600)]
    hits = [target in order[np.argsort(-scores[order], kind="stable")][:k] for order in orders]
    assert top_k_accuracy(scores[None], one_hot([target], 4), k) == pytest.approx(np.mean(hits), abs=0.12)


def test_equal_scores_are_worth_a_guess_and_k_of_all_classes_is_worth_one():
    labels = one_hot([0, 1, 2, 3], 4)
    assert top_k_accuracy(np.zeros((4, 4), np.float32), labels, 1) == 0.25
    assert top_k_accuracy(np.zeros((4, 4), np.float32), labels, 3) == 0.75
    assert top_k_accuracy(np.zeros((4, 4), np.float32), labels, 5) == 1.0


def test_images_without_a_class_are_left_out_and_ignored_classes_do_not_compete():
    scores = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 0.9]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [-1, -1, -1], [0, 0, 0]], np.int8)
    assert top_k_accuracy(scores, labels) == 0.5
    labels[1, 0] = -1
    assert top_k_accuracy(scores, labels) == 1.0


def test_any_number_of_blocks_gives_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    scores, labels = rng.random((300, 6)), one_hot(rng.integers(6, size=300), 6)
    whole = top_k_accuracy(scores, labels, 2)
    monkeypatch.setattr(columns, "_BLOCK_ELEMENTS", 4 * 6 * 7)
    assert top_k_accuracy(scores, labels, 2) == whole


def test_nothing_to_count():
    assert np.isnan(top_k_accuracy(np.empty((0, 3)), np.empty((0, 3), np.int8)))
    assert np.isnan(top_k_accuracy(np.zeros((2, 3)), np.zeros((2, 3), np.int8)))
    assert np.isnan(top_k_accuracy(np.empty((2, 0)), np.empty((2, 0), np.int8)))


def test_several_classes_an_image_and_k_of_nought_are_refused():
    labels = np.array([[1, 1, 0], [1, 0, 0]], np.int8)
    with pytest.raises(UserError, match="more than one class is present in 1 of the first 2 images"):
        top_k_accuracy(np.zeros((2, 3)), labels)
    with pytest.raises(UserError, match="k must be 1 or more"):
        top_k_accuracy(np.zeros((2, 3)), labels, 0)
