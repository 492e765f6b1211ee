"""What is to be scored: a table of pictures from folders, files, lists of files, Parquet, or a Manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from manyhot.data.images import IMAGE_SUFFIXES
from manyhot.data.manifest import Manifest, is_manifest
from manyhot.errors import UserError
from manyhot.inference.packages import require
from manyhot.inference.pictures.addresses import (
    absolute,
    inside,
    is_remote,
    list_folder,
    open_file,
    parent,
    read,
    suffix,
)

COLUMNS = ("image", "bytes", "path")
"""Columns of a Parquet table that hold pictures or their paths; the first that is there is taken."""

WHOLE_FILE = -1
"""In the column `row`: the address is that of a picture file, not of a table that holds it."""

LIST_SUFFIX, TABLE_SUFFIX = ".txt", ".parquet"


def list_pictures(paths: Sequence[str], *, column: str | None = None, id_column: str | None = None) -> pl.DataFrame:
    """The pictures that paths name, in a fixed order.

    A path is a picture, a folder (searched to the bottom for pictures, else for `.parquet` files), a `.txt` file with a
    path in each line, or a `.parquet` file; each local, or an address for fsspec. Paths in a list or a table are
    relative to its folder.

    Arguments:
        paths: of those kinds, mixed.
        column: of `.parquet` files, with paths (strings) or picture files (binary, or a struct with a field `bytes`);
            None: the first of COLUMNS that is there.
        id_column: of `.parquet` files; None: `id` where it is there, else the paths, else "FILE#ROW".

    Returns:
        Columns id (unique), address (absolute), row (int64; of an `address` that is a table, else WHOLE_FILE), split.

    Raises:
        UserError: something that is not there or cannot be read, no picture at all, two pictures of one id.
    """
    listing = _Listing(column, id_column)
    for path in paths:
        listing.add(path)
    found = listing.frame().unique(maintain_order=True)
    if not len(found):
        raise UserError(f"no image found in {', '.join(paths)}.")
    _refuse_repeats(found)
    return found.with_columns(split=pl.lit("predict"))


def list_manifest(manifest: Manifest) -> pl.DataFrame:
    """The pictures of a Manifest: the columns of `list_pictures`, and labels int8 [C]."""
    addresses = [str(path.absolute()) for path in manifest.paths]
    table = manifest.table.select("id", "split", "labels")
    return _frame(table["id"].to_list(), addresses).with_columns(split=table["split"], labels=table["labels"])


def choose_column(path: str, schema: Any, column: str | None) -> str:
    """The column of a Parquet table that holds the pictures or their paths.

    Arguments:
        path: of the table, for messages.
        schema: pyarrow's.
        column: the one to take; None: the first of COLUMNS that is there.

    Raises:
        UserError: it is not there.
    """
    if column is not None:
        return _column(path, schema, column)
    found = next((name for name in COLUMNS if name in schema.names), None)
    if found is None:
        what = f"there is no column {' or '.join(COLUMNS)}; the columns are {', '.join(schema.names)}."
        raise UserError(what, file=path, remedy="Say which holds the pictures or their paths: --column NAME.")
    return found


class _Listing:
    """The pictures found so far: ids, addresses and rows of the same length."""

    def __init__(self, column: str | None, id_column: str | None) -> None:
        self._column, self._id_column = column, id_column
        self._ids: list[str] = []
        self._addresses: list[str] = []
        self._rows: list[int] = []

    def frame(self) -> pl.DataFrame:
        """All of them."""
        return _frame(self._ids, self._addresses, self._rows)

    def add(self, path: str) -> None:
        """What one path names."""
        ending = suffix(path)
        if not is_remote(path) and not Path(path).exists():
            raise UserError("there is no such file or folder.", file=path)
        if ending == TABLE_SUFFIX and not Path(path).is_dir():
            self._add_table(path)
        elif ending == LIST_SUFFIX and not Path(path).is_dir():
            self._add_lines(path)
        elif Path(path).is_file() or (is_remote(path) and ending in IMAGE_SUFFIXES):
            self._add_files([path if is_remote(path) else str(Path(path))])
        else:
            self._add_folder(path)

    def _add_files(self, paths: Sequence[str], ids: Sequence[str] | None = None) -> None:
        self._ids.extend(ids or paths)
        self._addresses.extend(absolute(path) for path in paths)
        self._rows.extend([WHOLE_FILE] * len(paths))

    def _add_folder(self, path: str) -> None:
        names = list_folder(path)
        pictures = [inside(path, name) for name in names if suffix(name) in IMAGE_SUFFIXES]
        tables = [inside(path, name) for name in names if suffix(name) == TABLE_SUFFIX]
        if pictures and (found := sum(map(_is_of_pictures, tables))):
            what = f"this folder holds {len(pictures)} pictures and {found} .parquet files of pictures."
            raise UserError(what, file=path, remedy="Name the one or the other.")
        self._add_files(pictures)
        for table in [] if pictures else tables:
            self._add_table(table)

    def _add_lines(self, path: str) -> None:
        try:
            lines = [line.strip() for line in read(path).decode().splitlines()]
        except UnicodeDecodeError:
            raise UserError("this is not a list of paths in UTF-8.", file=path) from None
        names = [line for line in lines if line]
        self._add_files([inside(parent(path), name) for name in names], names)

    def _add_table(self, path: str) -> None:
        if not is_remote(path) and is_manifest(Path(path)):
            raise UserError("this is a manifest.", file=path, remedy="Add: --source prepared.")
        pq = require("pyarrow.parquet", "Tables of pictures need it: pip install pyarrow")
        with open_file(path) as file:
            table = pq.ParquetFile(file)
            schema = table.schema_arrow
            name = choose_column(path, schema, self._column)
            ids = _column(path, schema, self._id_column) if self._id_column else "id" if "id" in schema.names else None
            kind = schema.field(name).type
            texts = _is_text(kind)
            wanted = list(dict.fromkeys([*([name] if texts else []), *([ids] if ids else [])]))
            content = table.read(columns=wanted) if wanted else None
            count = table.metadata.num_rows
        if not texts and not _holds_bytes(kind):
            raise UserError(f"column '{name}' holds {kind}, neither paths nor picture files.", file=path)
        own = list(_strings(path, content, ids)) if ids else None
        if texts:
            values = list(_strings(path, content, name))
            self._add_files([inside(parent(path), value) for value in values], own or values)
            return
        self._ids.extend(own or [f"{path}#{row}" for row in range(count)])
        self._addresses.extend([absolute(path)] * count)
        self._rows.extend(range(count))


def _is_of_pictures(path: str) -> bool:
    """Whether a table would be taken for one of pictures: metadata that lies beside them is none."""
    if not is_remote(path) and is_manifest(Path(path)):
        return False
    try:
        with open_file(path) as file:
            return not set(COLUMNS).isdisjoint(pl.read_parquet_schema(file))
    except pl.exceptions.PolarsError:  # no table, whatever its name says
        return False


def _column(path: str, schema: Any, name: str) -> str:
    if name not in schema.names:
        raise UserError(f"there is no column '{name}'; the columns are {', '.join(schema.names)}.", file=path)
    return name


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _strings(path: str, content: Any, name: str) -> Iterator[str]:
    for row, value in enumerate(content.column(name).to_pylist()):
        if value is None or value == "":
            raise UserError(f"column '{name}' is empty in row {row} (counted from 0).", file=path)
        yield str(value)


def _frame(ids: Sequence[str], addresses: Sequence[str], rows: Sequence[int] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": pl.Series(ids, dtype=pl.String),
            "address": pl.Series(addresses, dtype=pl.String),
            "row": pl.Series(np.full(len(ids), WHOLE_FILE) if rows is None else rows, dtype=pl.Int64),
        }
    )


def _refuse_repeats(found: pl.DataFrame) -> None:
    repeated = found.filter(found["id"].is_duplicated())
    if len(repeated):
        first = repeated["id"][0]
        addresses = repeated.filter(repeated["id"] == first)["address"].to_list()
        raise UserError(f"two pictures have the id '{first}': {addresses[0]} and {addresses[1]}.")
