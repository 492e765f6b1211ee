"""Bundle: a trained model, complete. Everything that prediction needs, with the digest of its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from manyhot.atomic import atomic_open, sha256_bytes, write_text
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.models.classifier import Classifier, create_classifier
from manyhot.recipe import Model
from manyhot.registry import explain

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


class BundleConfig(BaseModel):
    """What config.json holds.

    Arguments:
        format: version of this file's layout.
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
        thresholds: C scores above which a class is predicted.
        calibration: None: scores are used as they are.
        epoch: the epoch, from 1, whose weights these are.
        val_map: its mean AP on the validation split.
        weights_sha256: of weights.safetensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
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
    calibration: None = None
    epoch: int
    val_map: float | None
    weights_sha256: str = ""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: what it says of itself, and the network in eval mode."""

    config: BundleConfig
    model: Classifier

    @property
    def sha256(self) -> str:
        """Digest of the weights."""
        return self.config.weights_sha256


def save_bundle(folder: Path, config: BundleConfig, weights: dict[str, Tensor]) -> str:
    """Write config.json and weights.safetensors and return the weights' SHA-256.

    The weights are written first: a kill between the two leaves a pair that `load_bundle` refuses.
    """
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    digest = sha256_bytes(content)
    with atomic_open(folder / WEIGHTS) as file:
        file.write(content)
    config = config.model_copy(update={"weights_sha256": digest})
    write_text(folder / CONFIG, config.model_dump_json(indent=1) + "\n")
    return digest


def read_config(folder: Path) -> BundleConfig:
    """The config.json of a bundle.

    Raises:
        UserError: no bundle there, or one that this version cannot read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError("there is no trained model here.", file=folder, remedy="Train to the end, or resume the run.")
    try:
        return BundleConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(explain(error, BundleConfig), file=path) from None
    except ValueError as error:
        raise UserError(f"this is not JSON: {error}.", file=path) from None


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle, checking its digest.

    Raises:
        UserError: no bundle there, damaged weights, or weights that do not fit the model described.
    """
    config = read_config(folder)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError("the weights are missing.", file=path) from None
    if sha256_bytes(content) != config.weights_sha256:
        raise UserError(
            "the weights do not match the SHA-256 in config.json.",
            file=path,
            remedy="If training was interrupted, resume it with --resume; else restore the file from a copy.",
        )
    model = create_classifier(config.model, len(config.classes), config.preprocessing.cropping.count)
    try:
        model.load_state_dict(safetensors.torch.load(content))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"the weights do not fit the model: {str(error).splitlines()[0]}", file=path) from None
    return Bundle(config, model.eval())
