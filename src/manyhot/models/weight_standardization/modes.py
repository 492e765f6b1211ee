"""The ways to standardise a convolution: the parts that `model.weight_standardization` of a recipe can name.

docs/weight_standardization.md derives them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from manyhot.models.weight_standardization.layers import ChannelEpsBatchNorm2d, WeightStandardizedConv2d
from manyhot.registry import Part, Registry


class Standardization(Part):
    """A way to standardise a convolution, by itself or together with the BatchNorm that alone reads it."""

    eps: float = Field(1e-6, gt=0, description="added to the variance of a filter's weights")
    unbiased: bool = Field(default=True, description="variance by n − 1 weights, not by n")

    subtract_mean: ClassVar[bool] = False
    gain: ClassVar[bool] = False
    mean_gain: ClassVar[bool] = False
    needs_norm: ClassVar[bool] = False

    def convolution(self, conv: nn.Conv2d) -> WeightStandardizedConv2d:
        """The standardised twin, over the same parameters."""
        return WeightStandardizedConv2d.from_conv(
            conv,
            subtract_mean=self.subtract_mean,
            unbiased=self.unbiased,
            eps=self.eps,
            gain=self.gain,
            mean_gain=self.mean_gain,
        )

    def obstacle(self, norm: nn.BatchNorm2d) -> str | None:  # noqa: ARG002 - some ways have one
        """Why this BatchNorm cannot be adapted; None: it can."""
        return None

    def adapt(self, norm: nn.BatchNorm2d, s_O: Tensor) -> nn.BatchNorm2d:
        """The BatchNorm behind a convolution whose filters were divided by s, float64 [O]; it may be `norm` changed."""
        assert self.needs_norm
        for running, divisor in ((norm.running_mean, s_O), (norm.running_var, s_O.square())):
            if running is not None:
                _set(running, _read(running) / divisor)
        return norm


standardizations: Registry[Standardization] = Registry("weight standardization", "model.weight_standardization")


@standardizations.register("alpha")
class Alpha(Standardization):
    """Divided; BatchNorm keeps its epsilon and true statistics, and its weight makes up for the epsilon."""

    needs_norm: ClassVar[bool] = True

    def obstacle(self, norm: nn.BatchNorm2d) -> str | None:
        """Without affine there is no weight; without running statistics no variance is known."""
        return _lacks_weight(norm) or _lacks_statistics(norm)

    def adapt(self, norm: nn.BatchNorm2d, s_O: Tensor) -> nn.BatchNorm2d:
        """μ/s, v/s² and α·√((v + ε·s²)/(v + ε))."""
        assert norm.running_var is not None
        v_O = _read(norm.running_var)
        ratio_O = ((v_O + norm.eps * s_O.square()) / (v_O + norm.eps)).sqrt()
        _set(norm.weight, _read(norm.weight) * ratio_O)
        return super().adapt(norm, s_O)


@standardizations.register("channel-eps")
class ChannelEps(Standardization):
    """Divided; BatchNorm gets an epsilon of each channel, ε/s²: the same function in training too."""

    needs_norm: ClassVar[bool] = True

    def adapt(self, norm: nn.BatchNorm2d, s_O: Tensor) -> nn.BatchNorm2d:
        """μ/s, v/s² and ε/s², in a BatchNorm of its own."""
        super().adapt(norm, s_O)
        numbers = next((one for one in (norm.weight, norm.running_var) if one is not None), torch.empty(0))
        return ChannelEpsBatchNorm2d.from_norm(norm, (norm.eps / s_O.square()).to(numbers))


@standardizations.register("gain")
class Gain(Standardization):
    """Divided, and multiplied by the same numbers again, which are parameters: needs no BatchNorm."""

    gain: ClassVar[bool] = True


@standardizations.register("exact-mean")
class ExactMean(Standardization):
    """Mean subtracted and divided; then multiplied again and the mean added again, both as parameters."""

    subtract_mean: ClassVar[bool] = True
    gain: ClassVar[bool] = True
    mean_gain: ClassVar[bool] = True


@standardizations.register("var")
class Var(Standardization):
    """For teaching: divided; the running variance makes up for the epsilon, and may turn negative."""

    needs_norm: ClassVar[bool] = True

    def obstacle(self, norm: nn.BatchNorm2d) -> str | None:
        """Without running statistics there is no variance to change."""
        return _lacks_statistics(norm)

    def adapt(self, norm: nn.BatchNorm2d, s_O: Tensor) -> nn.BatchNorm2d:
        """μ/s and (v + ε)/s² − ε."""
        assert norm.running_var is not None
        v_O = _read(norm.running_var)
        super().adapt(norm, s_O)
        _set(norm.running_var, (v_O + norm.eps) / s_O.square() - norm.eps)
        return norm


@standardizations.register("naive")
class Naive(Standardization):
    """For teaching: divided; BatchNorm's statistics follow, and its epsilon is forgotten."""

    needs_norm: ClassVar[bool] = True


@standardizations.register("unadapted")
class Unadapted(Standardization):
    """For comparison: mean subtracted and divided, and nothing behind it changed: another function."""

    subtract_mean: ClassVar[bool] = True


def _lacks_weight(norm: nn.BatchNorm2d) -> str | None:
    return None if norm.affine else "its BatchNorm has no weight"


def _lacks_statistics(norm: nn.BatchNorm2d) -> str | None:
    return "its BatchNorm has no running statistics" if norm.running_var is None else None


def _read(tensor: Tensor) -> Tensor:
    """A copy of the numbers as float64, on the CPU: not every device has float64."""
    return tensor.detach().to("cpu", torch.float64, copy=True)


@torch.no_grad()
def _set(tensor: Tensor, numbers: Tensor) -> None:
    tensor.copy_(numbers)
