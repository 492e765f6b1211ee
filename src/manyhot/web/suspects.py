"""The queue of the review: the most suspect labels of all classes, one after the other."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
from fastapi import FastAPI
from fastapi.responses import Response

from manyhot.metrics.label_errors import find_label_errors
from manyhot.web.answers import binary
from manyhot.web.collection import Collection

MOST = 10_000
"""Entries of the queue: more than anybody decides in one go."""


def queue(collection: Collection, most: int = MOST) -> bytes:
    """Known labels, most suspect first: little-endian uint32 rows [M], uint32 classes [M], then uint8 flags [M].

    They are ranked by `manyhot data review` where its table covers these pictures; else by the same rule from the
    scores at hand. A flag of 1: held for an error.
    """
    if collection.review is not None:
        numbers = pl.DataFrame({"class": collection.predictions.classes}).with_row_index("class_index")
        part = collection.review.join(numbers, on="class", maintain_order="left").head(most)
        rows, classes, flagged = (part[name].to_numpy() for name in ("row", "class_index", "flagged"))
    else:
        found = find_label_errors(collection.predictions.ranking, collection.predictions.labels, most)
        rows, classes, flagged = found.images, found.classes, found.flagged
    return rows.astype("<u4").tobytes() + classes.astype("<u4").tobytes() + flagged.astype(np.uint8).tobytes()


def add_queue(app: FastAPI, collection: Collection) -> None:
    """Add the place under which the queue is asked for."""
    made = cache(lambda: queue(collection))

    @app.get("/api/suspects", response_class=Response)
    def suspects() -> Response:
        """Little-endian: uint32 rows [M], uint32 classes [M], the most suspect label first; uint8 flags [M]."""
        return binary(made())
