"""Backbone, pooling and a linear head: from images to one logit a class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manyhot import recipe
from manyhot.data.crops import crops as cropping
from manyhot.errors import UserError
from manyhot.models.backbones import Backbone, create_backbone
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.detectors import create_detector, describe_detector
from manyhot.models.geometry import Geometry
from manyhot.models.head import Head, ScoreHead
from manyhot.models.layers import render, summarize
from manyhot.models.pooling import Pooling, poolings
from manyhot.models.weight_standardization import standardizations, standardize_in_place

Window = tuple[int, int]
"""Side of the windows that a map is pooled by, and the step between them, pixels of the input."""


class Classifier(nn.Module):
    """Images to logits: backbone, pooling, and the head, over one crop a picture or many.

    Arguments:
        backbone: from images to a feature map.
        pooling: from the map to one vector.
        head: from vectors to logits.
    """

    def __init__(self, backbone: Backbone, pooling: Pooling, head: Head | ScoreHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.head = head

    def forward(self, images: Tensor | Sequence[Tensor], window: Window | None = None) -> Tensor:
        """Images, one crop or several of each → logits [N, C].

        Arguments:
            images: float [N, 3, H, W], or several [N, V, 3, H, W] whose crops belong together; normalised by the
                backbone's mean and std.
            window: see `features`.
        """
        logits_NC: Tensor = self.head(self.features(images, window))
        return logits_NC

    @property
    def geometry(self) -> Geometry:
        """Where the cells of `maps` lie on the picture.

        Raises:
            UserError: the backbone's is not known.
        """
        return self.backbone.geometry

    def maps(self, images_N3HW: Tensor) -> Tensor:
        """Images → the maps that are pooled, float [N, D, h, w]."""
        found: Tensor = self.backbone(images_N3HW)
        return found

    def traceable(self, images_N3HW: Tensor) -> Any:
        """What torch.fx can follow of `forward`: the backbone; behind it there is no convolution."""
        return self.backbone.traceable(images_N3HW)

    def features(self, images: Tensor | Sequence[Tensor], window: Window | None = None) -> Tensor:
        """Pooled features [N, I, D] of all crops and windows, before the head; `head(features)` gives the logits.

        Arguments:
            images: float [N, 3, H, W], or several [N, V, 3, H, W].
            window: pool each map window by window instead of all at once; I counts windows then.
        """
        stacks = [images.unsqueeze(1)] if isinstance(images, Tensor) else images
        if not torch.is_grad_enabled():  # one crop of each picture at a time: memory does not grow with their number
            stacks = [crop for stack in stacks for crop in torch.split(stack, 1, dim=1)]
        return torch.cat([self._pooled(stack, window) for stack in stacks], dim=1)

    def _pooled(self, stack_NV3HW: Tensor, window: Window | None) -> Tensor:
        vectors_MPD = self.pool(self.maps(stack_NV3HW.flatten(0, 1)), window)
        return vectors_MPD.reshape(len(stack_NV3HW), -1, vectors_MPD.shape[-1])

    def pool(self, map_MDHW: Tensor, window: Window | None = None) -> Tensor:
        """Maps [M, D, H, W] of `maps` → vectors [M, P, `pooling.width(D)`], of P windows or of the whole map."""
        pool = self.pooling.pool_in_training if self.training else self.pooling.pool
        cells = (None, 1) if window is None else [max(1, round(n / self.geometry.stride)) for n in window]
        return torch.stack([pool(part) for part in _windows(map_MDHW, *cells)], dim=1)

    @torch.no_grad()
    def start_at_prior(
        self, labels_NC: NDArray[np.int8], *, softmax: bool = False, positive_weights: Tensor | None = None
    ) -> None:
        """Set the head's biases so that the first scores are the classes' shares among the known labels.

        Rare classes would else spend the first epochs learning only that they are rare.
        Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4.1.

        Arguments:
            labels_NC: int8 [N, C] of the training pictures; 1 present, 0 absent, -1 ignored.
            softmax: the scores are a softmax of the logits, not their sigmoids.
            positive_weights: float [C], how many times the loss counts a positive; the odds grow by it.
        """
        present, known = (labels_NC == 1).sum(axis=0), (labels_NC >= 0).sum(axis=0)
        share = torch.from_numpy((present + 1) / (known + 2))  # Laplace's rule: finite where all or none is present
        logit_C = share.log() if softmax else share.logit()
        self.head.start_at(logit_C if positive_weights is None else logit_C + positive_weights.log())

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters of the backbone, frozen or not."""
        return list(self.backbone.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """All parameters of the head."""
        return list(self.head.parameters())


def _windows(map_NDHW: Tensor, side: int | None, step: int) -> Iterator[Tensor]:
    """Windows of a map, row by row, at most `step` cells apart and as far as its edges; None: the map itself."""
    if side is None:
        yield map_NDHW
        return
    height, width = map_NDHW.shape[-2:]
    for y, x in itertools.product(_starts(height, side, step), _starts(width, side, step)):
        yield map_NDHW[..., y : y + side, x : x + side]


def _starts(length: int, side: int, step: int) -> list[int]:
    room = max(0, length - side)
    count = -(-room // step) + 1
    return [round(i * room / max(1, count - 1)) for i in range(count)]


def create_classifier(model: recipe.Model, n_classes: int, crops: int | None = 1) -> Classifier:
    """The classifier that a recipe's section `model` describes.

    The head's weights are drawn from a normal distribution of standard deviation 0.01, its biases are zero; all random
    values come from torch's global generator.

    Arguments:
        model: the section; with `weights="none"` nothing is fetched or read.
        n_classes: C, at least 1.
        crops: of every picture; None: it varies.

    Raises:
        UserError: an unknown backbone, pooling or setting, weights that cannot be had, or features to be joined of a
            number of crops that varies.
    """
    assert n_classes >= 1, f"a classifier of {n_classes} classes"
    pooling, crop_pooling = poolings.build(model.pooling), crop_poolings.build(model.crop_pooling)
    if crop_pooling.joins and crops is None:
        raise UserError(
            f"model.crop_pooling '{model.crop_pooling['name']}' needs the same number of crops of every picture.",
            remedy="Set model.crop_pooling=max, or other input.crops.",
        )
    backbone = create_backbone(model.backbone, model.weights, model.output_stride, model.stages)
    if model.weight_standardization is not None:
        standardize_in_place(backbone, standardizations.build(model.weight_standardization))
    if model.frozen:
        backbone.freeze()
    if model.localizer is not None:
        from manyhot.models.localizer import create_localizer, localizers  # they extend this module

        return create_localizer(backbone, pooling, crop_pooling, n_classes, localizers.build(model.localizer))
    head = Head(
        pooling.width(backbone.channels),
        n_classes,
        crop_pooling,
        crops=crops or 1,
        feature_norm=model.feature_norm,
        dropout=model.dropout,
    )
    return Classifier(backbone, pooling, head)


def describe_layers(wanted: recipe.Recipe, n_classes: int) -> str:
    """The layers of a recipe's classifier as a table: outputs for one picture, parameters; of a detector a line.

    No weights are fetched.

    Raises:
        UserError: as `create_classifier`.
    """
    plain = wanted.model.model_copy(update={"weights": "none"})
    if wanted.model.detector is not None:
        return describe_detector(create_detector(plain, n_classes))
    count = cropping.build(wanted.input.crops).count
    model = create_classifier(plain, n_classes, count)
    return render(summarize(model, wanted.input.size, (count or 1) if model.head.crop_pooling.joins else 1))
