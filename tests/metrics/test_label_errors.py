from __future__ import annotations

import numpy as np
import pytest
from cleanlab.count import compute_confident_joint, num_label_issues
from cleanlab.filter import find_label_issues
from cleanlab.internal.multilabel_utils import onehot2int, stack_complement
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.errors import UserError
from manyhot.metrics.label_errors import find_label_errors, self_confidence


@st.composite
def tables(draw, labels=(-1, 0, 1), min_images=0, eighths=(0, 8)):
    """Scores in eighths, of 0 to 1 or fewer, which sums and complements keep exact: ties are ties everywhere."""
    shape = (draw(st.integers(min_images, 25)), draw(st.integers(1, 5)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(*eighths))).astype(dtype) / dtype(8)
    return scores, draw(hnp.arrays(np.int8, shape, elements=st.sampled_from(labels)))


def flags(found, shape):
    result = np.zeros(shape, bool)
    result[found.images[found.flagged], found.classes[found.flagged]] = True
    return result


def noisy_table(seed, n_images=400, n_classes=6):
    """Scores of uneven quality for classes from rare to frequent, and labels of which 5 % are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n_images, n_classes)) < np.geomspace(0.02, 0.6, n_classes)
    logits = rng.normal(size=truth.shape) * np.linspace(0.5, 2, n_classes) + 4 * truth - 2.5
    wrong = rng.random(truth.shape) < 0.05
    return 1 / (1 + np.exp(-logits)), (truth ^ wrong).astype(np.int8), wrong


@given(tables(), st.integers(1, 40))
def test_the_most_suspect_alone_are_the_beginning_of_all(table, most):
    scores, labels = table
    every, some = find_label_errors(scores, labels), find_label_errors(scores, labels, most)
    for name in ("images", "classes", "suspicion", "flagged"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[:most])
    np.testing.assert_array_equal(some.joint, every.joint)


@pytest.mark.parametrize("seed", range(5))
def test_joint_flags_and_self_confidence_equal_cleanlab(seed):
    scores, labels, _ = noisy_table(seed)
    found = find_label_errors(scores, labels)
    lists = onehot2int(labels)
    wanted = find_multilabel_issues_per_class(lists, scores, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(flags(found, labels.shape), wanted)
    joint = compute_confident_joint(lists, scores, multi_label=True, calibrate=False)
    np.testing.assert_array_equal(found.joint, joint)
    assert (found.joint.diagonal(axis1=1, axis2=2) > 1).all(), "below 1, cleanlab writes 1"
    quality = get_label_quality_scores_per_class(lists, scores)
    np.testing.assert_allclose(self_confidence(scores, labels), quality, atol=1e-15)
    for c in range(labels.shape[1]):
        issues = num_label_issues(labels[:, c], stack_complement(scores[:, c]), estimation_method="off_diagonal")
        assert issues == found.n_missing[c] + found.n_wrong[c]


@given(tables())
def test_each_class_equals_cleanlab_on_its_known_entries(table):
    scores, labels = table
    found = find_label_errors(scores, labels)
    flagged = flags(found, labels.shape)
    assert not flagged[labels == -1].any()
    for c in range(labels.shape[1]):
        known = labels[:, c] != -1
        s, y = scores[known, c].astype(np.float64), labels[known, c].astype(int)
        if set(y) != {0, 1}:
            continue
        # An even chance is nobody's choice: cleanlab counts it as absent whatever the label, we as the label given.
        if (s == 0.5).any() and (found.thresholds[c] <= 0.5 + 1e-6).all():
            continue
        wanted = find_label_issues(y, stack_complement(s), filter_by="confident_learning", n_jobs=1)
        np.testing.assert_array_equal(flagged[known, c], wanted)
        joint = compute_confident_joint(y, stack_complement(s), calibrate=False)
        np.testing.assert_array_equal(np.maximum(found.joint[c], np.eye(2)), joint)


@given(tables())
def test_all_known_entries_are_ranked_and_no_other(table):
    scores, labels = table
    found = find_label_errors(scores, labels)
    assert len(found) == (labels != -1).sum()
    assert set(zip(found.images, found.classes, strict=True)) == set(zip(*np.nonzero(labels != -1), strict=True))
    assert (np.diff(found.suspicion) <= 0).all()
    assert np.isfinite(found.suspicion).all()
    for label, counts in ((0, found.n_missing), (1, found.n_wrong)):
        np.testing.assert_array_equal(counts, (flags(found, labels.shape) & (labels == label)).sum(axis=0))


@given(tables(eighths=(1, 7)))
def test_suspicion_is_the_log_odds_of_an_error_by_bayes_rule(table):
    scores, labels = table
    found = find_label_errors(scores, labels)
    for i, c, suspicion in zip(found.images, found.classes, found.suspicion, strict=True):
        p, miss, wrong = float(scores[i, c]), found.missing_rate[c], found.wrong_rate[c]
        # joint chances of (true label, given label)
        if labels[i, c] == 1:
            error, right = (1 - p) * wrong, p * (1 - miss)
        else:
            error, right = p * miss, (1 - p) * (1 - wrong)
        assert suspicion == pytest.approx(np.log(error / right), abs=1e-9)


@given(tables())
def test_rates_lie_between_errors_everywhere_alike_and_errors_by_the_rarer_label(table):
    scores, labels = table
    found = find_label_errors(scores, labels)
    corrected = np.where(flags(found, labels.shape), 1 - labels, labels)
    rarer = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0)) + 1
    for label, flagged, rates in ((1, found.n_missing, found.missing_rate), (0, found.n_wrong, found.wrong_rate)):
        total = flagged.sum() + 1
        everywhere = total / ((corrected == label).sum() + 2)
        for c, rate in enumerate(rates):
            expected = total * rarer[c] / rarer.sum()
            by_rarer = expected / ((labels[:, c] == label).sum() + 1 + expected)
            assert rate == pytest.approx(np.sqrt(everywhere * by_rarer))
            assert 0 < rate < 1


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(table, random):
    scores, labels = table
    order = list(range(len(scores)))
    random.shuffle(order)
    a, b = find_label_errors(scores, labels), find_label_errors(scores[order], labels[order])
    np.testing.assert_array_equal(flags(a, labels.shape)[order], flags(b, labels.shape))
    np.testing.assert_array_equal(a.suspicion, b.suspicion)
    np.testing.assert_array_equal(a.joint, b.joint)


@given(tables())
def test_the_complement_swaps_the_directions(table):
    scores, labels = table
    turned = np.where(labels == -1, -1, 1 - labels).astype(np.int8)
    a, b = find_label_errors(scores, labels), find_label_errors(1 - scores, turned)
    np.testing.assert_array_equal(flags(a, labels.shape), flags(b, labels.shape))
    np.testing.assert_array_equal(a.n_missing, b.n_wrong)
    np.testing.assert_array_equal(a.joint, b.joint[:, ::-1, ::-1])
    np.testing.assert_allclose(a.thresholds, b.thresholds[:, ::-1])
    np.testing.assert_array_equal(a.missing_rate, b.wrong_rate)
    np.testing.assert_array_equal(a.wrong_rate, b.missing_rate)
    np.testing.assert_allclose(a.suspicion, b.suspicion, atol=1e-6)


@given(tables(), st.integers(0, 3))
def test_where_every_label_is_the_likelier_one_nothing_is_flagged(table, doubt):
    _, labels = table
    scores = np.where(labels == 1, 1 - doubt / 8, doubt / 8)
    found = find_label_errors(scores, labels)
    assert not found.flagged.any()
    assert (found.n_missing.sum(), found.n_wrong.sum()) == (0, 0)


def test_classes_without_one_of_the_labels():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.5], [0.1, 0.9, 0.5]])
    labels = np.array([[0, 1, -1], [0, 1, -1], [0, 1, -1]], np.int8)
    found = find_label_errors(scores, labels)
    assert found.thresholds[0].tolist() == [pytest.approx(0.6), np.inf]
    assert found.thresholds[1].tolist() == [np.inf, pytest.approx(0.6)]
    assert found.thresholds[2].tolist() == [np.inf, np.inf]
    assert found.joint.tolist() == [[[2, 0], [0, 0]], [[0, 0], [0, 2]], [[0, 0], [0, 0]]]
    assert not found.flagged.any()
    assert list(zip(found.images[:2], found.classes[:2], strict=True)) == [(0, 0), (0, 1)]


def test_planted_errors_come_first():
    recalls = []
    for seed in range(5):
        scores, labels, wrong = noisy_table(seed)
        found = find_label_errors(scores, labels)
        first = np.arange(len(found)) < len(found) // 10
        recalls.append(wrong[found.images[first], found.classes[first]].sum() / wrong.sum())
    assert np.mean(recalls) > 0.6


def test_errors_as_many_in_both_directions_are_ranked_better_than_by_self_confidence():
    """A rare class: where few of the many absent are wrong, a low score of a present one says less."""
    gains = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = rng.random((4000, 3)) < 0.05
        p = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) * 1.5 + 4 * truth - 4)))
        wrong = rng.random(truth.shape) < np.where(truth, 0.1, 0.1 * 0.05 / 0.95)
        labels = (truth ^ wrong).astype(np.int8)
        found, n = find_label_errors(p, labels), int(wrong.sum())
        ours = wrong[found.images[:n], found.classes[:n]].mean()
        least = np.argsort(self_confidence(p, labels), axis=None)[:n]
        gains.append(ours - wrong.ravel()[least].mean())
    assert np.mean(gains) > 0.03


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_scores_that_are_no_probabilities(value):
    with pytest.raises(UserError, match="class 1"):
        find_label_errors(np.array([[0.5, value]]), np.zeros((1, 2), np.int8))
