"""Pictures of a part, brought into memory ahead of their decoding: from any filesystem, and out of Parquet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from manyhot.data.images import DamagedImage, EncodedPicture
from manyhot.errors import UserError
from manyhot.inference.pictures.addresses import is_remote, open_address
from manyhot.inference.pictures.listing import WHOLE_FILE, choose_column

# Enough requests under way to hide the answering time of an object store, few enough for its limits.
_FETCHERS, _AHEAD = 8, 64

_ATTEMPTS, _PAUSE_SECONDS = 3, 1.0

# What a repetition does not mend: the picture is at fault, not the way to it.
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, KeyError)


class Fetched(Sequence[Path | EncodedPicture]):
    """N pictures as `Predictor.score` takes them: local files by their paths, others with their content.

    They are asked for once each, nearly in order; those that follow are fetched meanwhile.

    Arguments:
        addresses: N, as `list_pictures` gives them.
        rows: N, likewise.
        column: of tables; as `list_pictures` was given it.
    """

    def __init__(self, addresses: Sequence[str], rows: Sequence[int], column: str | None = None) -> None:
        self._addresses, self._rows, self._column = addresses, rows, column
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[bytes]] = {}
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __len__(self) -> int:
        """N."""
        return len(self._addresses)

    @overload
    def __getitem__(self, index: int) -> Path | EncodedPicture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path | EncodedPicture]: ...
    def __getitem__(self, index: int | slice) -> Path | EncodedPicture | Sequence[Path | EncodedPicture]:
        """One picture.

        Raises:
            DamagedImage: it is not there, or may not be read.
            UserError: the way to it is interrupted, also after some attempts.
        """
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if self._is_local(index):
            return Path(self._addresses[index])
        with self._lock:
            while self._next < min(len(self), index + _AHEAD):
                if not self._is_local(self._next):
                    arguments = (self._addresses[self._next], self._rows[self._next], self._column)
                    self._waiting[self._next] = self._pool.submit(fetch, *arguments)
                self._next += 1
            waiting = self._waiting.pop(index)
        return EncodedPicture(waiting.result(), self._addresses[index])

    def _is_local(self, index: int) -> bool:
        return self._rows[index] == WHOLE_FILE and not is_remote(self._addresses[index])


def fetch(address: str, row: int = WHOLE_FILE, column: str | None = None) -> bytes:
    """The content of a picture file, or of a row of a Parquet table that `list_pictures` found.

    Raises:
        DamagedImage: it is not there, or may not be read.
        UserError: the way to it is interrupted, also after some attempts.
    """
    for attempt in range(_ATTEMPTS):
        try:
            if row != WHOLE_FILE:
                return _from_table(address, row, column)
            filesystem, path = open_address(address)
            content: bytes = filesystem.cat_file(path)
            return content  # noqa: TRY300
        except _FINAL as error:
            reason = "may not be read" if isinstance(error, PermissionError) else "there is no such file"
            raise DamagedImage(address, reason) from None
        except (UserError, DamagedImage):
            raise
        except Exception as error:  # noqa: BLE001 - every filesystem has errors of its own
            if attempt + 1 == _ATTEMPTS:
                what = f"cannot be fetched after {_ATTEMPTS} attempts ({error or type(error).__name__})."
                raise UserError(what, file=address) from None
            time.sleep(_PAUSE_SECONDS * 3**attempt)
    raise AssertionError


_tables = threading.Lock()


def _from_table(address: str, row: int, column: str | None) -> bytes:
    with _tables:  # threads that ask for rows of one group wait for the first of them
        starts, name = _shape(address, column)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        value = _group(address, name, group)[row - int(starts[group])].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        raise DamagedImage(f"{address}#{row}", "there are no bytes")
    return bytes(content)


@lru_cache(maxsize=64)
def _shape(address: str, column: str | None) -> tuple[NDArray[np.int64], str]:
    """The first row of each row group, int64 [groups], and the column that holds the pictures."""
    with _open_table(address) as table:
        counts = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
        return np.cumsum([0, *counts[:-1]]), choose_column(address, table.schema_arrow, column)


@lru_cache(maxsize=2)
def _group(address: str, name: str, group: int) -> Any:
    with _open_table(address) as table:
        return table.read_row_group(group, columns=[name]).column(name)


@contextmanager
def _open_table(address: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    filesystem, path = open_address(address)
    with filesystem.open(path, "rb") as file:
        yield pq.ParquetFile(file)
