from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, fbeta_score, top_k_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from manyhot.errors import UserError
from manyhot.metrics.bootstrap import bootstrap_ap
from manyhot.metrics.calibration import expected_calibration_error
from manyhot.metrics.summary import measure

CLASSES = ("bird", "cat", "dog", "horse", "sheep", "sofa")


@pytest.fixture
def table():
    rng = np.random.default_rng(7)
    labels = (rng.random((300, 6)) < 0.3).astype(np.int8)
    scores = (1 / (1 + np.exp(-2 * rng.normal(size=labels.shape) - labels))).astype(np.float32)
    return scores, labels


def plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(plain(item) for item in value)
    return value is None or type(value) in (int, float, str)


def test_the_numbers_are_scikit_learns(table):
    scores, labels = table
    got = measure(scores, labels, CLASSES, thresholds=0.4, beta=1.5, average="samples")
    ap = average_precision_score(labels, scores, average=None)
    assert got["n_images"] == 300
    assert [row["name"] for row in got["classes"]] == list(CLASSES)
    assert [row["ap"] for row in got["classes"]] == pytest.approx(ap, abs=1e-12)
    assert got["map"] == pytest.approx(ap.mean(), abs=1e-12)
    assert got["n_classes_in_map"] == 6
    assert got["accuracy"] == pytest.approx(accuracy_score(labels.ravel(), scores.ravel() > 0.4))
    wanted = fbeta_score(labels, scores > 0.4, beta=1.5, average="samples", zero_division=0)
    assert got["f_beta"] == {"beta": 1.5, "average": "samples", "value": pytest.approx(wanted)}
    f1 = fbeta_score(labels, scores > 0.4, beta=1, average=None)
    assert [row["f1"] for row in got["classes"]] == pytest.approx(f1)
    assert {row["threshold"] for row in got["classes"]} == {0.4}


def test_means_are_the_means_of_the_columns(table):
    got = measure(*table, CLASSES)
    for whole, part in [("map", "ap"), ("map_voc07", "ap_voc07"), ("map_voc10", "ap_voc10")]:
        assert got[whole] == pytest.approx(np.mean([row[part] for row in got["classes"]]))
    tails = [row["tail_accuracy"] for row in got["classes"]]
    assert got["mean_tail_accuracy"] == pytest.approx(np.mean(tails))
    curve = got["tail_curve"]
    assert len(curve["threshold"]) == len(curve["mean"]) == len(curve["n"])
    assert curve["n"][0] == 6
    assert curve["mean"][0] == pytest.approx(np.mean([row["precision"] for row in got["classes"]]))


def test_it_is_plain_json_with_null_where_undefined(table):
    scores, labels = table
    labels[:, 1] = -1
    labels[:, 2] = 0
    scores[:, 3] = 0.1
    got = measure(scores, labels, CLASSES, thresholds=np.full(6, 0.5))
    assert plain(got)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    _, ignored, absent, low, *_ = got["classes"]
    assert [ignored[key] for key in ("ap", "precision", "recall", "f1", "tail_accuracy")] == [None] * 5
    assert ignored["n_ignored"] == 300
    assert (absent["ap"], absent["recall"], absent["precision"], absent["f1"]) == (None, None, 0.0, 0.0)
    assert (low["precision"], low["recall"], low["f1"], low["tail_accuracy"]) == (None, 0.0, 0.0, None)
    assert got["n_classes_in_map"] == 4


def test_no_images_give_nulls_not_errors():
    got = measure(np.empty((0, 6), np.float32), np.empty((0, 6), np.int8), CLASSES, task="multiclass")
    json.dumps(got, allow_nan=False)
    assert got["n_images"] == got["n_classes_in_map"] == 0
    undefined = ("map", "map_voc07", "map_voc10", "accuracy", "mean_tail_accuracy", "top1", "top5")
    assert [got[key] for key in undefined] == [None] * 7
    assert got["f_beta"]["value"] is None
    assert set(got["tail_curve"]["mean"]) == {None}


def test_multiclass_adds_top_1_and_top_5_and_the_confusion_matrix():
    rng = np.random.default_rng(3)
    targets = rng.integers(6, size=100)
    labels, scores = np.eye(6, dtype=np.int8)[targets], rng.dirichlet(np.ones(6), 100).astype(np.float32)
    got = measure(scores, labels, CLASSES, task="multiclass")
    for k in (1, 5):
        assert got[f"top{k}"] == pytest.approx(top_k_accuracy_score(targets, scores, k=k, labels=np.arange(6)))
    assert got["confusion"] == sklearn_confusion(targets, scores.argmax(axis=1), labels=np.arange(6)).tolist()
    assert not {"top1", "confusion"} & set(measure(scores, labels, CLASSES))


def test_what_does_not_fit_is_refused(table):
    scores, labels = table
    with pytest.raises(UserError, match="5 class names for 6 columns"):
        measure(scores, labels, CLASSES[:5])
    with pytest.raises(UserError, match="Did you mean 'multilabel'"):
        measure(scores, labels, CLASSES, task="multi-label")
    with pytest.raises(UserError, match="more than one class is present"):
        measure(scores, labels, CLASSES, task="multiclass")
    with pytest.raises(UserError, match=r"\[300, 6\] and \[299, 6\]"):
        measure(scores, labels[1:], CLASSES)
    with pytest.raises(UserError, match="there is no average"):
        measure(scores, labels, CLASSES, average="weighted")


def test_every_key_is_documented(table):
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rng = np.random.default_rng(0)
    got = measure(rng.random((4, 6)), np.eye(6, dtype=np.int8)[:4], CLASSES, task="multiclass")
    keys = [*got, *got["classes"][0], *got["f_beta"], *got["tail_curve"]]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_calibrated_scores_are_ranked_by_those_before(table):
    scores, labels = table
    plain, calibrated = measure(scores, labels, CLASSES), scores.round(1)
    got = measure(calibrated, labels, CLASSES, ranking=scores, thresholds=0.4)
    alone = measure(calibrated, labels, CLASSES, thresholds=0.4)
    for key in ("map", "map_voc07", "map_voc10", "mean_tail_accuracy", "tail_curve"):
        assert got[key] == plain[key] != alone[key]
    for key in ("accuracy", "f_beta", "mean_ece"):
        assert got[key] == alone[key] != plain[key]
    assert (got["mean_ece_uncalibrated"], alone["mean_ece_uncalibrated"]) == (plain["mean_ece"], None)
    errors = expected_calibration_error(calibrated, labels)
    assert [row["ece"] for row in got["classes"]] == errors.tolist()
    assert got["mean_ece"] == pytest.approx(errors.mean())


def test_intervals_are_the_bootstraps(table):
    scores, labels = table
    labels[:, 2] = 0
    got, wanted = measure(scores, labels, CLASSES, resamples=200), bootstrap_ap(scores, labels, resamples=200)
    assert got["resamples"] == 200
    assert got["map_interval"] == [wanted.map_low, wanted.map_high]
    assert got["map_interval"][0] < got["map"] < got["map_interval"][1]
    for c, row in enumerate(got["classes"]):
        assert row["ap_interval"] == (None if c == 2 else [wanted.low[c], wanted.high[c]])
    none = measure(scores, labels, CLASSES)
    assert (none["resamples"], none["map_interval"], none["classes"][0]["ap_interval"]) == (0, None, None)
    with pytest.raises(UserError, match="100 resamples"):
        measure(scores, labels, CLASSES, resamples=50)


def test_scores_that_are_no_probabilities_are_refused(table):
    scores, labels = table
    with pytest.raises(UserError, match="outside 0…1"):
        measure(scores * 2, labels, CLASSES)
