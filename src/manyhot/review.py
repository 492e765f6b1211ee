"""`data review`: features and labels in; a table of probable label errors, the most suspect first, out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from manyhot.atomic import atomic_path
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.metrics.folds import stratified_folds
from manyhot.metrics.label_errors import find_label_errors
from manyhot.metrics.out_of_fold import Features, Fit, logistic_regression, out_of_fold_scores

_KEY = "manyhot.review"

MISSING, WRONG = "missing label", "wrong label"
"""The two issues: labelled absent and probably present; labelled present and probably absent."""

COLUMNS = {
    "rank": pl.Int64,
    "id": pl.String,
    "image": pl.String,
    "split": pl.String,
    "class": pl.String,
    "label": pl.Int8,
    "suggested_label": pl.Int8,
    "issue": pl.String,
    "score": pl.Float32,
    "flagged": pl.Boolean,
    "rank_in_class": pl.Int64,
}


@dataclass(frozen=True, eq=False)
class Review:
    """The known (picture, class) entries of a data set, the most suspect label first.

    Arguments:
        table: one row an entry, in the order of `rank`. rank: from 1. id, image (path under the manifest's root),
            split, class. label: as given, 1 present or 0 absent. suggested_label: the other one. issue: "missing label"
            where the label is 0, "wrong label" where it is 1; what it would be if the label is an error. score: chance
            of being present, 0…1, from a model that has not seen the picture. flagged: whether the label is held for an
            error. rank_in_class: from 1.
        classes: C class names.
        label_rule: how the labels came about, as the manifest says.
        folds: how many the scores were made in.
    """

    table: pl.DataFrame
    classes: tuple[str, ...]
    label_rule: str
    folds: int

    def save(self, path: Path) -> Path:
        """Write the whole table as Parquet, and the flagged entries as `.csv` of the same name beside it.

        Returns:
            The CSV file.

        Raises:
            UserError: the name does not end in .parquet.
        """
        require_parquet(path)
        metadata = {"classes": self.classes, "label_rule": self.label_rule, "folds": self.folds}
        with atomic_path(path) as temporary:
            self.table.write_parquet(temporary, metadata={_KEY: json.dumps(metadata, ensure_ascii=False)})
        beside = path.with_suffix(".csv")
        with atomic_path(beside) as temporary:
            self.table.filter("flagged").write_csv(temporary, float_precision=6)
        return beside

    @classmethod
    def load(cls, path: Path) -> Review:
        """Read the Parquet file that `save` wrote.

        Raises:
            UserError: no such file, or not such a table.
        """
        try:
            table = pl.read_parquet(path)
            stored = pl.read_parquet_metadata(path)
            if _KEY not in stored or table.schema != COLUMNS:
                raise ValueError(f"it lacks {_KEY} or its columns")  # noqa: TRY301
            metadata = json.loads(stored[_KEY])
        except FileNotFoundError:
            raise UserError("there is no such file.", file=path) from None
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(f"this is not a review of labels ({error}).", file=path) from None
        return cls(table, tuple(metadata["classes"]), metadata["label_rule"], metadata["folds"])


def review(features: Features, manifest: Manifest, *, folds: int = 5, seed: int = 0, fit: Fit | None = None) -> Review:
    """Rank the labels of a data set by how probably they are wrong.

    The pictures are dealt into folds, each fold is scored by what was fitted on the others, and the scores are held
    against the labels. docs/label-errors.md tells how.

    Arguments:
        features: float16 or float32 [N, D], finite; row i belongs to picture i of the manifest.
        manifest: what to review, as a rule one split.
        folds: 2 or more, N at most.
        seed: 0 or more; of the folds.
        fit: what is fitted on the features; one L2-regularised logistic regression a class unless given.

    Raises:
        UserError: other numbers of features and pictures, features that are not finite, too few pictures or folds.
    """
    if len(features) != len(manifest):
        raise UserError(f"there are features of {len(features)} pictures, and {len(manifest)} pictures.")
    labels = manifest.labels
    assigned = stratified_folds(labels, folds, seed)
    scores = out_of_fold_scores(features, labels, assigned, fit or logistic_regression())
    found = find_label_errors(scores, labels)
    given = labels[found.images, found.classes]
    pictures = manifest.table.select("id", "image", "split")[found.images]
    table = pictures.with_columns(
        pl.int_range(1, pl.len() + 1).alias("rank"),
        pl.Series("class", np.array(manifest.classes, dtype=object)[found.classes], dtype=pl.String),
        pl.Series("label", given, dtype=pl.Int8),
        pl.Series("suggested_label", 1 - given, dtype=pl.Int8),
        pl.Series("issue", np.where(given == 1, WRONG, MISSING), dtype=pl.String),
        pl.Series("score", scores[found.images, found.classes], dtype=pl.Float32),
        pl.Series("flagged", found.flagged, dtype=pl.Boolean),
    ).with_columns(pl.int_range(1, pl.len() + 1).over("class").alias("rank_in_class"))
    return Review(table.select(*COLUMNS), manifest.classes, manifest.label_rule, folds)


def summarize(review: Review, top: int = 20) -> str:
    """The flagged labels for a terminal: counts of each class, then its `top` most suspect entries.

    Arguments:
        review: what `review` returned.
        top: entries a class, 0 or more.
    """
    flagged = review.table.filter("flagged")
    width = max(len("class"), *(len(name) for name in review.classes))
    lines = [f"{'class':{width}}  present  probably wrong   absent  probably missing"]
    for name in review.classes:
        known, issues = (table.filter(pl.col("class") == name)["label"] for table in (review.table, flagged))
        (present, absent), (wrong, missing) = (((one == 1).sum(), (one == 0).sum()) for one in (known, issues))
        lines.append(f"{name:{width}}  {present:7}  {wrong:14}  {absent:7}  {missing:16}")
    for name in review.classes if top else ():
        entries = flagged.filter(pl.col("class") == name)
        if not entries.is_empty():
            lines += ["", f"{name}: {_first(top, entries.height)}", "   rank  score  issue          picture"]
            lines += [
                f"{row['rank']:7}  {row['score']:.3f}  {row['issue']:13}  {row['id']}"
                for row in entries.head(top).iter_rows(named=True)
            ]
    pictures = review.table["id"].n_unique()
    lines += [
        "",
        f"{flagged.height} of {review.table.height} labels of {pictures} pictures are probably wrong or missing",
        f"labels: {review.label_rule}; scores out of {review.folds} folds",
    ]
    return "\n".join(lines)


def require_parquet(path: Path) -> None:
    """Refuse another file name, before the work of making its content.

    Raises:
        UserError: the suffix is not .parquet.
    """
    if path.suffix != ".parquet":
        raise UserError("a review is written as .parquet, with a .csv of the same name beside it.", file=path)


def _first(top: int, n: int) -> str:
    return f"the first {top} of {n}" if n > top else f"{n}"
