"""Feature extractors of torchvision and timm and our own, by name, each with its geometry."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from manyhot.errors import UserError, nearest
from manyhot.models.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Features
from manyhot.models.backbones.preact import PREACT, from_stages
from manyhot.models.backbones.timm import from_timm
from manyhot.models.backbones.torchvision import families, from_torchvision, torchvision_names
from manyhot.models.preact_resnet import Stage
from manyhot.models.weights import parse_weights

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "Features", "create_backbone", "torchvision_names"]


def create_backbone(
    name: str,
    weights: str = "imagenet",
    output_stride: int | None = None,
    stages: Sequence[Stage] | None = None,
) -> Backbone:
    """The feature extractor of a published network, or one of ours by its stages.

    Arguments:
        name: `torchvision/NAME`, `timm/NAME` (timm's `NAME.TAG` too), `manyhot/preact_resnet`, or a bare NAME: ours,
            else torchvision's where it has a family here, else timm's.
        weights: `imagenet`, `imagenet:TAG`, `none` or the path of a file. torchvision's plain `imagenet` is
            IMAGENET1K_V1, the weights of the published recipes; timm's is its default tag.
        output_stride: 8, 16 or 32 pixels between cells, by dilation in place of strides, where timm's network can;
            None is the network's own.
        stages: channels and blocks of each stage of `preact_resnet`; no other network takes any.

    Raises:
        UserError: an unknown name or tag, an output stride that the network does not offer, stages missing or out of
            place, weights that cannot be fetched or read, or those of another network.
    """
    library, _, bare = name.rpartition("/")
    wanted = parse_weights(weights)
    ours = library in ("", "manyhot") and bare == PREACT
    if stages is not None and not ours:
        raise UserError(f"model.stages are of {PREACT}, and model.backbone is '{name}'.")
    if ours:
        if output_stride is not None:
            raise UserError(f"{PREACT} has no model.output_stride: its stages decide.")
        return from_stages(stages, wanted)
    if library in ("", "torchvision") and bare in torchvision_names():
        if output_stride is not None:
            raise UserError(f"torchvision/{bare} has an output stride of its own.", remedy=f"Try timm/{bare}.")
        return from_torchvision(bare, wanted)
    if library in ("", "timm"):
        import timm

        if timm.is_model(bare.partition(".")[0]):
            return from_timm(bare, wanted, output_stride)
    raise _unknown(name, library, bare)


def _unknown(name: str, library: str, bare: str) -> UserError:
    import timm
    from torchvision import models

    if library == "manyhot":
        return UserError(f"manyhot has no network '{bare}' of its own, in model.backbone.", remedy=f"Known: {PREACT}.")
    if library not in ("", "torchvision", "timm"):
        return UserError(
            f"unknown library '{library}' in model.backbone '{name}'.", remedy="Known: manyhot, timm, torchvision."
        )
    if library != "timm" and bare in models.list_models(module=models):
        return UserError(
            f"torchvision's '{bare}' has no feature map here, in model.backbone.",
            remedy=f"Choose one of torchvision's {', '.join(families)}, or a network of timm.",
        )
    known = set() if library == "timm" else set(torchvision_names())
    if not library:
        known.add(PREACT)
    if library != "torchvision":
        known |= set(timm.list_models())
    # timm has more than a thousand names: only those that look alike help.
    close = difflib.get_close_matches(bare, known, n=5)
    return UserError(f"unknown network '{name}' in model.backbone.", remedy=nearest(bare, close or torchvision_names()))
