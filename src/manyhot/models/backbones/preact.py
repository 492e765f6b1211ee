"""The pre-activation ResNet as a backbone, `manyhot/preact_resnet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from manyhot.errors import UserError
from manyhot.models.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Features
from manyhot.models.preact_resnet import PreActResNet, Stage, depth
from manyhot.models.receptive import compose
from manyhot.models.weights import Weights, load_weights, read_state_dict

PREACT = "preact_resnet"


def from_stages(stages: Sequence[Stage] | None, weights: Weights) -> Backbone:
    """The backbone of a stage list.

    Raises:
        UserError: no stage list, weights that were never published, or a file that cannot be read or is of another
            network.
    """
    if stages is None:
        raise UserError(
            f"model.backbone '{PREACT}' needs model.stages.",
            remedy="For example model.stages=[[256,3],[512,4],[1024,6],[2048,3]], the 50 layers of the paper.",
        )
    if weights.source == "imagenet":
        raise UserError(f"{PREACT} has no ImageNet weights.", remedy="Set model.weights=none, or give a file.")
    body = PreActResNet(stages)
    name = f"manyhot/{PREACT}"
    if weights.path is not None:
        load_weights(
            body, read_state_dict(weights.path), origin=str(weights.path), name=f"{name} of {depth(stages)} layers"
        )
    features = Features(_map, body.channels, compose(body, skip=["projection"]))
    return Backbone(body, features, name=name, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _map(body: Any, images: Tensor) -> Tensor:
    found: Tensor = body(images)
    return found
