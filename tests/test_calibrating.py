"""`manyhot calibrate` on a small run: what it stores, who uses it, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

import manyhot
from manyhot.calibrating import ThresholdRule, calibrate, held_out_error, summarize
from manyhot.cli import main
from manyhot.errors import UserError
from manyhot.inference.predict import Predictor
from manyhot.metrics.calibration import Calibration, expected_calibration_error, fit_isotonic
from manyhot.metrics.choosing import best_f1, wanted_precision, wanted_recall
from manyhot.models.bundle_config import read_config
from manyhot.predictions import Predictions


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line in this process, for starting another takes seconds: what it prints."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["manyhot", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert (stop.value.code or 0) == code, printed.err
        return printed.err if code else printed.out

    return call


@pytest.fixture(scope="module")
def trained(tiny_table: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrating") / "run"
    recipe = manyhot.load_recipe(str(tiny_recipe), ["training.epochs=2"])
    manyhot.train(recipe, manyhot.open_source(str(tiny_table)), out)
    manyhot.evaluate(out)
    manyhot.evaluate(out, "test")
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def metrics(folder: Path, split: str) -> dict:
    return json.loads((folder / "evaluation" / split / "metrics.json").read_text(encoding="utf-8"))


def config(folder: Path) -> dict:
    return json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))


RANKING = ("map", "map_interval", "map_voc07", "map_voc10", "mean_tail_accuracy", "tail_curve", "loss")


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_from_calibrating_to_evaluating_and_predicting(
    run, copy: Path, tiny_table: Path, tmp_path: Path, method: str
) -> None:
    former, first = {split: metrics(copy, split) for split in ("val", "test")}, config(copy)
    said = run("calibrate", copy, "--calibration", method)
    stored = config(copy)
    origin = {"split": "val", "n_images": 12}
    assert stored["calibration_from"].items() >= {**origin, "rule": method}.items()
    assert stored["thresholds_from"].items() >= {**origin, "rule": "best F1"}.items()
    kept = {"calibration", "calibration_from", "thresholds", "thresholds_from"}
    assert {k: v for k, v in stored.items() if k not in kept} == {k: v for k, v in first.items() if k not in kept}
    assert f"calibration: {method}" in said
    assert all(f"\n{name}" in said for name in ("red", "green", "blue"))

    calibration = Calibration.from_json(stored["calibration"])
    for split in ("val", "test"):
        said = run("evaluate", copy, "--split", split)
        got = metrics(copy, split)
        assert {key: got[key] for key in RANKING} == {key: former[split][key] for key in RANKING}
        assert [row["ap"] for row in got["classes"]] == [row["ap"] for row in former[split]["classes"]]
        assert [row["ece_uncalibrated"] for row in got["classes"]] == [row["ece"] for row in former[split]["classes"]]
        assert [row["threshold"] for row in got["classes"]] == stored["thresholds"]
        assert (got["calibration"], got["threshold_rule"]) == (method, "best F1, on split val")
        on_itself = split == "val"
        assert got["fitted_here"] == (["calibration", "thresholds"] if on_itself else [])
        report = (copy / "evaluation" / split / "report.html").read_text(encoding="utf-8")
        warned = "optimistic: these very pictures gave the calibration and thresholds\n" in said
        assert warned == on_itself == ("Optimistic: " in report)
        table = Predictions.load(copy / "evaluation" / split / "predictions.parquet")
        assert table.uncalibrated is not None
        np.testing.assert_array_equal(table.scores, calibration.apply(table.uncalibrated).astype(np.float32))
        assert list(table.thresholds or ()) == stored["thresholds"]

    out = tmp_path / "scores.parquet"
    run("predict", copy, tiny_table.parent / "30.png", "--out", out)
    scored, row = Predictions.load(out), Predictions.load(copy / "evaluation" / "val" / "predictions.parquet")
    place = row.ids.index(next(one for one in row.ids if "30" in one))
    np.testing.assert_allclose(scored.scores[0], row.scores[place], atol=1e-5)
    model = manyhot.load(copy)
    assert model.thresholds.tolist() == stored["thresholds"]
    again = model.predict(tiny_table.parent / "30.png")
    np.testing.assert_array_equal(again.scores, scored.scores)

    run("predict", copy, tiny_table.parent / "30.png", "--predicted", "--out", tmp_path / "scores.json")
    (listed,) = json.loads((tmp_path / "scores.json").read_text())
    above = scored.scores[0] > model.thresholds
    assert listed["predicted"] == [name for name, one in zip(model.classes, above, strict=True) if one]


def test_evaluating_twice_gives_the_same_bytes(copy: Path) -> None:
    calibrate(copy, calibration="isotonic")
    contents = []
    for _ in range(2):
        manyhot.evaluate(copy, "test", export="csv")
        folder = copy / "evaluation" / "test"
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]


def test_scores_of_the_same_pictures_are_used_again_and_others_are_not(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    whole = Predictor.predict_manifest
    monkeypatch.setattr(Predictor, "predict_manifest", lambda *a, **k: scored.append(1) or whole(*a, **k))
    first = calibrate(copy).config
    assert scored == []
    manyhot.evaluate(copy)  # calibrated scores, with those before beside them
    scored.clear()
    assert calibrate(copy).config == first
    assert scored == []
    path = copy / "evaluation" / "val" / "predictions.parquet"
    sound = Predictions.load(path)
    for change in ({"bundle_sha256": "0" * 64}, {"crops": "ten of them"}):
        Predictions(
            sound.ids, sound.splits, sound.ranking, sound.labels, sound.classes, sound.task, sound.source | change
        ).save(path)
        assert calibrate(copy).config == first
        assert scored.pop() == 1
    path.write_bytes(b"no table")
    assert calibrate(copy).config == first
    assert scored.pop() == 1


def test_none_takes_both_out(copy: Path) -> None:
    before = config(copy)
    calibrate(copy, thresholds="recall=0.5", confidence=0.6)
    assert config(copy) != before
    found = calibrate(copy, thresholds="none", calibration="none")
    assert config(copy) == before
    assert "thresholds: 0.5 for all classes, by the recipe\ncalibration: none" in summarize(found)


def test_what_cannot_be_promised_is_never_predicted_and_named(copy: Path) -> None:
    command = [sys.executable, "-m", "manyhot", "calibrate", copy, "--thresholds", "precision=0.9"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "never predicted, for no threshold of theirs keeps the rule: red, green, blue" in said
    assert config(copy)["thresholds"] == [1.0] * 3
    manyhot.evaluate(copy, "test")
    assert [row["precision"] for row in metrics(copy, "test")["classes"]] == [None] * 3
    report = (copy / "evaluation" / "test" / "report.html").read_text(encoding="utf-8")
    assert "3 classes (red, green, blue) never predicted: no threshold keeps the rule." in report


def test_a_bundle_of_the_first_format_still_loads(copy: Path, tiny_table: Path) -> None:
    path = copy / "model" / "config.json"
    new = {"thresholds_from", "calibration_from"}
    path.write_text(json.dumps({k: v for k, v in config(copy).items() if k not in new} | {"format": 1}))
    assert read_config(copy / "model").calibration is None
    assert metrics(copy, "val") == manyhot.evaluate(copy).metrics
    calibrate(copy)
    assert config(copy)["format"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calibration": {"method": "magic"}}, "no calibration 'magic'"),
        ({"calibration": {}}, "not a calibration"),
        ({"calibration": {"method": "temperature", "temperatures": [1.0]}}, "for 1 classes"),
        ({"calibration": {"method": "temperature", "temperatures": [1.0, -1.0, 1.0]}}, "above 0"),
        ({"calibration": {"method": "isotonic", "knots": [{"score": [0, 1], "calibrated": [1, 0]}] * 3}}, "rise"),
        ({"calibration": "warm"}, "calibration"),
        ({"thresholds": [0.5]}, "3 finite numbers"),
        ({"thresholds": [0.5, 0.5, float("nan")]}, "3 finite numbers"),
        ({"thresholds_from": {"rule": "luck"}}, "thresholds_from"),
    ],
)
def test_a_damaged_bundle_is_refused_in_words(copy: Path, change: dict, words: str) -> None:
    path = copy / "model" / "config.json"
    path.write_text(json.dumps(config(copy) | change))
    with pytest.raises(UserError, match=words) as caught:
        manyhot.load(copy)
    assert "config.json" in str(caught.value)


def test_the_command_line_refuses_in_one_line(run, copy: Path, tmp_path: Path) -> None:
    before = config(copy)
    for arguments, words in (
        (["--thresholds", "best"], "--thresholds best is no rule"),
        (["--thresholds", "f1", "--confidence", "0.9"], "--confidence has no effect"),
        (["--split", "none"], "split 'none' holds no images"),
        (["--source", "voc"], "--source says how to read --data"),
    ):
        said = run("calibrate", copy, *arguments, code=2)
        assert said.startswith("error: ")
        assert words in said
    assert "holds no run" in run("calibrate", tmp_path, code=2)
    assert config(copy) == before


def test_the_train_split_gives_a_warning(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    calibrate(copy, "train")
    assert "was trained on" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_kill_while_writing_leaves_the_former_bundle(copy: Path) -> None:
    before = config(copy)
    code = (
        "import os, signal, sys; from pathlib import Path; from manyhot.calibrating import calibrate\n"
        "Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)\n"
        "calibrate(sys.argv[1])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(copy)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert config(copy) == before
    manyhot.load(copy)
    calibrate(copy)
    assert config(copy)["calibration"]["method"] == "temperature"
    assert sorted(path.name for path in (copy / "model").iterdir()) == [
        "MODEL_CARD.md",
        "config.json",
        "weights.safetensors",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "F1", "f1=0.5", "precision", "precision=", "precision=x", "recall=0", "recall=1.5", "none=1", "precision=nan"],
)
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        ThresholdRule.parse(text)


def test_rules_as_they_are_written() -> None:
    assert ThresholdRule.parse("none") is None
    assert ThresholdRule.parse("f1") == ThresholdRule("f1")
    assert ThresholdRule.parse("precision=0.8") == ThresholdRule("precision", 0.8, 0.9)
    assert ThresholdRule.parse("recall=0.8", 0.5) == ThresholdRule("recall", 0.8, 0.5)
    with pytest.raises(UserError, match="confidence"):
        ThresholdRule.parse("recall=0.8", 1.0)


def drawn(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < [0.5, 0.2, 0.02]).astype(np.int8)
    scores = (1 / (1 + np.exp(-1.5 * (rng.normal(size=labels.shape) + 3 * labels - 1)))).astype(np.float32)
    labels[rng.random(labels.shape) < 0.05] = -1
    return scores, labels


@pytest.mark.parametrize("name", ["precision", "recall"])
def test_promises_are_made_before_calibration_and_kept_after(name: str) -> None:
    scores, labels = drawn(1)
    rule = ThresholdRule.parse(f"{name}=0.85")
    assert rule is not None
    chooser = wanted_precision if name == "precision" else wanted_recall
    before = chooser(scores, labels, 0.85)
    same = rule.choose(scores, scores, labels)
    for got, wanted in (
        (same.thresholds, before.thresholds),
        (same.achieved, before.achieved),
        (same.bound, before.bound),
    ):
        np.testing.assert_allclose(got, wanted)
    calibrated = fit_isotonic(scores, labels).apply(scores).astype(np.float32)
    after = rule.choose(scores, calibrated, labels)
    for c in np.flatnonzero(~np.isnan(after.thresholds)):
        was, now = scores[:, c] > before.thresholds[c], calibrated[:, c] > after.thresholds[c]
        assert (now <= was).all() if name == "precision" else (now >= was).all()
        known = labels[:, c] >= 0
        right = (now & (labels[:, c] == 1)).sum()
        achieved = right / (now & known).sum() if name == "precision" else right / (labels[:, c] == 1).sum()
        assert after.achieved[c] == pytest.approx(achieved)
        assert 0.85 <= after.bound[c] <= after.achieved[c]


def test_the_best_f1_is_searched_among_calibrated_scores() -> None:
    scores, labels = drawn(2)
    calibrated = fit_isotonic(scores, labels).apply(scores).astype(np.float32)
    got, wanted = ThresholdRule("f1").choose(scores, calibrated, labels), best_f1(calibrated, labels)
    np.testing.assert_array_equal(got.thresholds, wanted.thresholds)


def test_the_held_out_error_is_that_of_fits_on_the_other_folds() -> None:
    scores, labels = drawn(3, 90)
    fold = np.random.default_rng(0).permutation(90) % 5
    expected = np.zeros(scores.shape)
    for k in range(5):
        for c in range(3):
            fitted = (fold != k) & (labels[:, c] >= 0)
            x, y = scores[fitted, c].astype(np.float64), labels[fitted, c].astype(np.float64)
            one = IsotonicRegression(out_of_bounds="clip").fit(x, y)
            kept = 0 < y.mean() < 1
            new = scores[fold == k, c].astype(np.float64)
            expected[fold == k, c] = one.predict(new) if kept else new
    got = held_out_error(fit_isotonic, scores, labels)
    np.testing.assert_allclose(got, expected_calibration_error(expected, labels), atol=1e-12)
