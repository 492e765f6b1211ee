"""A CSV or Parquet table: one row an image, its labels as names in one column or as 0/1/-1 columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from manyhot.data.images import IMAGE_SUFFIXES
from manyhot.data.manifest import Manifest, Row, Task, is_manifest
from manyhot.data.sources import Difficult, natural_order, source
from manyhot.errors import UserError, nearest

_IMAGE_COLUMNS = ("image", "path", "file", "filename")
_NAME_COLUMNS = ("labels", "label")
_KNOWN = (*_IMAGE_COLUMNS, "id", "split", *_NAME_COLUMNS)

_VALUES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1, "": -1}
"""What a cell of a class column means; an empty one says nothing, so it is ignored."""

_DELIMITERS = (";", "|", ",")


@source("table")
class Table:
    """a CSV or Parquet table with a column image, path, file, filename or id, and labels or a 0/1/-1 column a class."""

    def recognises(self, text: str) -> bool:
        """Whether the file ends in .csv, .tsv or .parquet and is not a manifest of ours."""
        path = Path(text)
        suffix = path.suffix.lower()
        return path.is_file() and (suffix in (".csv", ".tsv") or (suffix == ".parquet" and not is_manifest(path)))

    def read(self, text: str, *, difficult: Difficult) -> Manifest:  # noqa: ARG002 - tables know no objects
        """Read the table; relative image paths stand under its folder.

        Raises:
            UserError: an unknown column, a bad value, a repeated id or a missing picture, with file and line.
        """
        path = Path(text)
        if not path.is_file():
            raise UserError("there is no such file.", file=path)
        return _read(_parquet(path) if path.suffix.lower() == ".parquet" else _csv(path))


@dataclass(frozen=True)
class _Cells:
    """A table as text.

    Arguments:
        path: the file.
        columns: K column names.
        lines: the place of each of the N rows for messages: line of the CSV file, number of the Parquet row.
        values: N rows of K cells; names of a Parquet list column stand one to a line.
        separator: what parts the names in a `labels` cell, where the file itself says so.
    """

    path: Path
    columns: tuple[str, ...]
    lines: tuple[int, ...]
    values: tuple[tuple[str, ...], ...]
    separator: str | None = None

    def column(self, name: str) -> list[str]:
        at = self.columns.index(name)
        return [row[at] for row in self.values]

    def fault(self, row: int, what: str, remedy: str | None = None) -> UserError:
        return UserError(what, file=self.path, line=self.lines[row], remedy=remedy)


def _read(cells: _Cells) -> Manifest:
    columns = cells.columns
    if not cells.values:
        raise UserError("the table has no rows.", file=cells.path)
    image_column = next((name for name in (*_IMAGE_COLUMNS, "id") if name in columns), None)
    if image_column is None:
        raise UserError(
            f"no column names the pictures; the columns are {', '.join(columns)}.",
            file=cells.path,
            remedy=f"Call it {', '.join(_IMAGE_COLUMNS)} or id.",
        )
    names_column = next((name for name in _NAME_COLUMNS if name in columns), None)
    others = [name for name in columns if name not in (image_column, "id", "split", names_column)]
    _refuse_unknown_columns(cells, others)
    if names_column and others:
        raise UserError(
            f"there is a column '{names_column}' and there are class columns ({', '.join(others[:3])}).",
            file=cells.path,
            remedy="Labels are told in one way: remove the one or the others.",
        )
    task: Task = "multilabel"
    if names_column == "label":
        classes, labels = _single_labels(cells)
        task, rule = "multiclass", "table, column label"
    elif names_column:
        classes, labels = _name_lists(cells)
        rule = "table, column labels"
    elif others:
        classes, labels = others, _class_columns(cells, others)
        rule = "table, class columns: 1 present, 0 absent, -1 or empty ignored"
    else:
        raise UserError(
            "no column holds labels.", file=cells.path, remedy="Add a column labels, or one 0/1/-1 column a class."
        )
    if not classes:
        raise UserError(f"no row of column '{names_column}' names a class.", file=cells.path)
    images = _images(cells, image_column)
    ids = _ids(cells, image_column)
    splits = _splits(cells)
    rows = [Row(id_, image, split, row) for id_, image, split, row in zip(ids, images, splits, labels, strict=True)]
    return Manifest.from_rows(cells.path.parent, classes, rows, task=task, label_rule=rule)


def _csv(path: Path) -> _Cells:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            return _csv_cells(path, _numbered(path, csv.reader(file, delimiter=delimiter, strict=True)))
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 text ({error.reason}).", file=path, remedy="Save it as UTF-8.") from None


def _numbered(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the 1-based line each begins on: a quoted cell may hold line breaks."""
    line = 1
    try:
        for row in reader:
            yield line, [cell.strip() for cell in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"malformed CSV ({error}).", file=path, line=line) from None


