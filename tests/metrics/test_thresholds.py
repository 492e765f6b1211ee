from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import fbeta_score, multilabel_confusion_matrix, precision_score, recall_score

from manyhot.errors import UserError
from manyhot.metrics import columns
from manyhot.metrics.thresholds import f_beta, threshold_counts


@st.composite
def tables(draw, labels=(-1, 0, 1), min_images=0, min_classes=1):
    shape = (draw(st.integers(min_images, 25)), draw(st.integers(min_classes, 5)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 10))).astype(dtype) / dtype(10)
    return scores, draw(hnp.arrays(np.int8, shape, elements=st.sampled_from(labels)))


betas = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@given(tables(), st.data())
def test_counts_equal_a_loop(table, data):
    scores, labels = table
    n_classes = scores.shape[1]
    thresholds = data.draw(st.lists(st.integers(0, 10), min_size=n_classes, max_size=n_classes))
    thresholds = [t / 10 for t in thresholds]
    counts = threshold_counts(scores, labels, thresholds)
    for c, t in enumerate(thresholds):
        pairs = [(float(f) > t, int(y)) for f, y in zip(scores[:, c], labels[:, c], strict=True)]
        got = (counts.tp[c], counts.fp[c], counts.fn[c], counts.tn[c])
        assert got == tuple(pairs.count(kind) for kind in [(True, 1), (True, 0), (False, 1), (False, 0)])


@given(tables(labels=(0, 1), min_images=1, min_classes=2), betas)
def test_precision_recall_and_f_equal_scikit_learn_class_by_class(table, beta):
    scores, labels = table
    counts, predicted = threshold_counts(scores, labels, 0.45), scores > 0.45
    matrix = multilabel_confusion_matrix(labels, predicted)
    np.testing.assert_array_equal(np.stack([counts.tn, counts.fp, counts.fn, counts.tp], 1), matrix.reshape(-1, 4))
    options = {"average": None, "zero_division": np.nan}
    np.testing.assert_allclose(counts.precision(), precision_score(labels, predicted, **options), atol=1e-15)
    np.testing.assert_allclose(counts.recall(), recall_score(labels, predicted, **options), atol=1e-15)
    if beta:  # at 0, scikit-learn returns the precision; so do we
        wanted = fbeta_score(labels, predicted, beta=beta, **options)
        np.testing.assert_allclose(counts.f_beta(beta), wanted, atol=1e-15)
    else:
        np.testing.assert_array_equal(counts.f_beta(0), counts.precision())
    assert counts.accuracy() == pytest.approx((labels == predicted).mean(), abs=1e-15)


@given(
    tables(labels=(0, 1), min_images=1, min_classes=2),
    betas,
    st.sampled_from(["macro", "micro", "samples"]),
    st.sampled_from([0.0, 1.0]),
)
def test_f_beta_equals_scikit_learn(table, beta, average, zero_division):
    scores, labels = table
    wanted = fbeta_score(labels, scores > 0.45, beta=beta, average=average, zero_division=zero_division)
    assert f_beta(scores, labels, 0.45, beta, average, zero_division) == pytest.approx(wanted, abs=1e-14)


@given(tables(), betas, st.sampled_from(["macro", "micro", "samples"]), st.sampled_from([0.0, 1.0, np.nan]))
def test_f_beta_with_ignored_entries_is_scikit_learn_on_what_is_left(table, beta, average, zero_division):
    scores, labels = table
    thresholds = np.linspace(0.2, 0.7, scores.shape[1])
    predicted, known = (scores > thresholds).astype(int), labels != -1
    if average == "micro":
        parts = [(labels[known], predicted[known])]
    elif average == "macro":
        parts = [(labels[k, c], predicted[k, c]) for c, k in enumerate(known.T)]
    else:
        parts = [(labels[i, k], predicted[i, k]) for i, k in enumerate(known)]
    values = [fbeta_score(y, p, beta=beta, zero_division=zero_division) for y, p in parts if y.size]
    values = [value for value in values if not np.isnan(value)]
    got = f_beta(scores, labels, thresholds, beta, average, zero_division)
    if values:
        assert got == pytest.approx(np.mean(values), abs=1e-14)
    else:
        assert np.isnan(got)


@given(tables(), st.randoms(use_true_random=False), st.sampled_from(["macro", "micro", "samples"]))
def test_the_order_of_images_does_not_matter(table, random, average):
    scores, labels = table
    order = list(range(len(scores)))
    random.shuffle(order)
    a, b = f_beta(scores, labels, average=average), f_beta(scores[order], labels[order], average=average)
    assert a == pytest.approx(b, abs=1e-14, nan_ok=True)


def test_samples_are_the_same_in_any_number_of_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 7)), rng.integers(-1, 2, (200, 7)).astype(np.int8)
    whole = f_beta(scores, labels, average="samples")
    monkeypatch.setattr(columns, "_BLOCK_ELEMENTS", 4 * 7 * 9)
    assert f_beta(scores, labels, average="samples") == whole


def test_a_float32_score_is_compared_with_the_threshold_that_was_asked_for():
    # float32(0.3) is more than 0.3, float32(0.7) less than 0.7; comparing in float32 would call both equal.
    scores = np.array([[0.3, 0.7]], np.float32)
    labels = np.ones((1, 2), np.int8)
    assert threshold_counts(scores, labels, [0.3, 0.7]).tp.tolist() == [1, 0]
    assert threshold_counts(scores[:, :1], labels[:, :1], 0.3).tp.tolist() == [1]
    assert f_beta(scores[:, :1], labels[:, :1], 0.3, average="samples") == 1.0


def test_undefined_where_nothing_is_known():
    scores, labels = np.full((3, 2), 0.9, np.float32), np.array([[-1, 0], [-1, 0], [-1, 1]], np.int8)
    counts = threshold_counts(scores, labels)
    np.testing.assert_array_equal(counts.precision(), [np.nan, 1 / 3])
    np.testing.assert_array_equal(counts.recall(), [np.nan, 1])
    np.testing.assert_array_equal(counts.f_beta(1), [np.nan, 0.5])
    assert f_beta(scores, labels, beta=1) == 0.5
    nothing = np.full((3, 2), -1, np.int8)
    assert np.isnan(threshold_counts(scores, nothing).accuracy())
    for average in ("macro", "micro", "samples"):
        assert np.isnan(f_beta(scores, nothing, average=average))
        assert np.isnan(f_beta(scores[:0], nothing[:0], average=average))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": [0.5, 0.5]}, r"each of 3 classes, not \[2\]"),
        ({"thresholds": np.nan}, "NaN or infinite"),
        ({"beta": -1.0}, "beta must be"),
        ({"beta": np.inf}, "beta must be"),
        ({"average": "marco"}, "Did you mean 'macro'"),
    ],
)
def test_options_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        f_beta(np.zeros((2, 3)), np.zeros((2, 3), np.int8), **arguments)


def test_values_and_shapes_are_checked():
    with pytest.raises(UserError, match="class 2 has 1 of 2 scores"):
        f_beta(np.array([[0, 0, np.inf], [0, 0, 0]]), np.zeros((2, 3), np.int8), average="samples")
    with pytest.raises(UserError, match=r"\[images, classes\]"):
        threshold_counts(np.zeros(3), np.zeros(3, np.int8))
