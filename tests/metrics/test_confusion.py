"""The confusion matrix against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from manyhot.errors import UserError
from manyhot.metrics.confusion import confusion_matrix, most_confused
from manyhot.metrics.topk import top_k_accuracy


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 7), st.integers(0, 999), st.booleans())
def test_equals_scikit_learns(n, n_classes, seed, tied):
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n)
    scores = rng.normal(size=(n, n_classes)).astype(np.float32)
    scores = np.round(scores) if tied else scores
    labels = np.eye(n_classes, dtype=np.int8)[truth]
    found = confusion_matrix(scores, labels)
    wanted = np.zeros_like(found)
    if n:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A single label was found")
            wanted = sklearn_metrics.confusion_matrix(truth, scores.argmax(axis=1), labels=np.arange(n_classes))
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.int64
    if n and not tied:
        assert np.trace(found) / n == pytest.approx(top_k_accuracy(scores, labels, 1))


def test_what_is_not_known_is_left_out():
    scores = np.array([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.5, 0.3, 0.1]], np.float32)
    labels = np.array([[-1, 1, 0], [0, 0, 0], [0, 1, -1]], np.int8)
    assert confusion_matrix(scores, labels).tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_two_classes_in_an_image_are_refused():
    with pytest.raises(UserError, match="more than one class is present in 1"):
        confusion_matrix(np.zeros((1, 2), np.float32), np.ones((1, 2), np.int8))


def test_the_most_confused_pairs_come_first_and_right_ones_never():
    counts = np.array([[9, 2, 0], [5, 8, 2], [0, 0, 7]])
    assert most_confused(counts, 2) == [(1, 0), (0, 1)]
    assert most_confused(counts, 99) == [(1, 0), (0, 1), (1, 2)]
    assert most_confused(np.eye(3, dtype=np.int64), 5) == []
