"""`compare`: two tables of predictions for the same pictures in; the difference and its interval out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manyhot.errors import UserError
from manyhot.metrics.bootstrap import APDifference, paired_bootstrap_ap
from manyhot.predictions import Predictions
from manyhot.recipe import load_recipe
from manyhot.runs import open_run

_NAMED = 3  # differing ids that a message names


@dataclass(frozen=True)
class Comparison:
    """What two tables differ in.

    Arguments:
        names: what a and b are called.
        split: names of the splits in the tables.
        classes: C class names.
        n_images: pictures, the same ones in both.
        n_positive: C numbers of pictures that show the class.
        difference: the measures of a and b, and b − a.
    """

    names: tuple[str, str]
    split: str
    classes: tuple[str, ...]
    n_images: int
    n_positive: tuple[int, ...]
    difference: APDifference


def compare(
    a: str | Path, b: str | Path, split: str | None = None, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare the average precision of two runs, or of two tables of predictions, by the paired bootstrap.

    Rows are matched by id, so their order does not matter. Calibrated tables rank by their scores before calibration.

    Arguments:
        a: a run folder with an evaluation of the split, or a `.parquet` table of predictions.
        b: likewise, with the same pictures, labels and classes.
        split: split name; None is the recipe's val split for a run folder, and the whole table for a file.
        resamples: 100 or more.
        seed: 0 or more.

    Raises:
        UserError: no evaluation or table there; other pictures, classes or labels; an option is out of range.
    """
    first, second = _read(Path(a), split), _read(Path(b), split)
    second = _matched(first, second, str(a), str(b))
    difference = paired_bootstrap_ap(first.ranking, second.ranking, first.labels, resamples=resamples, seed=seed)
    return Comparison(
        names=(str(a), str(b)),
        split=", ".join(sorted(set(first.splits))),
        classes=first.classes,
        n_images=len(first),
        n_positive=tuple((first.labels == 1).sum(axis=0).tolist()),
        difference=difference,
    )


def summarize(comparison: Comparison) -> str:
    """The comparison in a table for a terminal: a line a class, the means, and what they say."""
    d = comparison.difference
    width = max(len("class"), *(len(name) for name in comparison.classes))
    interval = f"{100 * d.confidence:g} % interval"
    lines = [
        f"A  {comparison.names[0]}",
        f"B  {comparison.names[1]}",
        "",
        f"{'class':{width}}  positives    AP A    AP B    B − A  {interval:>18}",
    ]
    columns = (d.ap_a, d.ap_b, d.difference, d.low, d.high)
    for name, n, *values in zip(comparison.classes, comparison.n_positive, *columns, strict=True):
        lines.append(f"{name:{width}}  {n:9}  {_row(*values)}")
    counted = int((~np.isnan(d.ap_a)).sum())
    lines += [
        f"{'mAP':{width}}  {'':9}  {_row(d.map_a, d.map_b, d.map_difference, d.map_low, d.map_high)}",
        "",
        f"split {comparison.split}, {comparison.n_images} pictures; mAP over {counted} of {len(d.ap_a)} classes",
        f"paired bootstrap, {d.resamples} resamples, BCa intervals, each for its class alone",
    ]
    if not np.isnan(d.favour):
        lines += [f"B has the higher mAP in {100 * d.favour:.1f} % of the resamples", _verdict(d)]
    return "\n".join(lines)


def _verdict(d: APDifference) -> str:
    if d.map_low <= 0 <= d.map_high:
        return "The interval of the mAP holds 0: these pictures do not tell the two apart."
    better = "B" if d.map_low > 0 else "A"
    return f"The interval of the mAP leaves out 0: {better} is better on pictures like these."


def _row(a: float, b: float, difference: float, low: float, high: float) -> str:
    if np.isnan(a):
        return f"{'–':>6}  {'–':>6}  {'–':>7}  {'–':>18}"
    return f"{a:6.4f}  {b:6.4f}  {difference:+7.4f}  {f'{low:+.4f} … {high:+.4f}':>18}"


def _read(path: Path, split: str | None) -> Predictions:
    if path.suffix == ".parquet" and not path.is_dir():
        predictions = Predictions.load(path)
        return predictions.split(split) if split else predictions
    run = open_run(path)
    split = split or load_recipe(str(run.recipe)).data.val_split
    table = run.evaluation(split) / "predictions.parquet"
    if not table.exists():
        raise UserError(
            f"split '{split}' of this run has not been evaluated.",
            file=path,
            remedy=f"First: manyhot evaluate {path} --split {split}",
        )
    return Predictions.load(table)


def _matched(a: Predictions, b: Predictions, name_a: str, name_b: str) -> Predictions:
    """The rows of b in the order of a, classes and labels checked."""
    if a.classes != b.classes:
        only_a, only_b = ([c for c in x if c not in y] for x, y in ((a.classes, b.classes), (b.classes, a.classes)))
        what = "; ".join(
            f"only in {name}: {_some(classes)}" for name, classes in ((name_a, only_a), (name_b, only_b)) if classes
        )
        raise UserError(f"the classes differ ({what or 'their order does'}).")
    for name, one in ((name_a, a), (name_b, b)):
        if len(set(one.ids)) < len(one.ids):
            raise UserError("an id stands twice in the table.", file=name)
    rows, known = {image: row for row, image in enumerate(b.ids)}, set(a.ids)
    only_a, only_b = [image for image in a.ids if image not in rows], [image for image in b.ids if image not in known]
    if only_a or only_b:
        what = "; ".join(
            f"{len(ids)} only in {name}: {_some(ids)}" for name, ids in ((name_a, only_a), (name_b, only_b)) if ids
        )
        raise UserError(f"the pictures differ ({what}).", remedy="Evaluate both on the same split of the same data.")
    order = [rows[image] for image in a.ids]
    labels = b.labels[order]
    differ = np.flatnonzero((a.labels != labels).any(axis=1))
    if differ.size:
        raise UserError(
            f"the labels of {differ.size} pictures differ: {_some([a.ids[row] for row in differ])}.",
            remedy="Were both read by the same rule for difficult objects?",
        )
    return b.take(order)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
