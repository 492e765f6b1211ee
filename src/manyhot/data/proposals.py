"""Proposals: for each picture the boxes among which objects are looked for; kept as Parquet, one row a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.atomic import atomic_path
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError

Size = tuple[int, int]
Corners = NDArray[np.float32]
"""Float32 [R, 4]: x0, y0, x1, y1 in pixels of the picture as displayed, 0-based, x1 and y1 exclusive."""

_KEY = "manyhot.proposals"
_TABLE: dict[str, Any] = {
    "id": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "boxes": pl.List(pl.Array(pl.Float32, 4)),
    "scores": pl.List(pl.Float32),
}


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes of N pictures.

    Arguments:
        ids: N picture ids.
        boxes: N arrays float32 [R, 4], R ≥ 0, sorted by their corners.
        sizes: width and height of each picture in pixels, None where the source does not say.
        scores: N arrays float32 [R], higher for boxes more likely to hold an object; None: boxes have no scores.
        source: how they were found, all strings.
    """

    ids: tuple[str, ...]
    boxes: tuple[Corners, ...]
    sizes: tuple[Size | None, ...]
    scores: tuple[NDArray[np.float32], ...] | None = None
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.boxes) == len(self.sizes)
        assert all(own.ndim == 2 and own.shape[1] == 4 for own in self.boxes)
        if self.scores is not None:
            assert [len(own) for own in self.scores] == [len(own) for own in self.boxes]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.ids)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Boxes of each picture, int64 [N]."""
        return np.array([len(own) for own in self.boxes], np.int64)

    def of(self, manifest: Manifest, file: str | Path = "proposals") -> Proposals:
        """The proposals of a manifest's pictures, in its order; other pictures are left out.

        Arguments:
            manifest: of the pictures.
            file: where the proposals come from, for messages.

        Raises:
            UserError: a picture without an entry, or an entry made for a picture of another size.
        """
        at = {id_: row for row, id_ in enumerate(self.ids)}
        ids = manifest.ids
        lacking = [id_ for id_ in ids if id_ not in at]
        if lacking:
            others = [id_ for id_ in self.ids if id_ not in set(ids)]
            raise UserError(
                f"these proposals do not fit the pictures: {len(lacking)} of {len(ids)} pictures have no entry, first "
                f"{_quoted(lacking)}; entries of other pictures: {_quoted(others)}.",
                file=file,
                remedy="Make them of this data: manyhot data proposals SOURCE --out FILE.",
            )
        rows = [at[id_] for id_ in ids]
        sizes = manifest.table.select("width", "height").rows()
        for row, (id_, size) in zip(rows, zip(ids, sizes, strict=True), strict=True):
            own = self.sizes[row]
            if own is not None and None not in size and own != tuple(size):
                raise UserError(
                    f"these proposals do not fit the pictures: '{id_}' is {size[0]} x {size[1]} pixels, they were "
                    f"made for {own[0]} x {own[1]}.",
                    file=file,
                )
        return Proposals(
            tuple(ids),
            tuple(self.boxes[row] for row in rows),
            tuple(self.sizes[row] for row in rows),
            None if self.scores is None else tuple(self.scores[row] for row in rows),
            self.source,
        )

    def save(self, path: Path) -> None:
        """Write Parquet: a row a picture, with the columns id, width, height, boxes (a list) and scores (likewise).

        Raises:
            UserError: another suffix than .parquet.
        """
        require_parquet(path)
        frame = pl.DataFrame(
            {
                "id": self.ids,
                "width": [None if size is None else size[0] for size in self.sizes],
                "height": [None if size is None else size[1] for size in self.sizes],
                "boxes": [own.tolist() for own in self.boxes],
                "scores": [None] * len(self) if self.scores is None else [own.tolist() for own in self.scores],
            },
            schema=_TABLE,
        )
        with atomic_path(path) as temporary:
            frame.write_parquet(temporary, metadata={_KEY: json.dumps(self.source, ensure_ascii=False)})

    @classmethod
    def load(cls, path: str | Path) -> Proposals:
        """Read a file that `save` wrote, or one with its columns id and boxes.

        Raises:
            UserError: no such file, not such a table, an id twice, or a corner that is none.
        """
        try:
            frame = pl.read_parquet(path)
            source = json.loads(pl.read_parquet_metadata(path).get(_KEY, "{}"))
            for name in ("width", "height", "scores"):
                if name not in frame.columns:
                    frame = frame.with_columns(pl.lit(None).alias(name))
            frame = frame.select(pl.col(name).cast(kind) for name, kind in _TABLE.items())
        except FileNotFoundError:
            raise UserError("there is no such file.", file=path) from None
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(f"this is not a table of proposals ({error}).", file=path) from None
        if frame["id"].n_unique() < frame.height:
            twice = frame["id"].filter(frame["id"].is_duplicated())[0]
            raise UserError(f"the picture '{twice}' has two entries.", file=path)
        if frame["id"].null_count() or frame["boxes"].null_count():
            raise UserError("a row lacks its id or its list of boxes.", file=path)
        boxes = tuple(_corners(own) for own in frame["boxes"])
        for id_, own in zip(frame["id"], boxes, strict=True):
            if fault := find_fault(own):
                raise UserError(f"picture '{id_}': {fault}.", file=path)
        sizes = tuple(None if None in size else size for size in frame.select("width", "height").rows())
        scored = frame.height > 0 and frame["scores"].null_count() == 0
        scores = tuple(own.to_numpy().astype(np.float32) for own in frame["scores"]) if scored else None
        if scores is not None and [len(own) for own in scores] != [len(own) for own in boxes]:
            raise UserError("a picture has another number of scores than of boxes.", file=path)
        return cls(tuple(frame["id"]), boxes, sizes, scores, source)


def require_parquet(path: Path) -> None:
    """Refuse a file that proposals cannot be written to.

    Raises:
        UserError: another suffix than .parquet.
    """
    if path.suffix != ".parquet":
        raise UserError("proposals are written as .parquet.", file=path)


def tidy(boxes: NDArray[np.floating], size: Size | None, min_side: float) -> Corners:
    """Boxes cut to the picture, without those that are too small and without repeats, sorted by x0, y0, x1, y1.

    Arguments:
        boxes: float [M, 4], any order.
        size: width and height of the picture; None: boxes are not cut.
        min_side: least width and height that a box must have, pixels.
    """
    found = np.asarray(boxes, np.float32).reshape(-1, 4)
    if size is not None:
        found = found.clip(0, np.array([*size, *size], np.float32))
    sides = found[:, 2:] - found[:, :2]
    large = (sides >= min_side).all(axis=1) & (sides > 0).all(axis=1)
    return np.unique(found[large], axis=0)


def find_fault(boxes: Corners) -> str | None:
    """What is wrong with the first faulty box; None where all are sound."""
    bad = ~np.isfinite(boxes).all(axis=1)
    if bad.any():
        return f"box {int(bad.argmax())} has a corner that is no finite number"
    empty = ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if empty.any():
        row = int(empty.argmax())
        return f"box {row} ({', '.join(f'{one:g}' for one in boxes[row])}) must have x1 > x0 and y1 > y0"
    return None


def _corners(own: pl.Series) -> Corners:
    return own.to_numpy().astype(np.float32).reshape(-1, 4)


def _quoted(ids: Sequence[str], count: int = 3) -> str:
    if not ids:
        return "none"
    return ", ".join(f"'{one}'" for one in ids[:count]) + (", …" if len(ids) > count else "")