def _csv_cells(path: Path, rows: Iterator[tuple[int, list[str]]]) -> _Cells:
    lines: list[int] = []
    values: list[tuple[str, ...]] = []
    columns: tuple[str, ...] = ()
    for line, row in rows:
        if not any(row):
            continue
        if not columns:
            columns = tuple(row)
            _refuse_bad_names(path, columns)
        elif len(row) != len(columns):
            raise UserError(
                f"{len(row)} cells where the head has {len(columns)}.",
                file=path,
                line=line,
                remedy="Put quotes around a cell that holds the delimiter.",
            )
        else:
            lines.append(line)
            values.append(tuple(row))
    if not columns:
        raise UserError("the file is empty.", file=path)
    return _Cells(path, columns, tuple(lines), tuple(values))


def _parquet(path: Path) -> _Cells:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"this is not a Parquet file ({error}).", file=path) from None
    _refuse_bad_names(path, frame.columns)
    separator = None
    columns = []
    for series in frame:
        if isinstance(series.dtype, pl.List) and series.name == "labels":
            separator = "\n"
            series = series.cast(pl.List(pl.String)).list.join("\n")
        try:
            columns.append([str(value).strip() if value is not None else "" for value in series.cast(pl.String)])
        except pl.exceptions.PolarsError:
            raise UserError(f"column '{series.name}' holds {series.dtype}, which is not read.", file=path) from None
    return _Cells(
        path, tuple(frame.columns), tuple(range(1, frame.height + 1)), tuple(zip(*columns, strict=True)), separator
    )


def _refuse_bad_names(path: Path, columns: Sequence[str]) -> None:
    for at, name in enumerate(columns, 1):
        if not name:
            raise UserError(f"column {at} has no name.", file=path, line=1, remedy="Is the first line the head?")
        if name in columns[: at - 1]:
            raise UserError(f"there are two columns '{name}'.", file=path, line=1)


def _refuse_unknown_columns(cells: _Cells, names: Sequence[str]) -> None:
    """A column that mostly holds 0, 1 and -1 is a class; any other must be known."""
    for name in names:
        if name in _KNOWN:
            twin = _IMAGE_COLUMNS if name in _IMAGE_COLUMNS else _NAME_COLUMNS
            raise UserError(
                f"several columns tell the same: {', '.join(one for one in twin if one in cells.columns)}.",
                file=cells.path,
                line=1,
                remedy="Rename or remove all but one.",
            )
        filled = [value for value in cells.column(name) if value]
        labels = sum(value.lower() in _VALUES for value in filled)
        if labels * 2 < len(filled):
            example = next((value for value in filled if value.lower() not in _VALUES), "")
            raise UserError(
                f"column '{name}' is not known and holds no 0/1/-1 labels (found '{example}').",
                file=cells.path,
                line=1,
                remedy=f"Rename or remove it. {nearest(name, _KNOWN)}",
            )


