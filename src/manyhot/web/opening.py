"""From what stands on the command line to a collection: a run, a table of predictions, or a table of any program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from manyhot.data.manifest import Manifest
from manyhot.data.sources import open_source
from manyhot.errors import UserError
from manyhot.predictions import Predictions
from manyhot.recipe import load_recipe
from manyhot.runs import Run, open_run
from manyhot.web.collection import Collection, fitted
from manyhot.web.comparing import Compared, compared
from manyhot.web.stored import StoredPredictions

_SUFFIXES = (".parquet", ".csv")


@dataclass(frozen=True)
class Opened:
    """What a gallery is made of.

    Arguments:
        title: what the page is called.
        collection: the scored pictures; None for a run that is not evaluated yet.
        run: the run folder, where there is one.
        journal: file of the decisions that people take.
        compared: the same pictures scored by another model; None where there is none.
        detections: where `manyhot localize`, or of a detector `manyhot detect`, writes its boxes in these pictures;
            None where it cannot have.
        detector: the run is of a detector, whose bundle says nothing of a single picture.
    """

    title: str
    collection: Collection | None
    run: Run | None
    journal: Path
    compared: Compared | None = None
    detections: Path | None = None
    detector: bool = False


def open_gallery(
    path: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    data: str | None = None,
    kind: str | None = None,
    journal: Path | None = None,
    compare: Path | None = None,
) -> Opened:
    """Read what is to be browsed.

    Arguments:
        path: a run folder; or a table of predictions, `.parquet` or `.csv`, ours or with an id and a score a class.
        split: of a run, the split to browse; None is the recipe's val split.
        images: folder of the pictures that a table names.
        data: the data that was scored, where it is not the run's own.
        kind: kind of `data`, where it is not to be recognised.
        compare: a run or table whose scores of the same pictures are to be set beside; of a run, the same split.
        journal: file for decisions; None is `label-decisions.jsonl` in the run, `NAME.decisions.jsonl` beside a table.

    Raises:
        UserError: no such run or table, ids that do not fit the data, scores outside 0…1.
    """
    if kind and not data:
        raise UserError("--source says how to read --data, and there is none.")
    if images is not None and not images.is_dir():
        raise UserError("there is no such folder of pictures.", file=images)
    if path.suffix in _SUFFIXES and not path.is_dir():
        if split:
            raise UserError("--split is for a run; a table is browsed whole.", file=path)
        if data and images:
            raise UserError("--data knows its pictures; leave out --images.")
        predictions = read_table(path)
        found = _collected(predictions, open_source(data, kind=kind) if data else None, images, path, foreign=True)
        beside = _beside(found, path, compare, None)
        return Opened(path.name, found, None, journal or path.with_name(f"{path.stem}.decisions.jsonl"), beside)
    run = open_run(path)
    if images is not None:
        raise UserError("a run knows its pictures; --images is for a table.", file=path)
    recipe = load_recipe(str(run.recipe))
    split = split or recipe.data.val_split
    detector = recipe.model.detector is not None
    table = (run.detection(split) if detector else run.evaluation(split)) / "predictions.parquet"
    opened = None
    if table.exists():
        manifest = (
            open_source(data, kind=kind, difficult=recipe.data.difficult) if data else Manifest.load(run.manifest)
        )
        opened = _collected(StoredPredictions(table), manifest, None, table)
        if (review := run.path / "review.parquet").exists():
            opened = opened.with_review(_read_review(review))
    beside = _beside(opened, path, compare, split)
    journal = journal or run.path / "label-decisions.jsonl"
    detections = (run.detection(split) if detector else run.localization(split)) / "detections.parquet"
    return Opened(f"{recipe.name}: {split}", opened, run, journal, beside, detections, detector)


def read_table(path: Path) -> Predictions:
    """Predictions from our own Parquet; or from any Parquet or CSV with a column `id` and a column of scores a class.

    Columns of text other than `id` and `split` are left out. Labels are unknown.

    Raises:
        UserError: no such file, no ids or scores in it, an id twice, a score outside 0…1.
    """
    try:
        if path.suffix == ".parquet" and "manyhot.predictions" in pl.read_parquet_metadata(path):
            return StoredPredictions(path)
        frame = pl.read_csv(path, infer_schema_length=None) if path.suffix == ".csv" else pl.read_parquet(path)
    except FileNotFoundError:
        raise UserError("there is no such file.", file=path) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"this is not a table ({error}).", file=path) from None
    if "id" not in frame.columns:
        raise UserError("the table has no column 'id'.", file=path, remedy=f"It has {_some(frame.columns)}.")
    ids = frame["id"].cast(pl.String)
    classes = [name for name in frame.columns if name != "id" and frame.schema[name].is_numeric()]
    if not classes:
        raise UserError("the table has no column of scores beside 'id'.", file=path)
    if ids.null_count() or ids.n_unique() < len(ids):
        raise UserError("an id is missing or stands twice.", file=path)
    scores = np.ascontiguousarray(frame.select(pl.col(classes).cast(pl.Float32)).to_numpy(), np.float32)
    bad = ~((scores >= 0) & (scores <= 1))
    if bad.any():
        row, column = (int(one[0]) for one in np.nonzero(bad))
        what = f"the score of '{ids[row]}' for '{classes[column]}' is {scores[row, column]:g}, not in 0…1."
        raise UserError(what, file=path, remedy="Apply the sigmoid or softmax first.")
    splits = tuple(frame["split"].cast(pl.String)) if "split" in frame.columns else ("",) * len(ids)
    return Predictions(tuple(ids), splits, scores, np.full(scores.shape, -1, np.int8), tuple(classes))


def _collected(
    predictions: Predictions, manifest: Manifest | None, images: Path | None, where: Path, *, foreign: bool = False
) -> Collection:
    if not len(predictions):
        raise UserError("there is no picture in the table.", file=where)
    if manifest is None:
        return Collection(predictions, images=images)
    rows = fitted(predictions, manifest, where)
    if foreign and (predictions.labels == -1).all():  # scores from elsewhere: the labels are those of the data
        labels = np.ascontiguousarray(manifest.labels[rows])
        predictions = Predictions(
            predictions.ids, predictions.splits, predictions.scores, labels, predictions.classes, manifest.task
        )
    return Collection(predictions, manifest, rows)


def _beside(collection: Collection | None, path: Path, compare: Path | None, split: str | None) -> Compared | None:
    if compare is None:
        return None
    if collection is None:
        remedy = f"First: manyhot evaluate {path} --split {split}"
        raise UserError(f"split '{split}' of this run has not been evaluated.", file=path, remedy=remedy)
    if compare.suffix in _SUFFIXES and not compare.is_dir():
        other = read_table(compare)
    else:
        run = open_run(compare)
        split = split or load_recipe(str(run.recipe)).data.val_split
        table = run.evaluation(split) / "predictions.parquet"
        if not table.exists():
            remedy = f"First: manyhot evaluate {compare} --split {split}"
            raise UserError(f"split '{split}' of this run has not been evaluated.", file=compare, remedy=remedy)
        other = StoredPredictions(table)
    return compared(collection.predictions, other, (str(path), str(compare)))


def _read_review(path: Path) -> pl.DataFrame:
    """What `data review` wrote, read as the plain table it is: its own module costs the start of torch."""
    try:
        return pl.read_parquet(path, columns=["rank", "id", "class", "flagged"])
    except (OSError, pl.exceptions.PolarsError) as error:
        remedy = "Make it anew: manyhot data review RUN; or remove it."
        raise UserError(f"this is not a review of labels ({error}).", file=path, remedy=remedy) from None


def _some(names: list[str]) -> str:
    return json.dumps(names[:6], ensure_ascii=False)[1:-1] + (", …" if len(names) > 6 else "")
