"""The running window, by scikit-learn on the pictures that it holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, fbeta_score

from manyhot.metrics.window import RunningWindow


def batches(seed, sizes, n_classes=3):
    rng = np.random.default_rng(seed)
    for size in sizes:
        yield rng.random((size, n_classes)).astype(np.float32), rng.integers(0, 2, (size, n_classes)).astype(np.int8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_the_window_is_the_last_pictures(seed, sizes, size):
    window = RunningWindow(size)
    every = list(batches(seed, sizes))
    for i, (scores, labels) in enumerate(every):
        window.add(scores, labels, loss=float(i))
    scores, labels = (np.concatenate(part)[-size:] for part in zip(*every, strict=True))
    assert len(window) == len(scores)
    values = window.values()
    assert set(values) == {f"loss/window_{size}", f"mAP/window_{size}", f"F2/window_{size}"}
    ap = [average_precision_score(labels[:, c], scores[:, c]) for c in range(3) if labels[:, c].any()]
    found = values[f"mAP/window_{size}"]
    assert (found is None) == (not ap)
    assert found is None or found == pytest.approx(np.mean(ap))
    expected = fbeta_score(labels, scores > 0.5, beta=2, average="macro", zero_division=0)
    assert values[f"F2/window_{size}"] == pytest.approx(expected)
    held, needed = [], size
    for i, (own, _) in reversed(list(enumerate(every))):
        if needed > 0:
            held += [float(i)] * len(own)
            needed -= len(own)
    assert values[f"loss/window_{size}"] == pytest.approx(np.mean(held))


def test_ignored_labels_take_no_part_and_nothing_is_nothing():
    window = RunningWindow(10)
    assert set(window.values().values()) == {None}
    window.add(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int8), 1.0)
    assert len(window) == 0
    scores = np.array([[0.9, 0.1], [0.8, 0.7]], np.float32)
    window.add(scores, np.array([[1, -1], [-1, -1]], np.int8), 0.5)
    assert window.values() == {"loss/window_10": 0.5, "mAP/window_10": 1.0, "F2/window_10": 1.0}


def test_what_is_added_is_kept_as_it_was():
    scores, labels = next(batches(1, [4]))
    window = RunningWindow(4)
    window.add(scores, labels, 0.1)
    before = window.values()
    scores[:] = 0
    assert window.values() == before
