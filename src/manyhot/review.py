"""`data review`: features and labels in; a table of probable label errors, the most suspect first, out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from manyhot.atomic import atomic_path
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.extraction import extract_features
from manyhot.metrics.columns import Labels
from manyhot.metrics.folds import stratified_folds
from manyhot.metrics.label_errors import find_label_errors
from manyhot.metrics.out_of_fold import (
    PRIOR_LOGIT_SD,
    Features,
    Fit,
    Scorer,
    logistic_regression,
    out_of_fold_scores,
)
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.head import Head
from manyhot.recipe import load_recipe
from manyhot.runs import open_run
from manyhot.training.losses import losses
from manyhot.training.solving import set_statistics, solve

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


def review_run(path: str | Path, split: str | None = None, *, folds: int = 5) -> Review:
    """Review the labels that a run was given, over the features of its backbone; of several crops their mean.

    What the cache has of the features is not computed again: a run on a frozen backbone has left them there.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's train split.
        folds: 2 or more.

    Raises:
        UserError: no run or no trained model there, an empty split, too few pictures or folds, damaged pictures.
    """
    run = open_run(Path(path))
    recipe = load_recipe(str(run.recipe))
    manifest = Manifest.load(run.manifest).split(split or recipe.data.train_split)
    found = extract_features(run.path, manifest, on_error=recipe.data.on_error, workers=recipe.training.workers)
    means_ND = np.stack([found.features.gather([row])[0].mean(axis=0) for row in range(len(found.features))])
    return review(means_ND, found.manifest, folds=folds, seed=recipe.seed, fit=solved_logistic_regression())


def solved_logistic_regression(prior_logit_sd: float = PRIOR_LOGIT_SD) -> Fit:
    """`logistic_regression`, all classes in one go by the solver of heads: the same scores in less time."""
    loss = losses.build({"name": "bce", "reduction": "sum"})
    pooling = crop_poolings.build({"name": "max"})

    def fit(features_ND: Features, labels_NC: Labels) -> Scorer:
        n, width = features_ND.shape
        head = Head(width, labels_NC.shape[1], pooling, feature_norm=True)
        features, labels = torch.from_numpy(features_ND), torch.from_numpy(labels_NC)
        set_statistics(head, features)
        positive_C, known_C = (labels == 1).sum(dim=0), (labels >= 0).sum(dim=0)
        share_C = (positive_C + 0.5) / (known_C + 1)
        with torch.no_grad():
            head.linear.weight.zero_()
            head.linear.bias.copy_(share_C.logit())
        solve(head, features, labels, loss, width / (prior_logit_sd**2 * n))
        constant_C = (positive_C == 0) | (positive_C == known_C)
        with torch.no_grad():
            head.linear.weight[constant_C] = 0
            head.linear.bias[constant_C] = share_C[constant_C].logit()
        head.eval()

        @torch.no_grad()
        def score(features_MD: Features) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = head(torch.from_numpy(features_MD)).sigmoid().numpy()
            return scores

        return score

    return fit


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
