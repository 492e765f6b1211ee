"""Losses over logits and targets: 1 present, 0 absent, between them mixed or smoothed, -1 ignored."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr
from torch import Tensor

from manyhot.registry import Part, Registry


class Loss(Part):
    """A loss; `activation` turns its logits into the scores of Predictions."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "sigmoid"

    def compute(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """The loss, `total` / `weight`, as a float32 scalar, or float64 of float64 logits.

        The loss of a batch is the sum of its parts' totals by the sum of their weights, however it is divided.

        Arguments:
            logits_NC: float [N, C].
            targets_NC: int8 labels or float targets [N, C], 0…1; -1 takes no part and gets no gradient.
        """
        return self.total(logits_NC, targets_NC) / self.weight(targets_NC).clamp(min=1)

    @abstractmethod
    def total(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """The sum over all that takes part, a scalar; arguments as of `compute`."""

    @abstractmethod
    def weight(self, targets_NC: Tensor) -> Tensor:
        """How much takes part, an int64 scalar on the targets' device: what `total` is divided by."""

    def fitted(self, labels_NC: NDArray[np.int8]) -> Self:  # noqa: ARG002
        """This loss with what it takes from the labels of the train split, int8 [N, C]; most take nothing."""
        return self

    @property
    def positive_weights(self) -> Tensor | None:
        """Float32 [C], how many times a positive of each class counts; None: once."""
        return None


losses: Registry[Loss] = Registry("loss", "loss")


class SigmoidLoss(Loss):
    """A loss of every class by itself, over the known entries only.

    At a target y between 0 and 1 it is y times the loss of a positive plus 1 - y times that of a negative. So the loss
    of a mixture of targets is the same mixture of their losses (Zhang et al., mixup, ICLR 2018, section 2).
    """

    reduction: Literal["mean", "sum"] = Field(
        "mean", description="over the classes of a picture; over pictures it is always the mean"
    )

    def total(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """Over all known entries."""
        logits_NC = _at_least_float32(logits_NC)
        known = (targets_NC >= 0).to(logits_NC)
        return (self.entries(logits_NC, targets_NC.clamp(min=0).to(logits_NC)) * known).sum()

    def weight(self, targets_NC: Tensor) -> Tensor:
        """With the reduction `mean` the number of known entries, with `sum` N."""
        if self.reduction == "sum":
            return torch.tensor(len(targets_NC), device=targets_NC.device)
        return (targets_NC >= 0).sum()

    @abstractmethod
    def entries(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """The loss of each entry, finite for every finite logit.

        Arguments:
            logits_NC: float32 or float64 [N, C].
            targets_NC: as the logits, [N, C], 0…1.
        """


@losses.register("bce")
class BinaryCrossEntropy(SigmoidLoss):
    """Binary cross-entropy of every class by itself, over the known labels only."""

    class_weights: Literal["balanced"] | None = Field(
        None,
        description="`balanced`: a positive of a class counts as often as the train split has negatives for each "
        "positive of it; null: once",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target spread over present and absent: 1 becomes 1 - share / 2"
    )
    _positive_weights: Tensor | None = PrivateAttr(None)

    def fitted(self, labels_NC: NDArray[np.int8]) -> Self:
        """With `balanced`, weigh the positives of class c by n_absent(c) / n_present(c), the ignored not counted.

        Positives and negatives then have the same total weight in each class. The weight is 1 where the labels hold
        only one of the two. It is torch's `pos_weight`; scikit-learn's `balanced` has the same ratio of positives to
        negatives. Source: King and Zeng, Logistic Regression in Rare Events Data, Political Analysis 2001.

        Arguments:
            labels_NC: int8 [N, C] of the train split; 1 present, 0 absent, -1 ignored.
        """
        if self.class_weights is None:
            return self
        present, absent = (labels_NC == 1).sum(axis=0), (labels_NC == 0).sum(axis=0)
        both = (present > 0) & (absent > 0)
        weight_C = np.where(both, absent / np.maximum(present, 1), 1).astype(np.float32)
        fitted = self.model_copy()
        fitted._positive_weights = torch.from_numpy(weight_C)
        return fitted

    @property
    def positive_weights(self) -> Tensor | None:
        """Float32 [C], or None without weights."""
        return self._positive_weights

    def entries(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """-w·y·log p - (1 - y)·log(1 - p), with y the smoothed target and w the weight of the class's positives.

        Source of the smoothing: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7, with the
        two states of a class in place of the K classes.
        """
        weight_C = self._positive_weights
        assert (weight_C is None) == (self.class_weights is None), "a loss with class weights is fitted before its use"
        smooth_NC = targets_NC * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            logits_NC, smooth_NC, reduction="none", pos_weight=None if weight_C is None else weight_C.to(logits_NC)
        )


@losses.register("focal")
class Focal(SigmoidLoss):
    """Binary cross-entropy in which an entry counts less the better it is predicted (Lin et al., ICCV 2017)."""

    gamma: float = Field(2.0, ge=0, description="focusing: 0 is none, more looks away from easy entries sooner")
    alpha: float | None = Field(
        0.25, ge=0, le=1, description="weight of positives, with 1 - alpha that of negatives; null: both 1"
    )

    def entries(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """-alpha·(1 - p)^gamma·log p for a positive, -(1 - alpha)·p^gamma·log(1 - p) for a negative (equation 5)."""
        present_NC, absent_NC = _focused_terms(logits_NC, self.gamma, self.gamma)
        if self.alpha is not None:
            present_NC, absent_NC = self.alpha * present_NC, (1 - self.alpha) * absent_NC
        return targets_NC * present_NC + (1 - targets_NC) * absent_NC


@losses.register("asymmetric")
class Asymmetric(SigmoidLoss):
    """Focal loss with one focusing for positives and one for negatives (Ridnik et al., ICCV 2021); 0/0/0 is `bce`."""

    gamma_pos: float = Field(0.0, ge=0, description="focusing of positives; 0 in the paper")
    gamma_neg: float = Field(0.0, ge=0, description="focusing of negatives; 4 in the paper, too strong for small data")
    margin: float = Field(
        0.0, ge=0, lt=1, description="score up to which a negative counts nothing at all; .05 in the paper"
    )

    def entries(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """-(1 - p)^gamma_pos·log p for a positive; for a negative -q^gamma_neg·log(1 - q), q = max(p - margin, 0).

        Equations 5 and 7 of the paper. At 0/0/0 it is `bce`, bit for bit.
        """
        if not (self.gamma_pos or self.gamma_neg or self.margin):
            return F.binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
        present_NC, absent_NC = _focused_terms(logits_NC, self.gamma_pos, self.gamma_neg, self.margin)
        return targets_NC * present_NC + (1 - targets_NC) * absent_NC


def _focused_terms(logits_NC: Tensor, gamma_pos: float, gamma_neg: float, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    """The losses of each entry as a positive and as a negative.

    Powers of a probability are taken as exp(gamma·log p): p itself rounds to 0 or 1, where the gradient of a power of
    less than 1 is infinite.
    """
    log_present_NC, log_absent_NC = F.logsigmoid(logits_NC), F.logsigmoid(-logits_NC)
    present_NC = -log_present_NC * (gamma_pos * log_absent_NC).exp()
    if not margin:
        return present_NC, -log_absent_NC * (gamma_neg * log_present_NC).exp()
    shifted_NC = log_present_NC.exp() - margin
    counts = shifted_NC > 0
    # Neither a power of 0 nor its gradient is ever computed: 0 times infinity is no number.
    power_NC = shifted_NC.masked_fill(~counts, 1.0).pow(gamma_neg)
    absent_NC = -(log_absent_NC.exp() + margin).clamp(max=1).log() * power_NC
    return present_NC, absent_NC.masked_fill(~counts, 0.0)


@losses.register("cross_entropy")
class CrossEntropy(Loss):
    """Softmax cross-entropy for data with exactly one class a picture."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "softmax"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")

    def total(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """Over the pictures that have a target.

        Of int8 labels the target is the class labelled 1. Float targets are the shares of the classes: their known
        entries sum to 1.
        """
        logits_NC = _at_least_float32(logits_NC)
        if targets_NC.is_floating_point():
            shares_NC = targets_NC.clamp(min=0).to(logits_NC)
            each = F.cross_entropy(logits_NC, shares_NC, label_smoothing=self.label_smoothing, reduction="none")
            return (each * _sums_to_one(targets_NC)).sum()
        best = targets_NC.max(dim=1)
        target = best.indices.masked_fill(best.values < 1, _NO_TARGET)
        return F.cross_entropy(
            logits_NC, target, ignore_index=_NO_TARGET, label_smoothing=self.label_smoothing, reduction="sum"
        )

    def weight(self, targets_NC: Tensor) -> Tensor:
        """The number of pictures that have a target."""
        return (_sums_to_one(targets_NC) if targets_NC.is_floating_point() else (targets_NC == 1).any(dim=1)).sum()


def _sums_to_one(shares_NC: Tensor) -> Tensor:
    return (shares_NC.clamp(min=0).sum(dim=1) - 1).abs() < _SUM_TOLERANCE


def _at_least_float32(logits_NC: Tensor) -> Tensor:
    return logits_NC if logits_NC.dtype == torch.float64 else logits_NC.float()


_NO_TARGET = -100
_SUM_TOLERANCE = 1e-4
