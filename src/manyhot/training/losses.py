"""Losses over logits and three-state labels: 1 present, 0 absent, -1 ignored."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from manyhot.registry import Part, Registry


class Loss(Part):
    """A loss; `activation` turns its logits into the scores of Predictions."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "sigmoid"

    def compute(self, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """The loss as a scalar.

        Arguments:
            logits_NC: float [N, C].
            labels_NC: int8 [N, C]; -1 takes no part.
        """
        raise NotImplementedError


losses: Registry[Loss] = Registry("loss", "loss")


@losses.register("bce")
class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of every class by itself, over the known labels only."""

    reduction: Literal["mean", "sum"] = Field(
        "mean", description="over the classes of a picture; over pictures it is always the mean"
    )

    def compute(self, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """Mean: over all known entries. Sum: over all known entries, divided by N."""
        known = (labels_NC >= 0).float()
        target = labels_NC.clamp(min=0).float()
        total = (F.binary_cross_entropy_with_logits(logits_NC.float(), target, reduction="none") * known).sum()
        return total / (len(logits_NC) if self.reduction == "sum" else known.sum().clamp(min=1))


@losses.register("cross_entropy")
class CrossEntropy(Loss):
    """Softmax cross-entropy for data with exactly one class a picture."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "softmax"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")

    def compute(self, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """Mean over the pictures with a class labelled 1, which is the target; the others take no part."""
        best = labels_NC.max(dim=1)
        target = best.indices.masked_fill(best.values < 1, _NO_TARGET)
        total = F.cross_entropy(
            logits_NC.float(), target, ignore_index=_NO_TARGET, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (best.values == 1).sum().clamp(min=1)


_NO_TARGET = -100
