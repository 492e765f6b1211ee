"""What a gallery shows: predictions, the files of their pictures, and what is asked of one class."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.data.images import IMAGE_SUFFIXES
from manyhot.data.manifest import Box, Manifest
from manyhot.errors import UserError
from manyhot.metrics.label_errors import find_label_errors
from manyhot.metrics.ranking import ranking_ap
from manyhot.predictions import Predictions

_NAMED = 3  # differing ids that a message names


@dataclass(frozen=True, eq=False)
class Collection:
    """Scored pictures, known by their row in the table of predictions.

    Arguments:
        predictions: N pictures, C classes.
        manifest: the data that the pictures belong to; None where it is not known.
        manifest_rows: int64 [N]; the manifest's row of each picture; empty without a manifest.
        images: folder of pictures that are named by their ids, where there is no manifest.
        review: the table of probable label errors (manyhot.review), where one covers these pictures.
    """

    predictions: Predictions
    manifest: Manifest | None = None
    manifest_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    images: Path | None = None
    review: pl.DataFrame | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.predictions)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Scores above which a class is predicted, C; 0.5 where nothing is known of them."""
        return self.predictions.thresholds or (0.5,) * len(self.predictions.classes)

    def warm(self) -> None:
        """Read what was not read yet; a fault is raised anew where it matters."""
        with suppress(UserError):
            _ = self.predictions.scores

    def file(self, row: int) -> Path | None:
        """The picture's file, which need not exist; None where no file can be named."""
        if self.manifest is not None:
            return self.manifest.root / self.name(row)
        return None if self.images is None else _within(self.images, self.predictions.ids[row])

    def name(self, row: int) -> str:
        """The picture's path as its data set writes it; its id where there is no manifest."""
        if self.manifest is None:
            return self.predictions.ids[row]
        return str(self.manifest.table["image"][int(self.manifest_rows[row])])

    def boxes(self, row: int) -> list[Box]:
        """The true objects of a picture."""
        return [] if self.manifest is None else self.manifest.boxes(int(self.manifest_rows[row]))

    def ranking(self, class_index: int) -> bytes:
        """One class as little-endian arrays in a row: float32 scores [N], uint32 rows [N], int8 labels [N].

        The rows stand in the order of the ranking, most probable first; equal ones keep the order of the table.
        """
        scores = np.ascontiguousarray(self.predictions.scores[:, class_index], "<f4")
        labels = np.ascontiguousarray(self.predictions.labels[:, class_index])
        order = descending(np.ascontiguousarray(self.predictions.ranking[:, class_index]))
        return scores.tobytes() + order.astype("<u4").tobytes() + labels.tobytes()

    def suspects(self, class_index: int) -> bytes:
        """Known labels of one class, most suspect first: little-endian uint32 rows [M], then uint8 flags [M].

        They are ranked by `manyhot data review` where its table covers these pictures; else by the same rule from the
        scores at hand. A flag of 1: held for an error.
        """
        if self.review is not None:
            part = self.review.filter(pl.col("class") == self.predictions.classes[class_index])
            rows, flagged = part["row"].to_numpy(), part["flagged"].to_numpy()
        else:
            one = slice(class_index, class_index + 1)
            scores, labels = self.predictions.ranking[:, one], self.predictions.labels[:, one]
            found = find_label_errors(np.ascontiguousarray(scores), np.ascontiguousarray(labels))
            rows, flagged = found.images, found.flagged
        return rows.astype("<u4").tobytes() + flagged.astype(np.uint8).tobytes()

    def measures(self) -> list[dict[str, Any]]:
        """For each class: AP (None where undefined), numbers of positives and of ignored pictures."""
        found = ranking_ap(self.predictions.ranking, self.predictions.labels)
        return [
            {"ap": None if np.isnan(ap) else float(ap), "n_positive": int(positive), "n_ignored": int(ignored)}
            for ap, positive, ignored in zip(found.ap, found.n_positive, found.n_ignored, strict=True)
        ]

    def pairs(self, number: int = 200) -> list[tuple[int, int, int, int]]:
        """The most frequent false positives beside a true class: true class, predicted class, pictures, of how many.

        A class is predicted above its threshold, in a single-label task where its score is the highest.
        """
        from manyhot.report.tables import false_positives

        found = false_positives(self.predictions, np.array(self.thresholds))
        return [
            (truth, other, int(found.counts[truth, other]), int(found.totals[truth]))
            for truth, other in found.largest(number)
        ]

    def with_review(self, table: pl.DataFrame) -> Collection:
        """The same with those entries of a review that are of these pictures and classes; unchanged where none is."""
        rows = pl.DataFrame({"id": pl.Series(self.predictions.ids, dtype=pl.String)}).with_row_index("row")
        known = table.filter(pl.col("class").is_in(list(self.predictions.classes)))
        found = known.join(rows, on="id", how="inner").sort("rank").select("row", "class", "flagged")
        if found.is_empty():
            return self
        return replace(self, review=found)


def descending(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The rows of float32 scores [N], 0 or more, highest first; equal ones in the order of the table.

    The bits of such a score, read as a whole number, keep its order; with the row behind them one plain sort does it,
    in a seventh of the time of a stable argsort.
    """
    keys = (~(scores + np.float32(0)).view(np.uint32)).astype(np.uint64) << np.uint64(32)  # + 0 makes -0 a 0
    keys |= np.arange(scores.size, dtype=np.uint64)
    keys.sort()
    return keys.astype(np.uint32)


def fitted(predictions: Predictions, manifest: Manifest, where: Path) -> NDArray[np.int64]:
    """The manifest's row of each picture, int64 [N].

    Raises:
        UserError: predictions and manifest differ in their classes, or a picture is not in the manifest.
    """
    if predictions.classes != manifest.classes:
        first = next(
            (pair for pair in zip(predictions.classes, manifest.classes, strict=False) if pair[0] != pair[1]), None
        )
        detail = f"'{first[0]}' and '{first[1]}'" if first else f"{len(predictions.classes)}, {len(manifest.classes)}"
        raise UserError(f"the classes are not those of the data; the first that differ: {detail}.", file=where)
    ids = pl.DataFrame({"id": pl.Series(predictions.ids, dtype=pl.String)})
    places = manifest.table.select("id").with_row_index("row")
    found = ids.join(places, on="id", how="left", maintain_order="left")["row"]
    rows = found.cast(pl.Int64).fill_null(-1).to_numpy()
    if (rows < 0).any():
        strangers = [predictions.ids[row] for row in np.flatnonzero(rows < 0)[:_NAMED]]
        what = f"{int((rows < 0).sum())} of {len(rows)} ids are not in the data; the first: {', '.join(strangers)}."
        raise UserError(what, file=where, remedy="Name the data that was scored: --data SOURCE.")
    return rows


def _within(folder: Path, name: str) -> Path | None:
    """The file `name` under `folder`, also without its suffix; None where the name, or a link, leads out of it."""
    root = Path(os.path.abspath(folder))  # noqa: PTH100 - the name itself must not leave it, whatever links do
    path = Path(os.path.normpath(root / name)) if "\0" not in name else root.parent
    if path == root or not path.is_relative_to(root):
        return None
    endings = ("", *sorted(IMAGE_SUFFIXES), *(one.upper() for one in sorted(IMAGE_SUFFIXES)))
    files = (path.with_name(path.name + one) for one in endings)
    found = next((file for file in files if os.path.isfile(file)), path)  # noqa: PTH113 - no fault for a long name
    inside = Path(os.path.realpath(found)).is_relative_to(os.path.realpath(root))
    return found if inside else None
