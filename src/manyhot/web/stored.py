"""Predictions in a file: ids and classes are read at once, scores and labels when they are first asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.errors import UserError
from manyhot.predictions import Predictions, read_columns


class StoredPredictions(Predictions):
    """A table that `Predictions.save` wrote. A million pictures of 80 classes take seconds to read whole.

    Arguments:
        path: a `.parquet` file.

    Raises:
        UserError: no such file, or not such a table. Where scores or labels alone cannot be read, or a score is not in
            0…1, asking for them raises it.
    """

    def __init__(self, path: Path) -> None:
        frame, about = read_columns(path, ["id", "split"])
        known = {"ids": tuple(frame["id"]), "splits": tuple(frame["split"]), **about}
        known |= {"_path": path, "_lock": threading.Lock(), "_whole": None}
        known["_calibrated"] = "uncalibrated" in pl.read_parquet_schema(path)
        self.__dict__.update(known)  # the class is frozen

    @property
    def whole(self) -> Predictions:
        """All of it in memory; whoever asks first reads it, others wait."""
        known = self.__dict__
        with known["_lock"]:
            if known["_whole"] is None:
                known["_whole"] = _checked(Predictions.load(known["_path"]), known["_path"])
            found: Predictions = known["_whole"]
            return found

    @property
    def scores(self) -> NDArray[np.float32]:
        """As in `Predictions`."""
        return self.whole.scores

    @property
    def labels(self) -> NDArray[np.int8]:
        """As in `Predictions`."""
        return self.whole.labels

    @property
    def uncalibrated(self) -> NDArray[np.float32] | None:
        """As in `Predictions`."""
        return self.whole.uncalibrated

    @property
    def calibrated(self) -> bool:
        """As in `Predictions`, without reading scores."""
        return bool(self.__dict__["_calibrated"])

    def take(self, rows: Sequence[int]) -> Predictions:
        """As in `Predictions`."""
        return self.whole.take(rows)


def _checked(predictions: Predictions, path: Path) -> Predictions:
    """What was read; damage that no sum in the file tells mostly shows as scores that are none."""
    with np.errstate(invalid="ignore"):
        for scores in (predictions.scores, predictions.uncalibrated):
            if scores is not None and scores.size and not (scores.min() >= 0 and scores.max() <= 1):
                raise UserError("a score is not in 0…1.", file=path, remedy="Evaluate anew: the file may be damaged.")
    return predictions
