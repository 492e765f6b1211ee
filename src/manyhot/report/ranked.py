"""The ranking of each class as files: scores and file names, highest score first."""

from __future__ import annotations

import csv
import io
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from manyhot.atomic import atomic_open, write_text
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError, nearest
from manyhot.predictions import Predictions

Format: TypeAlias = Literal["npy", "csv"]

FOLDER, INDEX = "export", "classes"
_LONGEST = 120  # bytes of a stem; file systems take 255 for a name
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def require_export(export: str | None) -> None:
    """Refuse an unknown format before the work.

    Raises:
        UserError: neither "npy", "csv" nor None.
    """
    if export is not None and export not in get_args(Format):
        raise UserError(f"there is no export '{export}'.", remedy=nearest(export, get_args(Format)))


def write_rankings(folder: Path, predictions: Predictions, manifest: Manifest, export: str) -> Path:
    """Write `export/` with the ranking of each class and `classes.csv`, which says the files of each class.

    "npy": CLASS.npy, float32 [N], scores descending, which `numpy.load` reads without pickles; and CLASS.txt, the
    file names in the same order, a line each. "csv": CLASS.csv with rank (from 1), id, file, score and label (1
    present, 0 absent, -1 ignored). Files are named as in the manifest, under its root. Images are ranked by their
    scores before calibration; equal ones keep the order of the table. The folder appears whole.

    Arguments:
        folder: of the evaluation.
        predictions: N images.
        manifest: knows the files of all of them.
        export: "npy" or "csv".

    Raises:
        UserError: a file name with a line break, for "npy".
    """
    names = dict(zip(manifest.ids, manifest.table["image"].to_list(), strict=True))
    files = [names[image] for image in predictions.ids]
    if export == "npy" and (broken := [file for file in files if len(file.splitlines()) != 1]):
        raise UserError(f"the file name {broken[0]!r} is no single line.", remedy="Export csv.")
    stems = safe_stems(predictions.classes)
    new, old = folder / f".{FOLDER}.tmp", folder / FOLDER
    shutil.rmtree(new, ignore_errors=True)
    for c, stem in enumerate(stems):
        order = np.argsort(-predictions.ranking[:, c], kind="stable")
        scores = predictions.scores[order, c]
        if export == "npy":
            with atomic_open(new / f"{stem}.npy") as file:
                np.save(file, scores, allow_pickle=False)
            write_text(new / f"{stem}.txt", "".join(f"{files[row]}\n" for row in order))
        else:
            write_text(new / f"{stem}.csv", _table(predictions, files, order, scores, c))
    rows = [
        ["class", "file"],
        *([name, f"{stem}.{export}"] for name, stem in zip(predictions.classes, stems, strict=True)),
    ]
    write_text(new / f"{INDEX}.csv", _csv(rows))
    remove_rankings(folder)
    new.rename(old)
    return old


def remove_rankings(folder: Path) -> None:
    """Remove the rankings of a former evaluation: they are of scores that are no more."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def safe_stems(classes: Sequence[str]) -> list[str]:
    """File names for classes, without suffix: valid on every system, and no two alike, whatever their case.

    Letters and digits of every alphabet, blanks inside, `-`, `_`, `+` and `.` stay; any other character becomes `_`.
    What is too long is cut, and what is taken already gets a number.
    """
    taken, stems = {INDEX}, []
    for name in classes:
        name = unicodedata.normalize("NFC", name)
        stem = "".join(one if one.isalnum() or one in " -_+." else "_" for one in name).strip(" .") or "_"
        stem = stem.encode()[:_LONGEST].decode(errors="ignore").rstrip(" .")
        if _DEVICES.fullmatch(stem):
            stem = f"_{stem}"
        candidate, number = stem, 2
        while candidate.casefold() in taken:
            candidate, number = f"{stem}-{number}", number + 1
        taken.add(candidate.casefold())
        stems.append(candidate)
    return stems


def _table(predictions: Predictions, files: list[str], order: NDArray[np.int64], scores: Any, c: int) -> str:
    ranked = enumerate(zip(order.tolist(), scores.tolist(), strict=True), 1)
    rows = [[rank, predictions.ids[i], files[i], f"{s:.9g}", int(predictions.labels[i, c])] for rank, (i, s) in ranked]
    return _csv([["rank", "id", "file", "score", "label"], *rows])


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
