"""Backbone, pooling and a linear head: from images to one logit a class."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from manyhot import recipe
from manyhot.models.backbones import Backbone, create_backbone
from manyhot.models.pooling import Pooling, poolings

# Small enough that every score starts near one half, whatever the length of the features.
_HEAD_INIT_STD = 0.01


class FeatureNorm(nn.BatchNorm1d):
    """Standardises features by mean and variance: of the batch in training, running ones otherwise; no scale or shift.

    A training batch of one picture has no variance: it is standardised by the running ones, and does not move them.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, features_ND: Tensor) -> Tensor:
        """Float features [N, D] → [N, D]."""
        if self.training and len(features_ND) == 1:
            return F.batch_norm(features_ND, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(features_ND)


class Classifier(nn.Module):
    """Images to logits: backbone, pooling, and the head (standardisation where asked for, dropout, linear).

    Arguments:
        backbone: from images to a feature map.
        pooling: from the map to one vector.
        n_classes: C, the number of logits.
        feature_norm: standardise pooled features (`FeatureNorm`).
        dropout: probability that a pooled feature is zeroed in training.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: Pooling,
        n_classes: int,
        *,
        feature_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.width = pooling.width(backbone.channels)
        self.head = nn.Sequential()
        if feature_norm:
            self.head.add_module("norm", FeatureNorm(self.width))
        self.head.add_module("dropout", nn.Dropout(dropout))
        linear = nn.Linear(self.width, n_classes)
        nn.init.normal_(linear.weight, std=_HEAD_INIT_STD)
        nn.init.zeros_(linear.bias)
        self.head.add_module("linear", linear)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Float images [N, 3, H, W], normalised by the backbone's mean and std → logits [N, C]."""
        logits_NC: Tensor = self.head(self.features(x_N3HW))
        return logits_NC

    def features(self, x_N3HW: Tensor) -> Tensor:
        """Float images [N, 3, H, W] → pooled features [N, D], before the head; `head(features)` gives the logits."""
        return self.pooling.pool(self.backbone(x_N3HW))

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
        linear = cast(nn.Linear, self.head.get_submodule("linear"))
        logit_C = share.log() if softmax else share.logit()
        linear.bias.copy_(logit_C if positive_weights is None else logit_C + positive_weights.log())

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters of the backbone, frozen or not."""
        return list(self.backbone.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """All parameters of the head."""
        return list(self.head.parameters())


def create_classifier(model: recipe.Model, n_classes: int) -> Classifier:
    """The classifier that a recipe's section `model` describes.

    The head's weights are drawn from a normal distribution of standard deviation 0.01, its biases are zero; all random
    values come from torch's global generator.

    Arguments:
        model: the section; with `weights="none"` nothing is fetched or read.
        n_classes: C, at least 1.

    Raises:
        UserError: an unknown backbone, pooling or setting, or weights that cannot be had.
    """
    assert n_classes >= 1, f"a classifier of {n_classes} classes"
    pooling = poolings.build(model.pooling)
    backbone = create_backbone(model.backbone, model.weights, model.output_stride)
    if model.frozen:
        backbone.freeze()
    return Classifier(backbone, pooling, n_classes, feature_norm=model.feature_norm, dropout=model.dropout)
