"""One self-contained page about one evaluation, and its plots as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from manyhot.atomic import write_text
from manyhot.data.manifest import Manifest
from manyhot.predictions import Predictions
from manyhot.report import pictures, plots, summary, tables
from manyhot.report.svg import Plot, printable

CLASS_PLOTS, PAIR_CLASSES = 40, 30
"""With more classes than these, the page shows the lowest-AP and the most frequent or confused ones, and says so."""

CONFUSED_PAIRS = 15
"""Rows of the table of confusions."""


@dataclass(frozen=True)
class _Curves:
    """Plots over score or recall, and the classes whose own plots are shown."""

    precision_recall: Plot | None
    tail: Plot | None
    precision_recall_of: list[Plot]
    tail_of: list[Plot]


@dataclass(frozen=True)
class _Reliability:
    """How often scores come true: all classes together, and those whose own plots are shown."""

    pooled: Plot | None
    of: list[Plot]


@dataclass(frozen=True)
class _Pairs:
    """Classes that come together."""

    together: Plot | None
    false: Plot | None
    shown: int
    confused: list[tuple[str, str, int, str]]


def write_report(
    folder: Path,
    *,
    predictions: Predictions,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    manifest: Manifest | None,
    title: str,
    facts: Sequence[tuple[str, str]],
) -> Path:
    """Write `report.html`, which opens without a network, and the same plots as SVG files in `plots/`.

    The same input gives the same bytes. A picture that is missing or damaged leaves a placeholder with its id.

    Arguments:
        folder: made where it does not exist.
        predictions: N images, C classes.
        metrics: what `metrics.json` holds; its classes are those of `predictions`, in the same order.
        history: the lines of `history.jsonl`, oldest first; any key may be missing, and none is needed.
        manifest: knows the image files; None: no pictures.
        title: heading of the page.
        facts: further (name, value) pairs for the summary.

    Returns:
        The path of the page.
    """
    predictions = replace(
        predictions,
        ids=tuple(map(printable, predictions.ids)),
        classes=tuple(map(printable, predictions.classes)),
    )
    rows = _class_rows(metrics, predictions)
    metrics = {**metrics, "classes": rows}
    by_epoch = (plots.losses, plots.validation_map, plots.top1, plots.learning_rate)
    learning = [plot for plot in (draw(history) for draw in by_epoch) if plot]
    aps = [row.get("ap") for row in rows]
    intervals = [row.get("ap_interval") for row in rows]
    bars = plots.average_precisions(predictions.classes, aps, metrics.get("map"), intervals)
    shown = _class_plots(aps)
    curves = _curves(predictions, metrics, shown)
    reliability = _reliability(predictions, rows, shown)
    pairs = _pairs(predictions, rows)

    every = [*learning, bars, curves.precision_recall, curves.tail, *curves.precision_recall_of, *curves.tail_of]
    for plot in (*every, reliability.pooled, *reliability.of, pairs.together, pairs.false):
        if plot is not None:
            write_text(folder / "plots" / f"{plot.name}.svg", plot.file)

    headline = summary.headline(metrics, predictions.task)
    columns = summary.columns(metrics)
    number = min(pictures.tiles_an_end(len(predictions.classes)), len(predictions))
    ends = [pictures.ends(predictions, c, number) for c in range(len(predictions.classes))]
    tiles = [tile for end in ends for side in end for tile in side]
    thumbnails = pictures.thumbnails(predictions, manifest, (tile.row for tile in tiles))

    page = (
        _environment()
        .get_template("template.html")
        .render(
            title=printable(title),
            headline=headline,
            columns_of_headline=len(headline) if len(headline) < 8 else -(-len(headline) // 2),
            provenance=[*summary.provenance(metrics, predictions), *((printable(k), printable(v)) for k, v in facts)],
            remarks=summary.remarks(metrics),
            columns=columns,
            table=[(row["name"], summary.class_cells(row, columns)) for row in rows],
            bars=bars,
            learning=learning,
            learning_words=summary.learning_words(history),
            curves=curves,
            reliability=reliability,
            calibrated=predictions.uncalibrated is not None,
            has_intervals=any(intervals),
            pairs=pairs,
            n_classes=len(predictions.classes),
            n_images=len(predictions),
            n_class_plots=len(shown),
            multiclass=predictions.task == "multiclass",
            ids=predictions.ids,
            aps=[summary.number(ap) for ap in aps],
            ends=ends,
            number=number,
            thumbnails=thumbnails,
            troubles=[(predictions.ids[row], t.reason) for row, t in thumbnails.items() if t.trouble],
            no_manifest=manifest is None,
        )
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("manyhot.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _class_rows(metrics: Mapping[str, Any], predictions: Predictions) -> list[dict[str, Any]]:
    rows = [{**row, "name": printable(row["name"])} for row in metrics.get("classes", ())]
    names = tuple(row["name"] for row in rows)
    assert names == predictions.classes, f"metrics are of {names}, predictions of {predictions.classes}"
    return rows


def _class_plots(aps: Sequence[float | None]) -> list[int]:
    """The classes that get plots of their own, in their own order."""
    lowest = sorted(range(len(aps)), key=lambda c: (aps[c] is None, aps[c] or 0.0))
    return sorted(lowest[:CLASS_PLOTS])


def _curves(predictions: Predictions, metrics: Mapping[str, Any], shown: Sequence[int]) -> _Curves:
    scores, labels, names, rows = predictions.ranking, predictions.labels, predictions.classes, metrics["classes"]
    by_class = {
        c: tables.precision_by_recall(scores[:, c], labels[:, c])
        for c in range(len(names))
        if (labels[:, c] == 1).any()
    }
    mean = tables.mean_precision_by_recall(list(by_class.values())) if by_class else None
    tail = metrics.get("tail_curve") or {}
    counted = tail.get("n") or []
    return _Curves(
        precision_recall=plots.precision_recall_mean(mean, len(by_class)) if mean else None,
        tail=plots.tail_mean(tail["threshold"], tail["mean"], counted) if any(counted) else None,
        precision_recall_of=[
            plots.precision_recall_class(names[c], c + 1, by_class.get(c), mean, rows[c].get("ap")) for c in shown
        ],
        tail_of=[
            plots.tail_class(
                names[c], c + 1, tables.tail_by_threshold(scores[:, c], labels[:, c]), rows[c].get("tail_accuracy")
            )
            for c in shown
        ],
    )


def _reliability(predictions: Predictions, rows: Sequence[Mapping[str, Any]], shown: Sequence[int]) -> _Reliability:
    scores, former, labels = predictions.scores, predictions.uncalibrated, predictions.labels
    pooled = None
    if (labels != -1).any():
        before = None if former is None else tables.pooled_reliability(former, labels)
        pooled = plots.reliability_pooled(tables.pooled_reliability(scores, labels), before)
    return _Reliability(
        pooled,
        [
            plots.reliability_class(
                predictions.classes[c],
                c + 1,
                tables.reliability(scores[:, c], labels[:, c]),
                None if former is None else tables.reliability(former[:, c], labels[:, c]),
                rows[c].get("ece"),
            )
            for c in shown
            if (labels[:, c] == 1).any()
        ],
    )


def _pairs(predictions: Predictions, rows: Sequence[Mapping[str, Any]]) -> _Pairs:
    names = predictions.classes
    frequent = sorted(range(len(rows)), key=lambda c: -(rows[c].get("n_positive") or 0))
    if predictions.task == "multiclass":
        return _confusions(predictions, frequent)
    shown = sorted(frequent[:PAIR_CLASSES])
    counts = tables.labels_together(predictions)
    together = None
    if counts.counts.any():
        together = plots.pair_map(counts, shown, names, name="labels_together", title="Labels that come together.")
    thresholds = np.array([0.5 if row.get("threshold") is None else row["threshold"] for row in rows])
    wrong = tables.false_positives(predictions, thresholds)
    false = None
    if wrong.counts.any():
        false = plots.pair_map(
            wrong, shown, names, name="false_positives", title="False positives by the class that is there."
        )
    return _Pairs(together, false, len(shown), [])


def _confusions(predictions: Predictions, frequent: Sequence[int]) -> _Pairs:
    """The classes of the most confused pairs come first, then the most frequent ones."""
    found, names = tables.confusions(predictions), predictions.classes
    worst = found.largest(len(names) ** 2)
    chosen = list(dict.fromkeys([*(c for pair in worst for c in pair), *frequent]))[:PAIR_CLASSES]
    plot = None
    if found.counts.any():
        plot = plots.pair_map(found, sorted(chosen), names, name="confusion", title="Confusions.")
    confused = [
        (names[i], names[j], int(found.counts[i, j]), f"{100 * found.shares[i, j]:.0f} %")
        for i, j in worst[:CONFUSED_PAIRS]
    ]
    return _Pairs(None, plot, len(chosen), confused)
