"""Bundle: a trained model, complete. Everything that prediction needs, with the digest of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from manyhot.atomic import atomic_open, sha256_bytes
from manyhot.errors import UserError
from manyhot.models.bundle_config import WEIGHTS, BundleConfig, read_config, write_config
from manyhot.models.classifier import Classifier, create_classifier
from manyhot.models.detectors import create_detector
from manyhot.models.wsddn import Wsddn


@dataclass(frozen=True)
class Bundle:
    """A loaded classifier: what its bundle says of itself, and the network in eval mode."""

    config: BundleConfig
    model: Classifier

    @property
    def sha256(self) -> str:
        """Digest of the weights."""
        return self.config.weights_sha256


@dataclass(frozen=True)
class DetectorBundle:
    """A loaded detector, likewise."""

    config: BundleConfig
    model: Wsddn


def save_bundle(folder: Path, config: BundleConfig, weights: dict[str, Tensor]) -> str:
    """Write config.json and weights.safetensors and return the weights' SHA-256.

    The weights are written first: a kill between the two leaves a pair that `load_bundle` refuses.
    """
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    digest = sha256_bytes(content)
    with atomic_open(folder / WEIGHTS) as file:
        file.write(content)
    write_config(folder, config.model_copy(update={"weights_sha256": digest}))
    return digest


def load_bundle(folder: Path) -> Bundle:
    """Read the bundle of a classifier, checking its digest.

    Raises:
        UserError: no bundle there, damaged weights, or weights that do not fit the model described; a detector.
    """
    config = read_config(folder)
    if config.model.detector is not None:
        raise UserError(
            "this is a detector, not a classifier.", file=folder, remedy="Look for boxes with: manyhot detect RUN."
        )
    content = _read_weights(folder, config)
    model = create_classifier(config.model, len(config.classes), config.preprocessing.cropping.count)
    _load_weights(model, content, folder)
    return Bundle(config, model.eval())


def load_detector(folder: Path) -> DetectorBundle:
    """Read the bundle of a detector, checking its digest.

    Raises:
        UserError: as `load_bundle`; a classifier.
    """
    config = read_config(folder)
    if config.model.detector is None:
        raise UserError(
            "this is a classifier, not a detector.", file=folder, remedy="Its boxes come from: manyhot localize RUN."
        )
    content = _read_weights(folder, config)
    model = create_detector(config.model, len(config.classes))
    _load_weights(model, content, folder)
    return DetectorBundle(config, model.eval())


def _read_weights(folder: Path, config: BundleConfig) -> bytes:
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError("the weights are missing.", file=path) from None
    if sha256_bytes(content) != config.weights_sha256:
        raise UserError(
            "the weights do not match the SHA-256 in config.json.",
            file=path,
            remedy="If training was interrupted, repeat its command; else restore the file from a copy.",
        )
    return content


def _load_weights(model: nn.Module, content: bytes, folder: Path) -> None:
    try:
        model.load_state_dict(safetensors.torch.load(content))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the weights do not fit the model: {reason}", file=folder / WEIGHTS) from None
