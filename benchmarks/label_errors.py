"""Planted label errors: how many stand first in the list, ours and cleanlab's, on the same scores out of fold.

    python benchmarks/label_errors.py --features features.npy --data VOCdevkit/VOC2012 \\
        --classes cat,cow,dog,horse,person,sheep

`features.npy` is float16 or float32 [N, D]; `features.csv` beside it has the columns id and split in the same order.
Labels are turned in three ways: 5 % of all known (picture, class) entries, which are mostly absences; 5 % of the
positives and as many negatives of all classes together; 5 % of the positives of each class and as many of its
negatives. `--classes` repeats the count for these classes alone, ranked by themselves.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import cleanlab
import numpy as np
import polars as pl
from cleanlab.filter import find_label_issues
from cleanlab.internal.multilabel_utils import onehot2int, stack_complement
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class
from numpy.typing import NDArray

from manyhot import open_source
from manyhot.metrics.folds import stratified_folds
from manyhot.metrics.label_errors import find_label_errors
from manyhot.metrics.out_of_fold import logistic_regression, out_of_fold_scores

SHARE = 0.05
WAYS = {
    "entries": "5 % of all entries",
    "balanced": "5 % of the positives and as many negatives",
    "by_class": "5 % of each class's positives and as many of its negatives",
}
COLUMNS = ("first 10 %", "missing", "wrong", "first n", "flags", "right", "found")


def read(features: Path, source: str, split: str) -> tuple[NDArray[np.float32], NDArray[np.int8], tuple[str, ...]]:
    """Features and labels of the pictures that both know, and the classes."""
    manifest = open_source(source).split(split)
    numbers = np.load(features, allow_pickle=False)
    table = pl.read_csv(features.with_suffix(".csv"), schema_overrides={"id": pl.String})
    assert len(table) == len(numbers), "the table and the features differ in length"
    rows = {name: row for row, name in enumerate(table["id"])}
    missing = [name for name in manifest.ids if name not in rows]
    assert not missing, f"{len(missing)} pictures have no features, the first of them {missing[0]}"
    order = [rows[name] for name in manifest.ids]
    return numbers[order].astype(np.float32), manifest.labels, manifest.classes


def turned(labels: NDArray[np.int8], way: str, seed: int) -> NDArray[np.int8]:
    """The labels with errors planted, in one of the WAYS."""
    rng = np.random.default_rng(seed)
    flat, classes = labels.ravel().copy(), np.tile(np.arange(labels.shape[1]), len(labels))
    if way == "entries":
        known = np.flatnonzero(flat != -1)
        planted = [rng.choice(known, round(SHARE * known.size), replace=False)]
    else:
        planted = []
        for part in [flat != -1] if way == "balanced" else [classes == c for c in range(labels.shape[1])]:
            present, absent = (np.flatnonzero(part & (flat == label)) for label in (1, 0))
            n = int(SHARE * present.size + rng.random())  # rounded up as often as keeps the mean
            planted += [rng.choice(group, n, replace=False) for group in (present, absent)]
    turn = np.concatenate(planted)
    flat[turn] = 1 - flat[turn]
    return flat.reshape(labels.shape)


def ours(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    found = find_label_errors(scores, labels)
    suspicion, flags = np.full(labels.shape, -np.inf), np.zeros(labels.shape, bool)
    suspicion[found.images, found.classes] = found.suspicion
    flags[found.images, found.classes] = found.flagged
    return suspicion, flags


def theirs(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """cleanlab's per-class quality scores and issues by their defaults; ignored entries are taken out."""
    quality = get_label_quality_scores_per_class(onehot2int(np.maximum(labels, 0)), scores)
    flags = np.zeros(labels.shape, bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says where a class has few examples
        for c in range(labels.shape[1]):
            known = labels[:, c] != -1
            given, chance = labels[known, c].astype(int), stack_complement(scores[known, c])
            flags[known, c] = find_label_issues(given, chance, n_jobs=1)
    return np.where(labels == -1, -np.inf, -np.asarray(quality)), flags


def measured(
    suspicion: NDArray[np.float64], flags: NDArray[np.bool_], labels: NDArray[np.int8], truth: NDArray[np.int8]
) -> list[float]:
    """The planted errors among the first 10 %, all, labels taken away and labels added; those among the first n, where
    n were planted; the flags: how many, how many of them planted, how many of the planted."""
    known = labels != -1
    planted, given = (labels != truth)[known], labels[known]
    order = np.argsort(-suspicion[known], kind="stable")
    first = np.zeros(planted.size, bool)
    first[order[: planted.size // 10]] = True
    flagged = flags[known]
    return [
        first[planted].mean(),
        first[planted & (given == 0)].mean(),
        first[planted & (given == 1)].mean(),
        planted[order[: planted.sum()]].mean(),
        flagged.sum(),
        planted[flagged].mean(),
        flagged[planted].mean(),
    ]


def main() -> None:
    """Both rankings on the very same scores, over several plantings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="FILE.npy, with FILE.csv beside it")
    parser.add_argument("--data", required=True, help="the labelled data, as for `manyhot train --data`")
    parser.add_argument("--split", default="train")
    parser.add_argument("--classes", default="", help="names, with commas: count these by themselves too")
    parser.add_argument("--plantings", type=int, default=10)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    features, truth, names = read(options.features, options.data, options.split)
    parts = {f"all {len(names)} classes": list(range(len(names)))}
    if options.classes:
        chosen = options.classes.split(",")
        parts[f"{len(chosen)} classes"] = [names.index(name) for name in chosen]
    print(f"{len(truth)} pictures, {features.shape[1]} features, {options.folds} folds, {options.plantings} plantings")
    result: dict[str, object] = {"benchmark": "label errors planted in 5 % of all entries, found in the first 10 %"}
    for way, what in WAYS.items():
        rows: dict[tuple[str, str], list[list[float]]] = {}
        for seed in range(options.plantings):
            labels = turned(truth, way, seed)
            folds = stratified_folds(labels, options.folds, seed)
            scores = out_of_fold_scores(features, labels, folds, logistic_regression())
            for part, columns in parts.items():
                one = [table[:, columns] for table in (scores, labels, truth)]
                for who, method in (("manyhot", ours), ("cleanlab", theirs)):
                    rows.setdefault((part, who), []).append(measured(*method(one[0], one[1]), one[1], one[2]))
        means = {key: np.mean(values, axis=0) for key, values in rows.items()}
        print(f"\n{what}\n{'':27}" + "".join(f"{name:>11}" for name in COLUMNS))
        for (part, who), values in means.items():
            cells = "".join(
                f"{v:11.0f}" if name == "flags" else f"{v:11.3f}" for name, v in zip(COLUMNS, values, strict=True)
            )
            print(f"{part:16} {who:10}{cells}")
        whole = next(iter(parts))
        us, them = (round(float(means[whole, who][0]), 4) for who in ("manyhot", "cleanlab"))
        if way == "entries":
            result |= {
                "value": us,
                "peer": f"cleanlab {cleanlab.__version__} self-confidence",
                "ours": us,
                "theirs": them,
            }
        else:
            result |= {"unit": "share of the planted", "n": options.plantings, way: {"ours": us, "theirs": them}}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
