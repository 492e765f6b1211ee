"""Scores for a Manifest or for image files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manyhot import processes
from manyhot.data.images import IMAGE_SUFFIXES, EncodedPicture
from manyhot.data.loading import Batch, EvaluationBatches, Loader, Pictures
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.models.bundle import Bundle, load_bundle
from manyhot.predictions import Predictions
from manyhot.progress import progress

log = logging.getLogger("manyhot")

_VECTORS = 64  # at least what a processor's loop takes at a time


@dataclass(frozen=True)
class Logits:
    """What the network says of N pictures.

    Arguments:
        values: float32 [n, C] of the pictures that could be read.
        rows: int64 [n], their places among the N, ascending.
        damaged: (place, reason) of the others.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    damaged: list[tuple[int, str]]

    def of_all_processes(self) -> Logits:
        """These and those of the pictures that other processes looked at, each picture once."""
        parts = processes.gathered(self)
        if len(parts) == 1:
            return self
        seen = [part for part in parts if len(part.rows)] or parts[:1]
        rows = np.concatenate([part.rows for part in seen])
        assert len(np.unique(rows)) == len(rows), "a picture was looked at twice"
        order = rows.argsort()
        values = np.concatenate([part.values for part in seen])[order]
        return Logits(values, rows[order], sorted(one for part in parts for one in part.damaged))


@torch.no_grad()
def compute_logits(
    model: nn.Module,
    batches: Iterable[Batch],
    n: int,
    device: torch.device,
    *,
    what: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Logits:
    """Run a network in eval mode over batches of pictures, each once; of several processes each looks at its own.

    Arguments:
        model: a Classifier for pictures, its head for features.
        batches: decoded pictures, or features.
        n: number of pictures, for the progress bar.
        device: where the model lies.
        what: the text before the progress bar.
        after_batch: called after each batch; may raise to stop.
    """
    model.eval()
    values: list[Tensor] = []
    rows: list[Tensor] = []
    damaged: list[tuple[int, str]] = []
    with progress(n, what) as bar:
        for batch in batches:
            damaged.extend(batch.damaged)
            if len(batch.indices):
                values.append(batch.logits(model, device).float().cpu())
                rows.append(batch.indices)
            bar.advance(len(batch.indices) + len(batch.damaged))
            after_batch()
    if not rows:
        return Logits(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), sorted(damaged))
    order = torch.cat(rows).argsort()
    return Logits(torch.cat(values)[order].numpy(), torch.cat(rows)[order].numpy(), sorted(damaged))


