"""Predictions: one row an image, scores beside labels. What metrics, report and gallery read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.atomic import atomic_path, write_text
from manyhot.errors import UserError

_KEY = "manyhot.predictions"

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of N images for C classes.

    Arguments:
        ids: N image ids, unique.
        splits: N split names.
        scores: float32 [N, C], in 0…1, after the sigmoid or softmax.
        labels: int8 [N, C]; 1 present, 0 absent, -1 ignored or unknown.
        classes: C class names.
        task: "multilabel" or "multiclass".
        source: where it came from: bundle sha256, label rule, crops and the like, all strings.
        uncalibrated: float32 [N, C], the scores before calibration, where `scores` are calibrated; else None.
        thresholds: C scores above which the model predicts a class; None where nothing is known of them.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    scores: NDArray[np.float32]
    labels: NDArray[np.int8]
    classes: tuple[str, ...]
    task: str = "multilabel"
    source: dict[str, str] = field(default_factory=dict)
    uncalibrated: NDArray[np.float32] | None = None
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        assert self.scores.shape == shape, (self.scores.shape, shape)
        assert self.labels.shape == shape, (self.labels.shape, shape)
        assert len(self.splits) == len(self.ids)
        assert self.uncalibrated is None or self.uncalibrated.shape == shape, shape
        assert self.thresholds is None or len(self.thresholds) == len(self.classes), self.thresholds

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    @property
    def ranking(self) -> NDArray[np.float32]:
        """The scores to rank by, float32 [N, C]: those before calibration, which may tie what they told apart."""
        return self.scores if self.uncalibrated is None else self.uncalibrated

    @property
    def calibrated(self) -> bool:
        """Whether `scores` are calibrated ones, with those before calibration beside them."""
        return self.uncalibrated is not None

    def predicted(self) -> list[list[str]]:
        """For each image, the classes whose score exceeds their threshold, in the order of the columns.

        Raises:
            UserError: nothing is known of thresholds.
        """
        if self.thresholds is None:
            raise UserError("these predictions know no thresholds.")
        above = self.scores > np.array(self.thresholds)
        return [[name for name, one in zip(self.classes, row, strict=True) if one] for row in above]

    def take(self, rows: Sequence[int]) -> Predictions:
        """The given rows, in the given order."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            splits=tuple(self.splits[i] for i in rows),
            scores=self.scores[rows],
            labels=self.labels[rows],
            uncalibrated=None if self.uncalibrated is None else self.uncalibrated[rows],
        )

    def split(self, name: str) -> Predictions:
        """The rows of one split, in order.

        Raises:
            UserError: no row belongs to it.
        """
        rows = [i for i, split in enumerate(self.splits) if split == name]
        if not rows:
            raise UserError(f"there are no predictions for split '{name}'.")
        return self.take(rows)

    def save(self, path: Path, *, predicted: bool = False, notes: Mapping[str, str] | None = None) -> None:
        """Write `.parquet` (everything), `.csv` or `.json` (ids and one score column a class).

        Arguments:
            path: its suffix decides.
            predicted: a column `predicted` after the scores: the classes above their thresholds, in `.csv` with `;`
                between them. `.parquet` holds the thresholds instead.
            notes: further entries of the metadata of `.parquet`.

        Raises:
            UserError: another suffix; a class named "id", or "predicted", where it would be a column beside that one;
                nothing is known of thresholds.
        """
        require_suffix(path)
        for column in ("id", *(["predicted"] if predicted else [])):
            if path.suffix != ".parquet" and column in self.classes:
                what = f"a class named '{column}' cannot stand beside the column of that name."
                raise UserError(what, file=path, remedy="Write .parquet.")
        if path.suffix == ".parquet":
            with atomic_path(path) as temporary:
                self._frame().write_parquet(temporary, metadata={_KEY: self._metadata(), **(notes or {})})
        elif path.suffix == ".csv":
            with atomic_path(path) as temporary:
                self._wide(";".join if predicted else None).write_csv(temporary, float_precision=6)
        else:
            rows = self._wide(list if predicted else None).to_dicts()
            write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read a `.parquet` file that `save` wrote.

        Raises:
            UserError: no such file, or not such a table.
        """
        frame, about = read_columns(path)
        width = len(about["classes"])
        return cls(
            ids=tuple(frame["id"]),
            splits=tuple(frame["split"]),
            scores=_matrix(frame["scores"], np.float32, width),
            labels=_matrix(frame["labels"], np.int8, width),
            uncalibrated=_matrix(frame["uncalibrated"], np.float32, width) if "uncalibrated" in frame.columns else None,
            **about,
        )

    def _metadata(self) -> str:
        metadata: dict[str, Any] = {"classes": self.classes, "task": self.task, "source": self.source}
        if self.thresholds is not None:
            metadata["thresholds"] = self.thresholds
        return json.dumps(metadata, ensure_ascii=False)

    def _frame(self) -> pl.DataFrame:
        scores = pl.Array(pl.Float32, len(self.classes))
        columns = {
            "id": pl.Series(self.ids, dtype=pl.String),
            "split": pl.Series(self.splits, dtype=pl.String),
            "scores": pl.Series(self.scores, dtype=scores),
            "labels": pl.Series(self.labels, dtype=pl.Array(pl.Int8, len(self.classes))),
        }
        if self.uncalibrated is not None:
            columns["uncalibrated"] = pl.Series(self.uncalibrated, dtype=scores)
        return pl.DataFrame(columns)

    def _wide(self, join: Callable[[list[str]], str | list[str]] | None) -> pl.DataFrame:
        frame = pl.DataFrame({"id": pl.Series(self.ids, dtype=pl.String)})
        scores = [pl.Series(name, self.scores[:, c]) for c, name in enumerate(self.classes)]
        if join is not None:
            scores.append(pl.Series("predicted", [join(names) for names in self.predicted()]))
        return frame.hstack(scores)


def require_suffix(path: Path) -> None:
    """Refuse a file name that says no known format, before the work of making its content.

    Raises:
        UserError: the suffix is none of .parquet, .csv, .json.
    """
    if path.suffix not in {".parquet", ".csv", ".json"}:
        raise UserError("predictions are written as .parquet, .csv or .json.", file=path)


def read_columns(path: Path, columns: Sequence[str] | None = None) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Columns of a `.parquet` file that `Predictions.save` wrote, and its classes, task, source and thresholds.

    Arguments:
        path: the file.
        columns: of id, split, scores, labels and uncalibrated; None is all that are there.

    Returns:
        The columns; the rest by the names that `Predictions` gives them.

    Raises:
        UserError: no such file, or not such a table.
    """
    try:
        frame = pl.read_parquet(path, columns=None if columns is None else list(columns))
        stored = pl.read_parquet_metadata(path)
        if _KEY not in stored:
            raise ValueError(f"the file's metadata lacks {_KEY}")  # noqa: TRY301
        known = json.loads(stored[_KEY])
        about = {
            "classes": tuple(known["classes"]),
            "task": known["task"],
            "source": known["source"],
            "thresholds": tuple(known["thresholds"]) if known.get("thresholds") else None,
        }
    except FileNotFoundError:
        raise UserError("there is no such file.", file=path) from None
    except (KeyError, ValueError, pl.exceptions.PolarsError) as error:
        raise UserError(f"this is not a table of predictions ({error}).", file=path) from None
    return frame, about


def _matrix(column: pl.Series, dtype: type[Scalar], width: int) -> NDArray[Scalar]:
    return np.ascontiguousarray(column.to_numpy(), dtype=dtype).reshape(-1, width)
