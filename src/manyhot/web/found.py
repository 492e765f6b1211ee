"""The boxes that `manyhot localize` or `manyhot detect` put into the pictures of a gallery."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from manyhot.detections import Detections
from manyhot.web.answers import inside
from manyhot.web.collection import Collection


class Found:
    """One table of detections, read when it is first asked for, and anew when it was written anew.

    Arguments:
        path: detections.parquet, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._rows: dict[str, list[int]] = {}
        self._table: Detections | None = None

    def of(self, id_: str) -> dict[str, Any] | None:
        """Boxes of a picture, the surest first, and by what they were found; None where there is no table.

        Raises:
            UserError: the file is no table of detections.
        """
        with self._mutex:
            self._read()
            table, rows = self._table, self._rows.get(id_, [])
        if table is None:
            return None
        boxes = [
            {
                "name": table.names[row],
                "score": float(table.scores[row]),
                **dict(zip(("x0", "y0", "x1", "y1"), table.boxes[row].tolist(), strict=True)),
            }
            for row in sorted(rows, key=lambda row: -float(table.scores[row]))
        ]
        return {"boxes": boxes, "by": ", ".join(filter(None, map(table.source.get, ("detector", "heatmap", "boxes"))))}

    def _read(self) -> None:
        try:
            stat = self._path.stat()
        except OSError:
            self._stamp, self._table, self._rows = None, None, {}
            return
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return
        self._table = Detections.load(self._path)
        self._rows = {}
        for row, id_ in enumerate(self._table.ids):
            self._rows.setdefault(id_, []).append(row)
        self._stamp = stamp


def add_found(app: FastAPI, collection: Collection, path: Path) -> None:
    """Add the place under which the boxes of a picture are asked for."""
    found = Found(path)

    @app.get("/api/pictures/{row}/detections")
    def detections(row: int) -> dict[str, Any]:
        """Boxes that `manyhot localize` or `detect` found in a picture, in its pixels; `known` is false before."""
        boxes = found.of(collection.predictions.ids[inside(row, len(collection), "picture")])
        return {"known": boxes is not None, **(boxes or {"boxes": [], "by": ""})}
