"""Feature extractors of torchvision and timm, by name, each with its geometry."""

from __future__ import annotations

import difflib

from manyhot.errors import UserError, nearest
from manyhot.models.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Features
from manyhot.models.backbones.timm import from_timm
from manyhot.models.backbones.torchvision import families, from_torchvision, torchvision_names
from manyhot.models.weights import parse_weights

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "Features", "create_backbone", "torchvision_names"]


def create_backbone(name: str, weights: str = "imagenet", output_stride: int | None = None) -> Backbone:
    """The feature extractor of a published network.

    Arguments:
        name: `torchvision/NAME`, `timm/NAME` (timm's `NAME.TAG` too), or a bare NAME: torchvision's where it has a
            family here, timm's otherwise.
        weights: `imagenet`, `imagenet:TAG`, `none` or the path of a file. torchvision's plain `imagenet` is
            IMAGENET1K_V1, the weights of the published recipes; timm's is its default tag.
        output_stride: 8, 16 or 32 pixels between cells, by dilation in place of strides, where timm's network can;
            None is the network's own.

    Raises:
        UserError: an unknown name or tag, an output stride that the network does not offer, weights that cannot be
            fetched or read, or those of another network.
    """
    library, _, bare = name.rpartition("/")
    wanted = parse_weights(weights)
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

    if library not in ("", "torchvision", "timm"):
        return UserError(f"unknown library '{library}' in model.backbone '{name}'.", remedy="Known: timm, torchvision.")
    if library != "timm" and bare in models.list_models(module=models):
        return UserError(
            f"torchvision's '{bare}' has no feature map here, in model.backbone.",
            remedy=f"Choose one of torchvision's {', '.join(families)}, or a network of timm.",
        )
    known = set() if library == "timm" else set(torchvision_names())
    if library != "torchvision":
        known |= set(timm.list_models())
    # timm has more than a thousand names: only those that look alike help.
    close = difflib.get_close_matches(bare, known, n=5)
    return UserError(f"unknown network '{name}' in model.backbone.", remedy=nearest(bare, close or torchvision_names()))
