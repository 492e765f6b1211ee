"""What a bundle says of its model: the content of config.json. Read and written without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from manyhot.atomic import sha256_bytes, write_text
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.metrics.calibration import Calibration
from manyhot.recipe import Model
from manyhot.registry import explain

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


class Origin(BaseModel):
    """Where chosen thresholds or a calibration come from.

    Arguments:
        rule: what was asked for, in words.
        split: name of the split.
        n_images: number of its pictures.
        ids_sha256: of their ids (`digest_ids`): whether other pictures are the same ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    split: str
    n_images: int
    ids_sha256: str


class PlaceRule(BaseModel):
    """How the model's places are read, where that was chosen by true boxes.

    Arguments:
        heatmap: a heat map part, with its name and settings.
        boxes: a box rule part, with the threshold chosen.
        crops: the views that were looked at, as a recipe's `input.crops`; None: those of the preprocessing.
        flip: mirrored views were looked at too.
        grabcut: boxes were redrawn by GrabCut.
        split: whose boxes were used.
        n_pairs: number of its positive (picture, class) pairs with boxes.
        corloc: of the rule on that split, 0…1.
        ids_sha256: of its pictures' ids (`digest_ids`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    heatmap: dict[str, Any]
    boxes: dict[str, Any]
    crops: dict[str, Any] | None = None
    flip: bool = False
    grabcut: bool = False
    split: str
    n_pairs: int
    corloc: float
    ids_sha256: str


class BundleConfig(BaseModel):
    """What config.json holds.

    Arguments:
        format: version of this file's layout; 1 has no calibration and does not say where thresholds come from.
        manyhot: version that wrote it.
        recipe: name of the recipe it was trained by.
        model: the network; its `weights` are "none", for they lie beside this file.
        classes: C class names, in the order of the logits.
        task: "multilabel" or "multiclass".
        label_rule: how the training labels came about.
        activation: from logits to scores.
        preprocessing: from a picture to the input.
        stride: pixels of the input between neighbouring cells of the feature map.
        offset: pixel of the input on which cell 0 is centred.
        thresholds: C scores, calibrated ones where there is a calibration, above which a class is predicted; 1.0 is
            never exceeded.
        thresholds_from: None: they are the recipe's.
        calibration: `Calibration.to_json`; None: scores are used as they are.
        calibration_from: None where there is no calibration.
        places: how heat maps are made and boxed, where `localize --choose` chose it.
        epoch: the epoch, from 1, whose weights these are.
        val_map: its mean AP on the validation split.
        weights_sha256: of weights.safetensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = 2
    manyhot: str
    recipe: str
    model: Model
    classes: tuple[str, ...]
    task: Literal["multilabel", "multiclass"]
    label_rule: str
    activation: Literal["sigmoid", "softmax"]
    preprocessing: Preprocessing
    stride: float
    offset: float
    thresholds: tuple[float, ...]
    thresholds_from: Origin | None = None
    calibration: dict[str, Any] | None = None
    calibration_from: Origin | None = None
    places: PlaceRule | None = None
    epoch: int
    val_map: float | None
    weights_sha256: str = ""

    def describe_input(self, preprocessing: Preprocessing | None = None) -> str:
        """What of a picture is looked at, in words, by the bundle's own preprocessing unless another is given."""
        rules = preprocessing or self.preprocessing
        several = rules.cropping.count != 1
        return rules.describe() + (f", {self.model.crop_pooling['name']} over them" if several else "")

    def calibrate(self, scores_NC: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Calibrated scores, float32 [N, C] in 0…1; None where the bundle has no calibration."""
        if self.calibration is None:
            return None
        return Calibration.from_json(self.calibration).apply(scores_NC).astype(np.float32)


def write_config(folder: Path, config: BundleConfig) -> None:
    """Write config.json, whole or not at all."""
    write_text(folder / CONFIG, config.model_dump_json(indent=1) + "\n")


def digest_ids(ids: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of a set of picture ids, whatever their order."""
    return sha256_bytes(json.dumps(sorted(ids)).encode())


def read_config(folder: Path) -> BundleConfig:
    """The config.json of a bundle.

    Raises:
        UserError: no bundle there, or one that this version cannot read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError("there is no trained model here.", file=folder, remedy="Train to the end, or resume the run.")
    try:
        config = BundleConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(explain(error, BundleConfig), file=path) from None
    except ValueError as error:
        raise UserError(f"this is not JSON: {error}.", file=path) from None
    _check_decisions(config, path)
    return config


def _check_decisions(config: BundleConfig, path: Path) -> None:
    if len(config.thresholds) != len(config.classes) or not np.isfinite(config.thresholds).all():
        wanted = f"thresholds: {len(config.classes)} finite numbers are wanted, one a class."
        raise UserError(wanted, file=path, remedy="Restore the file from a copy.")
    try:
        config.calibrate(np.zeros((1, len(config.classes)), np.float32))
    except UserError as error:
        remedy = 'Restore the file from a copy, or set "calibration" to null and run `manyhot calibrate`.'
        raise UserError(f"calibration: {error}", file=path, remedy=remedy) from None
