"""The report from the outside: what a reader finds in the folder."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Manifest, Row
from manyhot.metrics.summary import measure
from manyhot.predictions import Predictions
from manyhot.report import plots
from manyhot.report.page import write_report

HOSTILE = '<img src=x onerror="alert(1)">'
CLASSES = ("cat", "dog & wolf", HOSTILE, "cost $x^2$", "猫", "absent\x07everywhere")


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._skip = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skip = tag if tag in ("style", "script") else self._skip

    def handle_endtag(self, tag):
        self._skip = "" if tag == self._skip else self._skip

    def handle_data(self, data):
        if not self._skip:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def table(n: int = 30, classes: tuple[str, ...] = CLASSES, task: str = "multilabel") -> Predictions:
    random = np.random.default_rng(4)
    if task == "multiclass":
        labels = np.eye(len(classes), dtype=np.int8)[random.integers(len(classes), size=n)]
    else:
        labels = (random.random((n, len(classes))) < 0.3).astype(np.int8)
        labels[random.random(labels.shape) < 0.05] = -1
        labels[:, -1] = 0
    scores = random.random(labels.shape).astype(np.float32)
    if task == "multiclass":
        scores /= scores.sum(axis=1, keepdims=True)
    ids = tuple(f"pic-{i:03d}" for i in range(n))
    return Predictions(ids, ("val",) * n, scores, labels, classes, task, {"crops": "centre"})


def pictures(root: Path, predictions: Predictions) -> Manifest:
    root.mkdir(exist_ok=True)
    rows = []
    for i, (id_, labels) in enumerate(zip(predictions.ids, predictions.labels, strict=True)):
        Image.new("RGB", (90 + i, 60), (8 * i, 90, 200 - 5 * i)).save(root / f"{id_}.png")
        rows.append(Row(id_, f"{id_}.png", "val", labels.tolist()))
    task = "multiclass" if predictions.task == "multiclass" else "multilabel"
    return Manifest.from_rows(root, predictions.classes, rows, task=task, label_rule="made up")


def measured(predictions: Predictions) -> dict:
    task = "multiclass" if predictions.task == "multiclass" else "multilabel"
    metrics = measure(predictions.scores, predictions.labels, predictions.classes, task=task)
    metrics |= {"loss": 0.25, "label_rule": "made up", "crops": None, "bundle_sha256": "ab12" * 16}
    return json.loads(json.dumps(metrics))


def history(epochs: int) -> list[dict]:
    return [
        {"epoch": e, "train_loss": 1 / e, "val_loss": 1.1 / e, "val_map": 1 - 0.9 / e, "lr": 10.0**-e, "seconds": 2.0}
        for e in range(1, epochs + 1)
    ]


def report(folder: Path, predictions: Predictions, manifest: Manifest | None = None, **changes) -> str:
    given = {"metrics": measured(predictions), "history": history(3), "title": "A run", "facts": [("Seed", "42")]}
    path = write_report(folder, predictions=predictions, manifest=manifest, **(given | changes))
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def tiles(text: str, end: str, name: str) -> list[str]:
    """Ids at one end of one class's ranking, in order."""
    page = Page(text)
    found: list[str] = []
    inside = False
    for tag, attributes in page.tags:
        if tag == "ol":
            inside = attributes["aria-label"] == f"{end}: {name}"
        elif tag == "li" and inside:
            found.append(str(attributes["title"]))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("report")
    predictions = table()
    return folder, report(folder / "out", predictions, pictures(folder / "pictures", predictions))


def test_nothing_is_fetched_from_outside(whole):
    _, text = whole
    assert not re.findall(r"(?:https?:)?//[a-z0-9]", re.sub(r"base64,[^\"]+", "", text), flags=re.IGNORECASE)
    for tag, attributes in Page(text).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert not re.findall(r"url\((?!\"data:image/jpeg;base64,|#)", text)
    assert "@import" not in text


def test_hostile_names_are_text(whole):
    _, text = whole
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert HOSTILE in page.text
    assert "cost $x^2$" in page.text
    assert "\x07" not in text


def test_every_class_has_a_row_plots_and_pictures(whole):
    folder, text = whole
    page = Page(text)
    rows = [attributes["data-key"] for tag, attributes in page.tags if tag == "th" and attributes.get("scope") == "row"]
    assert rows == [*CLASSES[:-1], "absent\N{REPLACEMENT CHARACTER}everywhere"]
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "svg"]
    for name in rows:
        assert any(label.startswith(f"Precision by recall of {name}:") for label in labels)
        assert any(label.startswith(f"Tail accuracy by threshold of {name}:") for label in labels)
        assert len(tiles(text, "Most probable", name)) == 10
    assert all(labels)
    names = {path.name for path in (folder / "out" / "plots").iterdir()}
    assert len(names) == len(labels)
    assert {"loss.svg", "val_map.svg", "average_precision.svg", "precision_recall_006.svg"} <= names