def _class_columns(cells: _Cells, names: Sequence[str]) -> list[list[int]]:
    at = [cells.columns.index(name) for name in names]
    labels = []
    seen: set[str] = set()
    for row, values in enumerate(cells.values):
        words = [values[i].lower() for i in at]
        for name, word in zip(names, words, strict=True):
            if word not in _VALUES:
                raise cells.fault(
                    row,
                    f"column '{name}' holds '{word}'.",
                    "A label is 1 (present), 0 (absent), or -1 or empty (ignored).",
                )
        seen.update(words)
        labels.append([_VALUES[word] for word in words])
    found = {_VALUES[word] for word in seen}
    if 0 not in found and seen & {"-1", "-1.0"}:
        raise UserError(
            "there are labels 1 and -1, but no 0.",
            file=cells.path,
            remedy="In a table -1 means ignored: write 0 where a class is absent.",
        )
    return labels


def _single_labels(cells: _Cells) -> tuple[list[str], list[list[int]]]:
    names = cells.column("label")
    for row, name in enumerate(names):
        if not name:
            raise cells.fault(row, "the label is empty.", "With a column label every picture has exactly one class.")
    classes = sorted(set(names), key=natural_order)
    return classes, [[int(name == one) for one in classes] for name in names]


def _name_lists(cells: _Cells) -> tuple[list[str], list[list[int]]]:
    """Names parted by the first of ; | , that any cell holds, else by spaces."""
    texts = cells.column("labels")
    separator = cells.separator or next((one for one in _DELIMITERS if any(one in text for text in texts)), None)
    lists = [{name for part in text.split(separator) if (name := part.strip())} for text in texts]
    classes = sorted(set().union(*lists), key=natural_order)
    return classes, [[int(name in names) for name in classes] for names in lists]


def _images(cells: _Cells, column: str) -> list[str]:
    folder = cells.path.parent
    images: list[str] = []
    missing: list[int] = []
    for row, text in enumerate(cells.column(column)):
        if not text:
            raise cells.fault(row, f"column '{column}' is empty.")
        image = _find(folder, text, guess_suffix=column == "id")
        if image is None:
            missing.append(row)
        else:
            images.append(image)
    if missing:
        names = ", ".join(cells.column(column)[row] for row in missing[:5]) + (", …" if len(missing) > 5 else "")
        raise cells.fault(
            missing[0],
            f"{len(missing)} pictures are missing: {names}.",
            f"Relative paths stand under the table's folder, {folder}",
        )
    return images


def _find(folder: Path, text: str, *, guess_suffix: bool) -> str | None:
    """The path under `folder` with forward slashes; an absolute one stays where it lies elsewhere."""
    for name in dict.fromkeys((text, text.replace("\\", "/"))):
        if (folder / name).is_file():
            path = Path(name)
            return (path.relative_to(folder) if path.is_absolute() and path.is_relative_to(folder) else path).as_posix()
    if guess_suffix:
        return next((text + suffix for suffix in sorted(IMAGE_SUFFIXES) if (folder / (text + suffix)).is_file()), None)
    return None


def _ids(cells: _Cells, image_column: str) -> list[str]:
    column = "id" if "id" in cells.columns else image_column
    ids = cells.column(column)
    first: dict[str, int] = {}
    for row, id_ in enumerate(ids):
        if not id_:
            raise cells.fault(row, "the id is empty.")
        if id_ in first:
            raise cells.fault(
                row,
                f"{column} '{id_}' stands in line {cells.lines[first[id_]]} already.",
                "One row an image: join the rows, or give each its own id.",
            )
        first[id_] = row
    return ids


def _splits(cells: _Cells) -> list[str]:
    if "split" not in cells.columns:
        return ["train"] * len(cells.values)
    splits = cells.column("split")
    for row, split in enumerate(splits):
        if not split:
            raise cells.fault(row, "the split is empty.", "Write train, val or test, or remove the column.")
    return splits
