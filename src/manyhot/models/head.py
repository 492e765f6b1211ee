"""The head: from the features of a picture, of one crop or several, to one logit a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhot.models.crop_pooling import CropPooling
from manyhot.models.global_batch import is_synchronised

# Small enough that every score starts near one half, whatever the length of the features.
_INIT_STD = 0.01


class FeatureNorm(nn.BatchNorm1d):
    """Standardises features by mean and variance: of the batch in training, running ones otherwise; no scale or shift.

    A training batch of one vector has no variance: it is standardised by the running ones, and does not move them.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, features_ND: Tensor) -> Tensor:
        """Float features [N, D] → [N, D]."""
        if self.training and len(features_ND) == 1 and not is_synchronised():
            return F.batch_norm(features_ND, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(features_ND)


class Head(nn.Sequential):
    """Standardisation where asked for, dropout, linear layer; then the crops of a picture are pooled.

    Arguments:
        width: D, length of the features of one crop.
        n_classes: C.
        pooling: over crops.
        crops: I of every picture, where the pooling joins their features; else of no importance.
        feature_norm: standardise features (`FeatureNorm`).
        dropout: probability that a feature is zeroed in training.
    """

    linear: nn.Linear

    def __init__(
        self,
        width: int,
        n_classes: int,
        pooling: CropPooling,
        *,
        crops: int = 1,
        feature_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.crop_pooling = pooling
        width = width * crops if pooling.joins else width
        if feature_norm:
            self.norm = FeatureNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, n_classes)
        nn.init.normal_(self.linear.weight, std=_INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def rows(self, features_NID: Tensor) -> Tensor:
        """What the layers see of features [N, I, D]: vectors [N·I, D], or [N, I·D] where crops are joined."""
        return features_NID.flatten(1) if self.crop_pooling.joins else features_NID.flatten(0, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Float features [N, D] of one crop, or [N, I, D] of I crops → logits [N, C]."""
        if features.ndim == 2:
            features = features.unsqueeze(1)
        logits: Tensor = super().forward(self.rows(features))  # type: ignore[no-untyped-call]
        return self.crop_pooling.pool(logits.reshape(len(features), -1, logits.shape[-1]))

    @torch.no_grad()
    def start_at(self, logits_C: Tensor) -> None:
        """Set the biases, so that a picture of which nothing is known has these logits."""
        self.linear.bias.copy_(logits_C)

    def affine(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Weight [K, width] and bias [K] of the whole head for K classes, its standardisation folded in."""
        weight, bias = self.linear.weight[list(classes)].detach(), self.linear.bias[list(classes)].detach()
        norm = getattr(self, "norm", None)
        if norm is None:
            return weight, bias
        scaled = weight / (norm.running_var + norm.eps).sqrt()
        return scaled, bias - scaled @ norm.running_mean


class ScoreHead(nn.Module):
    """What is left for a head where cells are scored before they are pooled: the crops of a picture are pooled.

    Arguments:
        n_classes: C.
        pooling: over crops; it does not join them.
    """

    def __init__(self, n_classes: int, pooling: CropPooling) -> None:
        super().__init__()
        assert not pooling.joins, "scores are no features to lay side by side"
        self.n_classes, self.crop_pooling = n_classes, pooling

    def forward(self, scores: Tensor) -> Tensor:
        """Float scores [N, C] of one crop, or [N, I, C] of I crops → logits [N, C]."""
        return self.crop_pooling.pool(scores.unsqueeze(1) if scores.ndim == 2 else scores)

    def start_at(self, logits_C: Tensor) -> None:
        """Do nothing: what a picture scores is a pool of many cells, and its logit none of theirs."""

    def affine(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Weight [K, C] and bias [K] that pass the scores of K classes on."""
        return torch.eye(self.n_classes)[list(classes)], torch.zeros(len(classes))
