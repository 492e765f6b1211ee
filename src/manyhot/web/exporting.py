"""Decisions as files for elsewhere: a CSV, VOC's Main lists, a manifest with the new labels."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.data.manifest import BOX, Manifest
from manyhot.errors import UserError
from manyhot.report.ranked import safe_stems
from manyhot.web.collection import Collection
from manyhot.web.journal import Decision

COLUMNS = ("id", "image", "split", "class", "label", "action", "new_label", "score", "time")


def as_csv(collection: Collection, decisions: Iterable[Decision]) -> bytes:
    """One row a decision. Pictures that are not in this collection keep their row, without image, split and score."""
    rows = {id_: row for row, id_ in enumerate(collection.predictions.ids)}
    columns = {name: c for c, name in enumerate(collection.predictions.classes)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in decisions:
        row, c = rows.get(one.id), columns.get(one.class_name)
        known = ("", "") if row is None else (collection.name(row), collection.predictions.splits[row])
        score = "" if row is None or c is None else f"{collection.predictions.scores[row, c]:.6g}"
        cells = (one.id, *known, one.class_name, one.label, one.action, one.new_label, score, one.time)
        writer.writerow(cells)
    return text.getvalue().encode(errors="surrogateescape")


def as_manifest(collection: Collection, decisions: Iterable[Decision]) -> bytes:
    """The manifest with the new labels, as Parquet.

    Boxes of a class that was flipped to absent go; those of one marked difficult become difficult; a class flipped to
    present gets none.

    Raises:
        UserError: these pictures have no manifest.
    """
    changed = _changed(collection, decisions)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        replace(changed, root=changed.root.absolute()).save(path)
        return path.read_bytes()


def as_voc(collection: Collection, decisions: Iterable[Decision]) -> bytes:
    """VOC's `Main` lists of the new labels as a ZIP: CLASS_SPLIT.txt with 1, -1 or 0 (difficult) behind each id.

    Raises:
        UserError: these pictures have no manifest; an id with a blank in it.
    """
    manifest = _changed(collection, decisions)
    ids, splits, labels = manifest.ids, manifest.table["split"].to_list(), manifest.labels
    if broken := [one for one in ids if len(one.split()) != 1]:
        raise UserError(f"a list of VOC cannot hold the id {broken[0]!r}: it has a blank.", remedy="Export CSV.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for split, stem in zip(manifest.splits, safe_stems(manifest.splits), strict=True):
            rows = [row for row, name in enumerate(splits) if name == split]
            archive.writestr(f"Main/{stem}.txt", "".join(f"{ids[row]}\n" for row in rows))
            for c, name in enumerate(safe_stems(manifest.classes)):
                lines = (f"{ids[row]} {_VOC[int(labels[row, c])]:>2}\n" for row in rows)
                archive.writestr(f"Main/{name}_{stem}.txt", "".join(lines))
    return buffer.getvalue()


_VOC = {1: 1, 0: -1, -1: 0}


def _changed(collection: Collection, decisions: Iterable[Decision]) -> Manifest:
    manifest = collection.manifest
    if manifest is None:
        raise UserError("these pictures belong to no manifest.", remedy="Export CSV, or start with --data SOURCE.")
    rows = {id_: row for row, id_ in enumerate(manifest.ids)}
    columns = {name: c for c, name in enumerate(manifest.classes)}
    labels, number = manifest.labels, 0
    touched: dict[int, dict[str, int]] = {}
    for one in decisions:
        if one.action in ("flip", "difficult") and one.id in rows and one.class_name in columns:
            labels[rows[one.id], columns[one.class_name]] = one.new_label
            touched.setdefault(rows[one.id], {})[one.class_name] = one.new_label
            number += 1
    rule = f"{manifest.label_rule}; {number} labels changed by review"
    table = manifest.table.with_columns(_labels(labels), _boxes(manifest.table["boxes"], touched))
    return replace(manifest, table=table, label_rule=rule if number else manifest.label_rule)


def _labels(labels_NC: NDArray[np.int8]) -> pl.Series:
    return pl.Series("labels", labels_NC, dtype=pl.Array(pl.Int8, labels_NC.shape[1]))


def _boxes(boxes: pl.Series, touched: dict[int, dict[str, int]]) -> pl.Series:
    if not touched:
        return boxes
    lists = boxes.to_list()
    for row, classes in touched.items():
        lists[row] = [
            {**box, "difficult": box["difficult"] or classes.get(box["class"]) == -1}
            for box in lists[row]
            if classes.get(box["class"]) != 0
        ]
    return pl.Series("boxes", lists, dtype=pl.List(BOX))
