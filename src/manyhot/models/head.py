"""The head: from the features of a picture, of one crop or several, to one logit a class."""

from __future__ import annotations

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