def test_ids_inside_the_page_are_unique_and_every_reference_leads_somewhere(whole):
    _, text = whole
    tags = Page(text).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [str(attributes["href"])[1:] for _, attributes in tags if str(attributes.get("href", "")).startswith("#")]
    assert set(wanted + re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_rankings_are_by_score(whole):
    _, text = whole
    predictions = table()
    for c, name in enumerate(CLASSES[:-1]):
        order = sorted(range(len(predictions)), key=lambda i: -predictions.scores[i, c])
        assert tiles(text, "Most probable", name) == [predictions.ids[i] for i in order[:10]]
        assert tiles(text, "Least probable", name) == [predictions.ids[i] for i in order[:-11:-1]]


def test_each_picture_is_embedded_once(whole):
    _, text = whole
    uris = re.findall(r"data:image/jpeg;base64,[^\"]+", text)
    assert 10 < len(uris) == len(set(uris)) <= len(table())


def test_numbers_and_their_rules_are_in_the_page(whole):
    _, text = whole
    words = Page(text).text
    metrics = measured(table())
    for value in (metrics["map"], metrics["map_voc07"], metrics["accuracy"], metrics["mean_tail_accuracy"]):
        assert f"{value:.3f}" in words
    for phrase in ("mean AP of 5 of 6 classes", "F2", "macro average", "made up", "ab12ab12ab12", "Seed", "centre"):
        assert phrase in words
    assert "1 class (absent\N{REPLACEMENT CHARACTER}everywhere) without a positive image" in words
    assert "no positive image" in words


def test_same_input_same_bytes(tmp_path):
    predictions = table()
    manifest = pictures(tmp_path / "pictures", predictions)
    first, second = (report(tmp_path / name, predictions, manifest) for name in ("one", "two"))
    assert first == second
    for path in (tmp_path / "one" / "plots").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "plots" / path.name).read_bytes()
    assert str(tmp_path) not in first


def test_missing_and_damaged_pictures_are_named(tmp_path):
    predictions = table(12)
    manifest = pictures(tmp_path / "pictures", predictions)
    (tmp_path / "pictures" / "pic-003.png").unlink()
    (tmp_path / "pictures" / "pic-007.png").write_bytes(b"not a picture")
    text = report(tmp_path, predictions, manifest)
    words = Page(text).text
    assert "2 of 12 pictures could not be shown: pic-003 (no such file), pic-007 (" in words
    assert "pic-003, picture missing" in text
    assert "pic-007, picture damaged" in text


def test_without_a_manifest_ids_stand_for_pictures(tmp_path):
    words = Page(report(tmp_path, table(5))).text
    assert "There are no pictures to show" in words
    assert "pic-004" in words
    assert "No further pictures" in words


def test_multiclass(tmp_path):
    predictions = table(40, ("a", "b", "c", "d", "e", "f"), "multiclass")
    metrics = measured(predictions)
    words = Page(report(tmp_path, predictions, metrics=metrics)).text
    assert f"Top 1 {metrics['top1']:.3f}" in words
    assert f"Top 5 {metrics['top5']:.3f}" in words
    assert "Confusions" in words
    assert "Labels that come together" not in words
    counts = np.array(metrics["confusion"]) - np.diag(np.diag(metrics["confusion"]))
    i, j = np.unravel_index(counts.argmax(), counts.shape)
    share = round(100 * counts[i, j] / sum(metrics["confusion"][i]))
    assert f"Share {'abcdef'[i]} {'abcdef'[j]} {counts[i, j]} {share} %" in words
    assert (tmp_path / "plots" / "confusion.svg").exists()


def test_many_classes_show_those_that_are_confused(tmp_path):
    """Of forty classes five are confused with each other, and rarer than the rest."""
    names = tuple(f"class {c:02}" for c in range(40))
    truth = np.repeat(np.arange(40), [1] * 5 + [3] * 35)
    labels = np.eye(40, dtype=np.int8)[truth]
    scores = labels * np.float32(0.5)
    scores[np.arange(5), [1, 2, 3, 4, 0]] = 0.9
    predictions = Predictions(
        tuple(map(str, range(len(truth)))), ("val",) * len(truth), scores, labels, names, "multiclass", {}
    )
    words = Page(report(tmp_path, predictions, metrics=measured(predictions))).text
    assert "Of 40 classes, the 30 that are confused most often." in words
    assert "Share class 00 class 01 1 100 % class 01 class 02 1 100 %" in words
    svg = (tmp_path / "plots" / "confusion.svg").read_text()
    assert all(f">class {c:02}<" in svg for c in range(30))


