"""Scores for a Manifest or for image files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot import processes
from manyhot.data.decoding import CropBatch, EvaluationBatches, Loader, PictureCrops
from manyhot.data.images import EncodedPicture
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.inference.backends import Backend, Trained, backends
from manyhot.inference.backends.crops import CropsNetwork
from manyhot.inference.exported import ExportedModel, is_exported
from manyhot.inference.logits import Logits, activate, collect_logits
from manyhot.inference.packages import require
from manyhot.inference.pictures import Fetched, list_pictures
from manyhot.inference.remembered import DEFAULT_BATCH, Choice, default_choice
from manyhot.models.crop_pooling import crop_poolings
from manyhot.predictions import Predictions

log = logging.getLogger("manyhot")


class Predictor:
    """A trained model, ready to score pictures.

    Arguments:
        bundle: the model: a Bundle, or an ExportedModel.
        device: where it runs; None takes the best that is there.
        batch_size: pictures a forward pass; None: as `--autotune` found, else 32.
        workers: threads that decode; None is one a core.
        crops: other crops than the bundle's, as a recipe's `input.crops`; None: its own.
        backend: "torch", "onnxruntime" or "openvino", or one with its settings, which then hold; None: as `--autotune`
            found best for this model on this machine, else torch for a Bundle and, for an ExportedModel, what runs
            its file.
        precision: "float32", or "bf16", which is faster where the processor has it and less exact.
        threads: of the network; None: as `--autotune` found, else one a core.

    Raises:
        UserError: crops that are none, or whose number is not what the head was trained with; a backend that is not
            installed, or cannot run this model, device or precision.
    """

    def __init__(
        self,
        bundle: Trained,
        *,
        device: Any = None,
        batch_size: int | None = None,
        workers: int | None = None,
        crops: dict[str, Any] | None = None,
        backend: str | Backend | None = None,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.workers = workers
        self.preprocessing = bundle.config.preprocessing.with_crops(crops)
        count, trained = self.preprocessing.cropping.count, bundle.config.preprocessing.cropping.count
        if crop_poolings.build(bundle.config.model.crop_pooling).joins and count != trained:
            raise UserError(f"the model takes {trained} crops of a picture, together; other crops do not fit it.")
        choice = Choice(backend=backend) if isinstance(backend, str) else None
        if not isinstance(backend, Backend):
            where = None if device is None else str(device)
            free = where is None and precision == "float32"
            choice = choice or default_choice(bundle, self.preprocessing, remembered=free)
            settings = {"device": where, "precision": precision, "threads": threads or choice.threads}
            backend = backends.build({"name": choice.backend, **settings})
        self.backend = backends.name_of(backend)
        self.batch_size = batch_size or (choice.batch_size if choice else DEFAULT_BATCH)
        self._network = backend.open(bundle, self.preprocessing)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Read the bundle of a run folder, a bundle folder, or a file that `manyhot export` wrote.

        Raises:
            UserError: there is none, or it is damaged.
        """
        return cls(load_model(path), **options)

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

    def look(self, batch: CropBatch) -> NDArray[np.float32]:
        """What the network says of decoded pictures, before the sigmoid or softmax: logits, float32 [B, C]."""
        found = [self._network.logits(group) for group in batch.groups]
        return np.concatenate(found)[np.concatenate([group.places for group in batch.groups]).argsort()]

    @property
    def gives_score_maps(self) -> bool:
        """Whether `score_maps` has an answer: an exported file whose crops are not joined."""
        return isinstance(self._network, CropsNetwork) and self._network.has_score_maps

    def score_maps(self, views: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """What an exported network says of the cells of a decoded picture: float logits [C, h, w] of each crop.

        Arguments:
            views: uint8 [H, W, 3] each, as `preprocessing.views` cuts them.
        """
        assert isinstance(self._network, CropsNetwork)
        return self._network.score_maps(views)

    def logits(self, files: Sequence[Path | EncodedPicture], what: str = "scoring pictures") -> Logits:
        """What the network says of picture files; of several processes each looks at its own.

        Arguments:
            files: N of them, see `score`; the same one may come again.
            what: the text before the progress bar.
        """
        place = processes.place()
        batches = EvaluationBatches(len(files), self.batch_size, place.rank, place.count)
        loader = Loader(PictureCrops(files, self.preprocessing), batches, self.workers)
        return collect_logits(self.look, loader, len(files), what=what).of_all_processes()

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        on_error: str = "stop",
        column: str | None = None,
        id_column: str | None = None,
    ) -> Predictions:
        """Score image files, the images in folders (searched to the bottom, in the order of their names), and others.

        Labels are all -1, unknown.

        Arguments:
            paths: images, folders, lists, tables or addresses of them, as `list_pictures` takes them, which also says
                what their ids are; of an image file its path.
            on_error: "stop" or "skip" at damaged images.
            column: of tables, see `list_pictures`.
            id_column: likewise.

        Raises:
            UserError: a path that does not exist, no image at all, or damaged images unless `on_error` is "skip".
        """
        several = [paths] if isinstance(paths, str | Path) else paths
        found = list_pictures([str(path) for path in several], column=column, id_column=id_column)
        return self.predict_pictures(found, on_error=on_error, column=column)

    def predict_pictures(
        self, pictures: pl.DataFrame, *, on_error: str = "stop", column: str | None = None
    ) -> Predictions:
        """Score N pictures as `list_pictures` gives them; labels are all -1, unknown.

        Raises:
            UserError: damaged images unless `on_error` is "skip", or none that is sound.
        """
        ids, addresses, rows = (pictures[name].to_list() for name in ("id", "address", "row"))
        unknown = np.full((len(ids), len(self.classes)), -1, dtype=np.int8)
        with Fetched(addresses, rows, column) as files:
            predictions, logits = self.score(files, ids, pictures["split"].to_list(), unknown, {})
        _report_damaged(lambda row: _name(ids[row], addresses[row]), len(ids), logits.damaged, on_error)
        return predictions

    def predict_manifest(self, manifest: Manifest, *, on_error: str = "stop") -> tuple[Predictions, Logits]:
        """Score all images of a Manifest that has this model's classes, and give the logits beside.

        Raises:
            UserError: other classes, or damaged images unless `on_error` is "skip".
        """
        require_classes(manifest, self.classes)
        source = {"label_rule": manifest.label_rule}
        splits = manifest.table["split"].to_list()
        predictions, logits = self.score(manifest.paths, manifest.ids, splits, manifest.labels, source)
        _report_damaged(lambda row: str(manifest.paths[row]), len(manifest), logits.damaged, on_error)
        return predictions, logits

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
        logits = self.logits(files)
        scores = activate(logits.values.reshape(-1, len(config.classes)), config.activation)
        calibrated = config.calibrate(scores) if len(scores) else None
        predictions = Predictions(
            ids=tuple(ids[row] for row in logits.rows),
            splits=tuple(splits[row] for row in logits.rows),
            scores=scores if calibrated is None else calibrated,
            labels=labels[logits.rows],
            classes=config.classes,
            task=config.task,
            source={**source, **self._source()},
            uncalibrated=None if calibrated is None else scores,
            thresholds=config.thresholds,
        )
        return predictions, logits

    def _source(self) -> dict[str, str]:
        """Where scores come from; a quantised network's are another network's."""
        precision = self.bundle.precision if isinstance(self.bundle, ExportedModel) else "float32"
        quantised = {} if precision == "float32" else {"precision": precision}
        return {"bundle_sha256": self.bundle.sha256, "crops": self.seen, **quantised}