def activate(logits_NC: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Scores in 0…1 by "sigmoid" or "softmax", float32 [N, C]; a picture's do not depend on the others."""
    logits = torch.from_numpy(logits_NC)
    if activation == "softmax":
        return np.asarray(logits.softmax(dim=1).numpy(), dtype=np.float32)
    # torch rounds the last numbers of an array, which fill no vector, in another way than those before.
    padded = torch.zeros(-(-logits.numel() // _VECTORS) * _VECTORS)
    padded[: logits.numel()] = logits.flatten()
    return np.asarray(padded.sigmoid()[: logits.numel()].reshape(logits.shape).numpy(), dtype=np.float32)


class Predictor:
    """A trained model, ready to score pictures.

    Arguments:
        bundle: the model.
        device: where it runs; None takes a GPU where there is one.
        batch_size: pictures a forward pass.
        workers: threads that decode; None is one a core.
        crops: other crops than the bundle's, as a recipe's `input.crops`; None: its own.

    Raises:
        UserError: crops that are none, or whose number is not what the head was trained with.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        workers: int | None = None,
        crops: dict[str, Any] | None = None,
    ) -> None:
        self.bundle = bundle
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_size = batch_size
        self.workers = workers
        self.preprocessing = bundle.config.preprocessing.with_crops(crops)
        count, trained = self.preprocessing.cropping.count, bundle.config.preprocessing.cropping.count
        if bundle.model.head.crop_pooling.joins and count != trained:
            raise UserError(f"the model takes {trained} crops of a picture, together; other crops do not fit it.")
        self._model = bundle.model.to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Read the bundle of a run folder, or a bundle folder itself.

        Raises:
            UserError: there is none, or it is damaged.
        """
        folder = Path(path)
        return cls(load_bundle(folder / "model" if (folder / "model").is_dir() else folder), **options)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.bundle.config.classes

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Scores above which a class is predicted, float64 [C]; calibrated ones where the bundle has a calibration."""
        return np.array(self.bundle.config.thresholds)

    @property
    def seen(self) -> str:
        """What of a picture is looked at, in words: "ten crops 224 of shorter side 256, max over them"."""
        return self.bundle.config.describe_input(self.preprocessing)

    def predict(self, paths: str | Path | Sequence[str | Path], *, on_error: str = "stop") -> Predictions:
        """Score image files, and the images in folders (searched to the bottom, in the order of their names).

        Ids are the paths; labels are all -1, unknown.

        Raises:
            UserError: a path that does not exist, no image at all, or damaged images unless `on_error` is "skip".
        """
        files = find_images([paths] if isinstance(paths, str | Path) else paths)
        unknown = np.full((len(files), len(self.classes)), -1, dtype=np.int8)
        return self._score(files, [str(file) for file in files], ["predict"] * len(files), unknown, on_error, {})[0]

    def predict_manifest(self, manifest: Manifest, *, on_error: str = "stop") -> tuple[Predictions, Logits]:
        """Score all images of a Manifest that has this model's classes, and give the logits beside.

        Raises:
            UserError: other classes, or damaged images unless `on_error` is "skip".
        """
        require_classes(manifest, self.classes)
        source = {"label_rule": manifest.label_rule}
        splits = manifest.table["split"].to_list()
        return self._score(manifest.paths, manifest.ids, splits, manifest.labels, on_error, source)

    def score(
        self,
        files: Sequence[Path | EncodedPicture],
        ids: Sequence[str],
        splits: Sequence[str],
        labels: NDArray[np.int8],
        source: dict[str, str],
    ) -> tuple[Predictions, Logits]:
        """Score N pictures; those that cannot be read are left out, in silence, and named in the logits' `damaged`.

        Arguments:
            files: N picture files; a sequence that fetches them may raise DamagedImage for one.
            ids: N unique names.
            splits: N split names.
            labels: int8 [N, C].
            source: where the pictures come from, for the Predictions.
        """
        config = self.bundle.config
        pictures = Pictures(files, labels, self.preprocessing)
        place = processes.place()
        batches = EvaluationBatches(len(pictures), self.batch_size, place.rank, place.count)
        loader = Loader(pictures, batches, self.workers)
        logits = compute_logits(
            self._model, loader, len(pictures), self.device, what="scoring pictures"
        ).of_all_processes()
        scores = activate(logits.values.reshape(-1, len(config.classes)), config.activation)
        calibrated = config.calibrate(scores) if len(scores) else None
        predictions = Predictions(
            ids=tuple(ids[row] for row in logits.rows),
            splits=tuple(splits[row] for row in logits.rows),
            scores=scores if calibrated is None else calibrated,
            labels=labels[logits.rows],
            classes=config.classes,
            task=config.task,
            source={**source, "bundle_sha256": self.bundle.sha256, "crops": self.seen},
            uncalibrated=None if calibrated is None else scores,
            thresholds=config.thresholds,
        )
        return predictions, logits

    def _score(
        self,
        files: Sequence[Path],
        ids: Sequence[str],
        splits: Sequence[str],
        labels: NDArray[np.int8],
        on_error: str,
        source: dict[str, str],
    ) -> tuple[Predictions, Logits]:
        predictions, logits = self.score(files, ids, splits, labels, source)
        _report_damaged(files, logits.damaged, on_error)
        if not len(predictions):
            raise UserError("none of the pictures could be read.")
        return predictions, logits


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files named, and the images in the folders named.

    Raises:
        UserError: a path that does not exist, or nothing found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found.extend(sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES))
        elif path.is_file():
            found.append(path)
        else:
            raise UserError("there is no such file or folder.", file=path)
    unique = list(dict.fromkeys(found))
    if not unique:
        raise UserError(f"no image found in {', '.join(map(str, paths))}.")
    return unique


def require_classes(manifest: Manifest, classes: tuple[str, ...]) -> None:
    """Refuse data of other classes, or of another order of them, than the model's.

    Raises:
        UserError: it is so.
    """
    if manifest.classes != classes:
        missing, extra = set(classes) - set(manifest.classes), set(manifest.classes) - set(classes)
        names = [", ".join(sorted(some)) or "none" for some in (missing, extra)]
        detail = f"missing: {names[0]}; unknown to the model: {names[1]}" if missing or extra else "another order"
        raise UserError(f"the data's classes are not the model's ({detail}).", file=manifest.root)


def _report_damaged(files: Sequence[Path], damaged: list[tuple[int, str]], on_error: str) -> None:
    if not damaged:
        return
    listing = "\n".join(f"  {files[row]}: {reason}" for row, reason in damaged)
    if on_error == "stop":
        raise UserError(
            f"{len(damaged)} of {len(files)} pictures cannot be read:\n{listing}\n"
            "Mend or remove them, or leave them out with --on-error skip."
        )
    log.warning("left out %d of %d pictures that cannot be read:\n%s", len(damaged), len(files), listing)


def load(path: str | Path, **options: Any) -> Predictor:
    """Read the trained model of a run folder, or a bundle folder; `options` are those of Predictor.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return Predictor.load(path, **options)
