"""Boxes that another program proposed for every picture: read from a table, and boxes of heat maps snapped to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from manyhot.errors import UserError
from manyhot.localization.boxes import HeatBox
from manyhot.localization.heat import Heat
from manyhot.metrics.overlap import Boxes, iou

CORNERS = ("x0", "y0", "x1", "y1")


def read_proposals(path: Path, ids: Sequence[str]) -> dict[int, Boxes]:
    """Boxes [R, 4] of pictures, by their place in `ids`; a picture without any is left out.

    Arguments:
        path: Parquet with a row a box: id, x0, y0, x1, y1 in pixels of the picture as displayed, from 0, x1 and y1
            exclusive. Further columns, and pictures that are not asked for, are passed over.
        ids: of the pictures.

    Raises:
        UserError: no such file, another table, a corner that is no finite number, a box without area, or no proposal
            for any of the pictures.
    """
    try:
        frame = pl.read_parquet(path, columns=["id", *CORNERS])
        numbers = frame.select(pl.col(CORNERS).cast(pl.Float64)).to_numpy()
    except FileNotFoundError:
        raise UserError("there is no such file.", file=path) from None
    except (pl.exceptions.PolarsError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"this is not a table of proposals with id, x0, y0, x1, y1 ({reason}).", file=path) from None
    whole = np.isfinite(numbers).all(axis=1) & (numbers[:, 2:] > numbers[:, :2]).all(axis=1)
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        raise UserError(f"row {row}: x1 must be greater than x0, and y1 than y0, all of them finite.", file=path)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(frame["id"].cast(pl.String)):
        rows_of.setdefault(name, []).append(row)
    found = {place: numbers[rows_of[name]] for place, name in enumerate(ids) if name in rows_of}
    if not found and len(ids):
        raise UserError(
            f"the table has no box for any of these {len(ids)} pictures, for example '{ids[0]}'.", file=path
        )
    return found


class Snapping:
    """Puts the proposal that overlaps it most in the place of every box.

    Arguments:
        proposals: boxes [R, 4] of the pictures, by row.
        least_iou: below it a box stays what it is.
    """

    def __init__(self, proposals: dict[int, Boxes], least_iou: float = 0.3) -> None:
        self.proposals, self.least_iou = proposals, least_iou

    def refine(self, row: int, heat: Heat, found: list[HeatBox]) -> list[HeatBox]:
        """The boxes of one map, in their order; of two that snap to the same proposal the first is kept."""
        own = self.proposals.get(row)
        if own is None or not found:
            return found
        overlap = iou(np.array([box.corners for box in found], np.float64), own)
        height, width = heat.shape
        snapped: list[HeatBox] = []
        for box, values in zip(found, overlap, strict=True):
            best = int(values.argmax())
            if values[best] >= self.least_iou:
                x0, y0, x1, y1 = (round(float(value)) for value in own[best])
                corners = (max(0, x0), max(0, y0), min(width, x1), min(height, y1))
                if corners[0] >= corners[2] or corners[1] >= corners[3]:
                    corners = box.corners
                box = HeatBox(corners, box.heat)
            if all(box.corners != former.corners for former in snapped):
                snapped.append(box)
        return snapped
