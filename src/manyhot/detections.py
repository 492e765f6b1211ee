"""Detections: one row a box with its class and score. Objects: the true boxes they are measured against."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.atomic import atomic_path
from manyhot.errors import UserError

_KEY = "manyhot.detections"
_CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, eq=False)
class Objects:
    """The M true objects of a set of pictures.

    Arguments:
        ids: M picture ids.
        names: M class names.
        boxes: float [M, 4]: x0, y0, x1, y1 in pixels, 0-based, x1 and y1 exclusive.
        difficult: bool [M], VOC's flag.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    boxes: NDArray[np.float64]
    difficult: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.ids)
        assert len(self.names) == count
        assert self.boxes.shape == (count, 4), self.boxes.shape
        assert self.difficult.shape == (count,), self.difficult.shape

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.ids)

    def places(self) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Boxes [K, 4] of each (id, class name) that has some, difficult ones among them."""
        return {pair: self.boxes[rows] for pair, rows in rows_by_pair(self.ids, self.names).items()}


@dataclass(frozen=True, eq=False)
class Detections:
    """M boxes that a model put into pictures.

    Arguments:
        ids: M picture ids; a picture may have any number of boxes.
        names: M class names, each one of `classes`.
        scores: float32 [M], finite, higher for surer ones.
        boxes: float32 [M, 4]: x0, y0, x1, y1 in pixels of the picture as displayed, 0-based, x1 and y1 exclusive.
        classes: C class names that were looked for.
        source: where they came from: bundle sha256, heat map, box rule and the like, all strings.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: tuple[str, ...]
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.ids)
        assert len(self.names) == count
        assert self.scores.shape == (count,), self.scores.shape
        assert self.boxes.shape == (count, 4), self.boxes.shape
        assert {*self.names} <= {*self.classes}, "a box of a class that was not looked for"

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.ids)

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[tuple[str, str, float, Sequence[float]]],
        classes: Sequence[str],
        source: dict[str, str] | None = None,
    ) -> Self:
        """Build the table from (id, class name, score, corners) of each box."""
        listed = list(rows)
        return cls(
            ids=tuple(row[0] for row in listed),
            names=tuple(row[1] for row in listed),
            scores=np.array([row[2] for row in listed], np.float32),
            boxes=np.array([tuple(row[3]) for row in listed], np.float32).reshape(-1, 4),
            classes=tuple(classes),
            source=source or {},
        )

    def save(self, path: Path) -> None:
        """Write Parquet: a row a box, with the columns id, class, score, x0, y0, x1, y1.

        Raises:
            UserError: another suffix than .parquet.
        """
        if path.suffix != ".parquet":
            raise UserError("detections are written as .parquet.", file=path)
        frame = pl.DataFrame(
            {
                "id": pl.Series(self.ids, dtype=pl.String),
                "class": pl.Series(self.names, dtype=pl.String),
                "score": pl.Series(self.scores, dtype=pl.Float32),
                **{name: pl.Series(self.boxes[:, i], dtype=pl.Float32) for i, name in enumerate(_CORNERS)},
            }
        )
        metadata = json.dumps({"classes": self.classes, "source": self.source}, ensure_ascii=False)
        with atomic_path(path) as temporary:
            frame.write_parquet(temporary, metadata={_KEY: metadata})

    @classmethod
    def load(cls, path: Path) -> Detections:
        """Read a file that `save` wrote.

        Raises:
            UserError: no such file, not such a table, a score or corner that is no finite number, a box without area,
                or a class that the file's own list lacks.
        """
        try:
            frame = pl.read_parquet(path)
            stored = pl.read_parquet_metadata(path)
            if _KEY not in stored:
                raise ValueError(f"the file's metadata lacks {_KEY}")  # noqa: TRY301
            metadata = json.loads(stored[_KEY])
            classes, source = tuple(metadata["classes"]), dict(metadata["source"])
            names = tuple(frame["class"])
            numbers = frame.select("score", *_CORNERS).cast(pl.Float32).to_numpy()
            ids = tuple(frame["id"])
        except FileNotFoundError:
            raise UserError("there is no such file.", file=path) from None
        except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(f"this is not a table of detections ({error}).", file=path) from None
        fault = _fault(names, numbers, classes)
        if fault is not None:
            row, what = fault
            raise UserError(f"row {row}: {what}.", file=path)
        scores, boxes = np.ascontiguousarray(numbers[:, 0]), np.ascontiguousarray(numbers[:, 1:])
        return cls(ids, names, scores, boxes, classes, source)


def rows_by_pair(ids: Sequence[str], names: Sequence[str]) -> dict[tuple[str, str], list[int]]:
    """The rows of each (id, class name), in their order."""
    found: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(zip(ids, names, strict=True)):
        found.setdefault(pair, []).append(row)
    return found


def _fault(names: Sequence[str], numbers_M5: NDArray[np.float32], classes: Sequence[str]) -> tuple[int, str] | None:
    """The first faulty row and what is wrong there."""
    known = set(classes)
    for row, (name, numbers_5) in enumerate(zip(names, numbers_M5, strict=True)):
        if name not in known:
            return row, f"class '{name}' is not in the table's list of classes"
        if not np.isfinite(numbers_5).all():
            return row, "a score or corner is no finite number"
        if not (numbers_5[3:] > numbers_5[1:3]).all():
            return row, "x1 must be greater than x0, and y1 than y0"
    return None
