"""What the page says in numbers and words, from metrics.json and history.jsonl; a missing or null value is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manyhot.predictions import Predictions

NONE = "–"

COLUMNS = (
    ("ap", "AP", "average precision, non-interpolated area"),
    ("ap_interval", "95 %", "interval of the AP, by bootstrap over images; sorted by its lower end"),
    ("ap_voc07", "VOC07", "average precision by the 11-point rule of VOC 2007"),
    ("ap_voc10", "VOC10", "average precision as area under the precision envelope, VOC 2010 on"),
    ("n_positive", "Positive", "images that have the class"),
    ("n_ignored", "Ignored", "images left out of this class"),
    ("threshold", "Threshold", "predicted where the score is above it"),
    ("precision", "Precision", "at the threshold"),
    ("recall", "Recall", "at the threshold"),
    ("f1", "F1", "at the threshold"),
    ("tail_accuracy", "Tail", "tail accuracy, mean over its thresholds"),
    ("ece", "ECE", "expected calibration error, 15 bins of equal mass"),
    ("ece_uncalibrated", "before", "expected calibration error of the scores before calibration"),
)
"""Columns of the class table: key in metrics.json, heading, explanation."""

_WHERE_KNOWN = ("ap_interval", "ece", "ece_uncalibrated")


@dataclass(frozen=True)
class Figure:
    """One number of the summary with its name and the rule behind it."""

    name: str
    value: str
    rule: str


@dataclass(frozen=True)
class Cell:
    """A cell of the class table: as shown, and as sorted by ("" where undefined)."""

    shown: str
    key: str


def number(value: Any, digits: int = 3) -> str:
    """`value` to so many decimals; whole numbers as they are; a dash for null or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def columns(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The columns to show: COLUMNS without intervals and calibration errors where no class has any."""
    rows = metrics.get("classes", ())
    known = {key for key in _WHERE_KNOWN if any(row.get(key) is not None for row in rows)}
    return [column for column in COLUMNS if column[0] not in _WHERE_KNOWN or column[0] in known]


def headline(metrics: Mapping[str, Any], task: str) -> list[Figure]:
    """The measures of the whole split, each with its rule; the first is the one to compare by."""
    n_classes, counted = len(metrics.get("classes", ())), metrics.get("n_classes_in_map")
    over = f"{counted} of {n_classes} classes" if counted is not None else f"{n_classes} classes"
    ends = metrics.get("map_interval")
    between = f"; 95 % interval {number(ends[0])} to {number(ends[1])}" if ends else ""
    f_beta = metrics.get("f_beta") or {}
    beta, average = f_beta.get("beta", 2.0), f_beta.get("average", "macro")
    found = [
        Figure("mAP", number(metrics.get("map")), f"mean AP of {over}; non-interpolated area{between}"),
        Figure("mAP VOC07", number(metrics.get("map_voc07")), "11-point rule"),
        Figure("mAP VOC10", number(metrics.get("map_voc10")), "area under the envelope"),
    ]
    if task == "multiclass":
        found.append(Figure("Top 1", number(metrics.get("top1")), "true class has the highest score"))
        found.append(Figure("Top 5", number(metrics.get("top5")), "true class among the five highest"))
    found += [
        Figure(f"F{beta:g}", number(f_beta.get("value")), f"{average} average, at the threshold"),
        Figure("Accuracy", number(metrics.get("accuracy")), "right decisions of all (image, class) pairs"),
        Figure("Tail accuracy", number(metrics.get("mean_tail_accuracy")), "mean over thresholds, then classes"),
        Figure("Loss", number(metrics.get("loss"), 4), "of this split"),
    ]
    if metrics.get("mean_ece") is not None:
        before = metrics.get("mean_ece_uncalibrated")
        then = "" if before is None else f"; {number(before, 4)} before calibration"
        found.append(Figure("Calibration error", number(metrics["mean_ece"], 4), f"expected, mean over classes{then}"))
    return found


def provenance(metrics: Mapping[str, Any], predictions: Predictions) -> list[tuple[str, str]]:
    """Which images, labels, thresholds, crops and model the numbers belong to."""
    sha = metrics.get("bundle_sha256") or predictions.source.get("bundle_sha256") or ""
    given = {key: metrics.get(key) or predictions.source.get(key) for key in ("label_rule", "crops")}
    return [
        ("Images", number(metrics.get("n_images", len(predictions)))),
        ("Split", ", ".join(sorted(set(predictions.splits))) or NONE),
        ("Classes", f"{len(predictions.classes)}, {predictions.task}"),
        ("Label rule", str(given["label_rule"] or NONE)),
        ("Threshold", _thresholds(metrics.get("classes", ()))),
        *([("Threshold rule", str(metrics["threshold_rule"]))] if metrics.get("threshold_rule") else []),
        *([("Calibration", metrics["calibration"] or "none")] if "calibration" in metrics else []),
        ("Crops", str(given["crops"] or NONE)),
        ("Bundle", sha[:12] or NONE),
    ]


def class_cells(row: Mapping[str, Any], columns: Sequence[tuple[str, str, str]] = COLUMNS) -> list[Cell]:
    """The cells of one class, in the order of the columns."""
    cells = []
    for key, _, _ in columns:
        if key == "ap_interval":
            ends = row.get(key)
            cells.append(Cell(f"{number(ends[0])}–{number(ends[1])}", repr(ends[0])) if ends else Cell(NONE, ""))
            continue
        never = key == "threshold" and (row.get(key) or 0) >= 1
        shown = "never" if never else number(row.get(key))
        cells.append(Cell(shown, "" if shown == NONE else repr(row[key])))
    return cells


def remarks(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader should know before comparing: classes that no mean counts."""
    rows = metrics.get("classes", ())
    found = []
    if fitted := metrics.get("fitted_here"):
        found.append(f"Optimistic: these very pictures gave the {' and '.join(fitted)}. Measure on others.")
    never = [row["name"] for row in rows if (row.get("threshold") or 0) >= 1]
    if never:
        found.append(f"{_classes(never)} never predicted: no threshold keeps the rule.")
    if metrics.get("calibration"):
        found.append("Average precision, tail accuracy and rankings are those of the scores before calibration.")
    if without := [row["name"] for row in rows if not row.get("n_positive")]:
        found.append(f"{_classes(without)} without a positive image: no AP, not counted in mAP.")
    if silent := [row["name"] for row in rows if row.get("tail_accuracy") is None]:
        found.append(f"{_classes(silent)} without a score above 0.5: no tail accuracy, not counted in its mean.")
    return found


def learning_words(history: Sequence[Mapping[str, Any]]) -> str:
    """The course of training in a sentence or two."""
    if not history:
        return "There is no history to show: these scores came without a record of training."
    words = [f"{len(history)} epoch{'s' if len(history) > 1 else ''}."]
    maps = [(float(line["val_map"]), -i) for i, line in enumerate(history) if number(line.get("val_map")) != NONE]
    if maps:
        best, place = max(maps)
        epoch = history[-place].get("epoch", 1 - place)
        words.append(f"Best validation mAP {best:.3f} after epoch {epoch}.")
    if len(history) == 1:
        words.append("One epoch is a point, not a curve.")
    seconds = [line["seconds"] for line in history if number(line.get("seconds")) != NONE]
    if seconds:
        words.append(f"{_duration(sum(seconds))} in all.")
    rates = [line["images_per_second"] for line in history if number(line.get("images_per_second")) != NONE]
    if rates:
        words.append(f"{sum(rates) / len(rates):,.0f} images a second on average.")
    return " ".join(words)


def _thresholds(rows: Sequence[Mapping[str, Any]]) -> str:
    known = sorted({row["threshold"] for row in rows if row.get("threshold") is not None and row["threshold"] < 1})
    if len(known) < 2:
        return f"{known[0]:g}, all classes" if known else NONE
    return f"{known[0]:.3f} to {known[-1]:.3f}, each class its own"


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({shown})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