def test_the_course_of_top_1_and_of_the_rate_is_drawn(tmp_path):
    lines = [
        {"epoch": e, "train_top1": 0.1 * e, "val_top1": 0.05 * e, "val_map": 0.1, "lr": 10.0**-e} for e in range(1, 5)
    ]
    words = Page(report(tmp_path, table(6), history=lines))
    plots = sorted(path.stem for path in (tmp_path / "plots").iterdir())
    assert {"top1", "learning_rate", "val_map"} <= set(plots)
    alts = " ".join(str(attributes.get("aria-label") or "") for _, attributes in words.tags)
    assert "validation 0.05 at epoch 1, 0.2 at epoch 4" in alts
    assert "learning rate 0.1 at epoch 1, 0.0001 at epoch 4" in alts


@pytest.mark.parametrize(
    ("lines", "phrase"),
    [
        ([], "There is no history to show"),
        (history(1), "One epoch is a point, not a curve."),
        ([{"epoch": 1, "val_map": None}, {}], "2 epochs."),
        ([{"epoch": 1, "train_loss": float("nan"), "val_ap": {"cat": None}}], "1 epoch."),
    ],
)
def test_thin_histories(tmp_path, lines, phrase):
    assert phrase in Page(report(tmp_path, table(6), history=lines)).text


def test_nothing_positive_and_nothing_confident(tmp_path):
    predictions = Predictions(
        ("a", "b"), ("val",) * 2, np.full((2, 2), 0.1, np.float32), np.array([[0, -1], [0, -1]], np.int8), ("x", "y")
    )
    words = Page(report(tmp_path, predictions)).text
    assert "mean AP of 0 of 2 classes" in words
    assert "no class has a positive image" in words
    assert "no class has a score above 0.5" in words
    assert "no image has two classes" in words


def test_many_classes_are_cut_in_words(tmp_path):
    predictions = table(8, tuple(f"class {i}" for i in range(45)))
    words = Page(report(tmp_path, predictions)).text
    assert "of 45 classes the 40 of the lowest AP" in words
    assert "Of 45 classes, the 30 with the most positive images" in words
    assert "The 5 most and the 5 least probable of 8 pictures" in words


def test_foreign_metrics_with_few_keys(tmp_path):
    predictions = table(6, ("cat", "dog"))
    words = Page(report(tmp_path, predictions, metrics={"classes": [{"name": "cat"}, {"name": "dog"}]})).text
    assert "mAP –" in words


def test_a_calibrated_report_shows_before_and_after(tmp_path):
    plain = table()
    former = (plain.scores**2).astype(np.float32)
    predictions = replace(plain, uncalibrated=former)
    metrics = measure(
        plain.scores, plain.labels, plain.classes, ranking=former, resamples=100, thresholds=[0.4] * 5 + [1]
    )
    metrics |= {"calibration": "isotonic", "threshold_rule": "best F1, on split val", "fitted_here": ["calibration"]}
    text = report(tmp_path, predictions, metrics=metrics)
    page = Page(text)
    for phrase in (
        "best F1, on split val",
        "isotonic",
        "Optimistic: these very pictures gave the calibration.",
        "1 class (absent\N{REPLACEMENT CHARACTER}everywhere) never predicted",
        f"{metrics['mean_ece']:.4f}",
        f"{metrics['mean_ece_uncalibrated']:.4f} before calibration",
        "95 % interval {:.3f} to {:.3f}".format(*metrics["map_interval"]),
        "{:.3f}–{:.3f}".format(*metrics["classes"][0]["ap_interval"]),
        "The dashed line is before calibration.",
    ):
        assert phrase in page.text, phrase
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "svg"]
    assert sum(label.startswith("Share of positives by score of ") for label in labels) == 5  # with a positive
    assert any(label.startswith("Share of positives by score, all classes: ") for label in labels)
    order = sorted(range(len(predictions)), key=lambda i: -former[i, 0])
    assert tiles(text, "Most probable", "cat") == [predictions.ids[i] for i in order[:10]]


def test_a_report_without_calibration_says_nothing_of_it(whole):
    _, text = whole
    words = Page(text).text
    assert "before calibration" not in words
    assert "Optimistic" not in words
    assert "Share of positives by score, all classes: " in text


def test_nothing_known_has_no_reliability(tmp_path):
    unknown = np.full((2, 2), -1, np.int8)
    predictions = Predictions(("a", "b"), ("val",) * 2, np.full((2, 2), 0.6, np.float32), unknown, ("x", "y"))
    assert "Nothing to show: no label is known." in Page(report(tmp_path, predictions)).text


@pytest.mark.parametrize("suggestion", [None, 1e-3])
def test_a_sweep_is_drawn_though_its_end_is_far_off(suggestion):
    rates = np.geomspace(1e-5, 1, 30)
    smooth = np.where(rates < 1e-2, 3 - np.arange(30) / 30, 4.0 ** np.arange(30))
    plot = plots.rate_search(rates, smooth + 0.1, smooth, suggestion)
    assert ("is suggested" in plot.alt) == ("1.0e-03" in plot.file) == (suggestion is not None)
    assert "lowest 2.4" in plot.alt
    flat = plots.rate_search(rates, np.ones(30), np.ones(30), suggestion)
    assert flat.name == "learning_rates"