def load_model(path: str | Path) -> Trained:
    """The Bundle of a run folder or of a bundle folder, or the ExportedModel of a file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    place = Path(path)
    if is_exported(place):
        return ExportedModel.read(place)
    require("torch", "Install torch, or give a file that manyhot export wrote.")
    from manyhot.models.bundle import load_bundle

    return load_bundle(place / "model" if (place / "model").is_dir() else place)


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


def _name(identifier: str, address: str) -> str:
    """Of a picture, for messages; the address of most is, or ends with, their id."""
    return identifier if address.endswith(identifier.partition("#")[0]) else f"{identifier} ({address})"


def _report_damaged(name: Callable[[int], str], count: int, damaged: list[tuple[int, str]], on_error: str) -> None:
    if not damaged:
        return
    listing = "\n".join(f"  {name(row)}: {reason}" for row, reason in damaged)
    if on_error == "stop":
        raise UserError(
            f"{len(damaged)} of {count} pictures cannot be read:\n{listing}\n"
            "Mend or remove them, or leave them out with --on-error skip."
        )
    log.warning("left out %d of %d pictures that cannot be read:\n%s", len(damaged), count, listing)
    if len(damaged) == count:
        raise UserError("none of the pictures could be read.")


def load(path: str | Path, **options: Any) -> Predictor:
    """Read the trained model of a run folder, bundle folder or exported file; `options` are those of Predictor.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return Predictor.load(path, **options)
