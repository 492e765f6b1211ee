"""`features`: the features of a data set's pictures, written to a table or an array for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from manyhot.atomic import atomic_open, atomic_path
from manyhot.data.image_checks import sound_rows
from manyhot.data.manifest import Manifest
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.feature_store import Features
from manyhot.inference.features import Extraction
from manyhot.models.bundle import load_bundle
from manyhot.models.classifier import create_classifier
from manyhot.models.localizer import Localizer
from manyhot.recipe import Recipe, load_recipe
from manyhot.training.setup import INIT, derive_seed


@dataclass(frozen=True)
class FeatureTable:
    """Pooled features of N pictures.

    Arguments:
        manifest: the pictures, with their labels.
        features: [I, D] of each, I crops or windows.
        crops: what of a picture they are of, in words.
    """

    manifest: Manifest
    features: Features
    crops: str

    def save(self, path: Path) -> None:
        """Write them as `path` ends.

        `.npy`: float16 [N, D], or [N, I, D] where pictures have several crops, and beside it `.csv` of id and split in
        the same order. `.parquet`: columns id, split, labels (int8 [C]) and features (float32).

        Raises:
            UserError: another ending, or an array of pictures with different numbers of crops.
        """
        require_feature_suffix(path)
        names = self.manifest.table.select("id", "split")
        alike = bool((self.features.counts == self.features.counts[0]).all())
        if path.suffix == ".parquet":
            if alike:
                values = self.features.dense().astype(np.float32)
                column = pl.Series("features", values.squeeze(1) if values.shape[1] == 1 else values)
            else:
                each = [self.features.gather([row])[0].astype(np.float32).tolist() for row in range(len(self.features))]
                column = pl.Series("features", each, dtype=pl.List(pl.Array(pl.Float32, self.features.width)))
            with atomic_path(path) as temporary:
                names.with_columns(self.manifest.table["labels"], column).write_parquet(temporary)
            return
        if not alike:
            raise UserError(
                "the pictures have different numbers of windows, which no array holds.",
                file=path,
                remedy="Write them as .parquet.",
            )
        values16 = self.features.dense()
        with atomic_open(path) as file:
            np.save(file, values16.squeeze(1) if values16.shape[1] == 1 else values16, allow_pickle=False)
        with atomic_path(path.with_suffix(".csv")) as temporary:
            names.write_csv(temporary)


def extract_features(
    source: str | Path,
    manifest: Manifest,
    *,
    split: str | None = None,
    overrides: list[str] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
) -> FeatureTable:
    """Features of a Manifest's pictures by the network of a run, of a bundle, or of a recipe before any training.

    What is in the store is not computed again.

    Arguments:
        source: a run folder, a bundle folder, a recipe's name or file.
        manifest: the pictures; their labels are carried along.
        split: these alone.
        overrides: `a.b=c` changes to the recipe.
        on_error: "stop" or "skip" at damaged pictures.
        workers: threads that decode; None is one a core.

    Raises:
        UserError: no such run or recipe, weights that cannot be had, an empty split, damaged pictures, changes to a run
            that is trained already, a localizer.
    """
    sound, _ = sound_rows(manifest.split(split) if split else manifest, on_error)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(source)
    if folder.is_dir():
        if overrides:
            raise UserError("the model is trained already.", file=folder, remedy="--set goes with a recipe.")
        bundle = load_bundle(folder / "model" if (folder / "model").is_dir() else folder)
        extraction = Extraction(bundle.model, bundle.config.preprocessing, device=device, workers=workers)
    else:
        extraction = _untrained(load_recipe(str(source), overrides), len(manifest.classes), device, workers)
    if isinstance(extraction.classifier, Localizer):
        raise UserError(
            "a localizer pools scores: it has no features.", remedy="Give a recipe or a run without model.localizer."
        )
    extraction.classifier.to(device).to(memory_format=torch.channels_last)
    (features,) = extraction.compute(sound.paths)
    return FeatureTable(sound, features, extraction.preprocessing.describe())


def require_feature_suffix(path: Path) -> None:
    """Refuse a file name that says no known format, before the work of making its content.

    Raises:
        UserError: the suffix is none of .parquet, .npy.
    """
    if path.suffix not in {".parquet", ".npy"}:
        raise UserError("features are written as .parquet or .npy.", file=path)


def _untrained(recipe: Recipe, n_classes: int, device: torch.device, workers: int | None) -> Extraction:
    """The recipe's network as training would start it."""
    if recipe.input.normalize == "train":
        raise UserError(
            "input.normalize 'train' is known once a run has measured its train split.",
            remedy="Give the run in place of the recipe, or set input.normalize=backbone.",
        )
    torch.manual_seed(derive_seed(recipe.seed, INIT))
    model = create_classifier(recipe.model, n_classes, crops=1)
    rules = Preprocessing.from_recipe(recipe.input, model.backbone.mean, model.backbone.std)
    return Extraction(
        model,
        rules.with_crops(recipe.evaluation.crops),
        device=device,
        batch_size=recipe.evaluation.batch_size,
        workers=workers,
        precision=recipe.training.precision,
    )
