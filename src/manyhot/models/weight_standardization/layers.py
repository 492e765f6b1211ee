"""Layers of weight-standardised networks: the convolution, and the BatchNorm with an epsilon of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhot.models.global_batch import batch_moments

HALVES = (torch.float16, torch.bfloat16)

_FILTER = (1, 2, 3)  # the axes of one filter in a weight [O, I / groups, h, w]


class WeightStandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are divided by their standard deviation in every forward pass.

    With W_o the weights of filter o, m_o their mean and s_o = √(var(W_o) + eps), filter o convolves by

        gain_o · W_o / s_o                           division only
        gain_o · (W_o − m_o) / s_o + mean_gain_o     with `subtract_mean`

    where gain_o is 1 and mean_gain_o is 0 unless they are parameters. `weight` holds W, so a state dict of `nn.Conv2d`
    fits but for the gains. Filters of one weight have variance 0; a filter of zeros stays zero, and has a gradient.
    Half-precision weights are standardised in float32.

    In eval mode without gradient the standardised weights are computed once and kept until `weight` or a gain changes,
    or `train()`, `eval()` or `to()` is called (a change through `.data` is not seen before that).

    Source: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization,
    arXiv:1903.10520, section 3; the gains as in Brock et al., arXiv:2101.08692, section 2 (there without a mean).

    Arguments:
        in_channels … dtype: as of `nn.Conv2d`.
        subtract_mean: subtract the mean of each filter before dividing.
        unbiased: the variance is the sum of squares by n − 1, not by n.
        eps: is added to the variance.
        gain: a factor for each filter, float [O], starting at 1.
        mean_gain: a number added to all weights of a filter, float [O], starting at 0; goes with `subtract_mean`.

    Raises:
        ValueError: `mean_gain` without `subtract_mean`, or a negative eps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        subtract_mean: bool = False,
        unbiased: bool = True,
        eps: float = 1e-6,
        gain: bool = False,
        mean_gain: bool = False,
    ) -> None:
        if mean_gain and not subtract_mean:
            raise ValueError("mean_gain goes with subtract_mean")
        if eps < 0:
            raise ValueError(f"eps is {eps}, and must not be negative")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )  # fmt: skip
        self.subtract_mean, self.unbiased, self.eps = subtract_mean, unbiased, eps
        start = self.weight.new_zeros(out_channels)
        self.gain: nn.Parameter | None
        self.mean_gain: nn.Parameter | None
        self.register_parameter("gain", nn.Parameter(start + 1) if gain else None)
        self.register_parameter("mean_gain", nn.Parameter(start) if mean_gain else None)
        self._kept: tuple[_State, Tensor] | None = None

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        *,
        subtract_mean: bool = False,
        unbiased: bool = True,
        eps: float = 1e-6,
        gain: bool = False,
        mean_gain: bool = False,
    ) -> Self:
        """The twin of a convolution, over the same parameters; gains start at s and m, which keep the function."""
        twin = cls(
            **_settings(conv),
            device="meta",
            dtype=conv.weight.dtype,
            subtract_mean=subtract_mean,
            unbiased=unbiased,
            eps=eps,
        )
        twin.weight, twin.bias = conv.weight, conv.bias
        learns = conv.weight.requires_grad
        with torch.no_grad():
            if gain:
                twin.gain = nn.Parameter(twin.std().to(conv.weight.dtype), requires_grad=learns)
            if mean_gain:
                twin.mean_gain = nn.Parameter(conv.weight.mean(dim=_FILTER), requires_grad=learns)
        return twin.train(conv.training)

    def std(self) -> Tensor:
        """s of each filter, [O], in float32 or the weights' larger dtype."""
        weight = _at_least_float32(self.weight)
        correction = int(self.unbiased and weight[0].numel() > 1)
        std_O: Tensor = (weight.var(dim=_FILTER, correction=correction) + self.eps).sqrt()
        return std_O

    def standardized_weight(self) -> Tensor:
        """The weights that the convolution uses, [O, I / groups, h, w], in the dtype of `weight`."""
        weight = _at_least_float32(self.weight)
        scale_O = 1 / self.std() if self.gain is None else _at_least_float32(self.gain) / self.std()
        if self.subtract_mean:
            weight = weight - weight.mean(dim=_FILTER, keepdim=True)
        weight = weight * scale_O.view(-1, 1, 1, 1)
        if self.mean_gain is not None:
            weight = weight + self.mean_gain.view(-1, 1, 1, 1)
        return weight.to(self.weight.dtype)

    def forward(self, x_NIHW: Tensor) -> Tensor:
        """Float [N, I, H, W] → [N, O, h, w], as `nn.Conv2d` with `standardized_weight()`."""
        y_NOhw: Tensor = self._conv_forward(x_NIHW, self._current_weight(), self.bias)
        return y_NOhw

    def fold(self) -> nn.Conv2d:
        """The ordinary convolution of the same function, with weights of its own."""
        conv = nn.Conv2d(**_settings(self), device="meta", dtype=self.weight.dtype)
        learns = self.weight.requires_grad
        conv.weight = nn.Parameter(self.standardized_weight().detach(), requires_grad=learns)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        return conv.train(self.training)

    def _current_weight(self) -> Tensor:
        if self.training or torch.is_grad_enabled() or _is_recorded():
            return self.standardized_weight()
        try:
            state = _State(self.weight, self.gain, self.mean_gain)
        except RuntimeError:  # tensors of inference mode, and of torch.func's transforms, do not tell
            return self.standardized_weight()
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.standardized_weight())
        return self._kept[1]

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode; either forgets the kept weights."""
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._kept = None
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def describe(self) -> str:
        """How its weights are standardised, in one line."""
        gains = f"gain={self.gain is not None}, mean_gain={self.mean_gain is not None}"
        return f"subtract_mean={self.subtract_mean}, unbiased={self.unbiased}, eps={self.eps}, {gains}"

    def extra_repr(self) -> str:
        """The settings of `nn.Conv2d`, then its own."""
        plain = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, {self.describe()}"


class ChannelEpsBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm whose epsilon is a number of each channel, the buffer `channel_eps`, float [C].

    In train mode and in eval mode it is `nn.BatchNorm2d` with these epsilons; `eps` is the one it had before. Where it
    takes the place of a BatchNorm that ends in an activation (timm's `BatchNormAct2d`), that follows.
    """

    channel_eps: Tensor

    @classmethod
    def from_norm(cls, norm: nn.BatchNorm2d, channel_eps: Tensor) -> Self:
        """The twin of a BatchNorm, over the same parameters, with these epsilons."""
        twin = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        twin._parameters.update(norm._parameters)
        twin._buffers.update(norm._buffers)
        twin._modules.update(norm._modules)
        twin.register_buffer("channel_eps", channel_eps)
        return twin.train(norm.training)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Float [N, C, H, W] → the same shape.

        Raises:
            ValueError: one value a channel, in train mode.
        """
        self._check_input_dim(x_NCHW)
        if self.training or self.running_var is None or self.running_mean is None:
            y_NCHW = self._by_batch(_at_least_float32(x_NCHW)).to(x_NCHW.dtype)
        else:
            weight = self._stock_weight()
            y_NCHW = F.batch_norm(x_NCHW, self.running_mean, self.running_var, weight, self.bias, eps=self.eps)
        for after in self.children():
            y_NCHW = after(y_NCHW)
        return y_NCHW

    def _by_batch(self, x_NCHW: Tensor) -> Tensor:
        mean_C, var_C, n = batch_moments(x_NCHW)
        if n <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x_NCHW.shape}")
        if self.training and self.running_mean is not None and self.running_var is not None:
            self._update(mean_C.detach(), var_C.detach() * (n / (n - 1)))
        scale_C = (var_C + self.channel_eps).rsqrt()
        if self.weight is not None:
            scale_C = scale_C * self.weight
        y_NCHW = (x_NCHW - mean_C.view(-1, 1, 1)) * scale_C.view(-1, 1, 1)
        return y_NCHW if self.bias is None else y_NCHW + self.bias.view(-1, 1, 1)

    def _update(self, mean_C: Tensor, var_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else torch.tensor(self.momentum)
        for running, now in ((self.running_mean, mean_C), (self.running_var, var_C)):
            running.lerp_(now.to(running.dtype), share.to(running))

    def _stock_weight(self) -> Tensor:
        """The weight [C] with which `eps` does in eval mode what `channel_eps` does."""
        assert self.running_var is not None
        ratio_C = ((self.running_var + self.eps) / (self.running_var + self.channel_eps)).sqrt()
        return ratio_C if self.weight is None else ratio_C * self.weight

    def fold(self) -> nn.Module:
        """A stock BatchNorm of the same function in eval mode, and what follows; itself without running statistics."""
        if self.running_var is None:
            return self
        norm = nn.BatchNorm2d(self.num_features, self.eps, self.momentum, device="meta")
        zeros = torch.zeros_like(self.running_var)
        learns = self.weight is not None and self.weight.requires_grad
        norm.weight = nn.Parameter(self._stock_weight().detach(), requires_grad=learns)
        norm.bias = nn.Parameter(zeros if self.bias is None else self.bias.detach().clone(), requires_grad=learns)
        for name, buffer in self.named_buffers():
            if name != "channel_eps":
                norm.register_buffer(name, buffer.detach().clone())
        norm.train(self.training)
        after = list(self.children())
        return nn.Sequential(norm, *after) if after else norm


def _settings(conv: nn.Conv2d) -> Mapping[str, Any]:
    """The arguments that make a convolution of the same geometry."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
    }


def _is_recorded() -> bool:
    """The forward pass is being compiled or exported: what it remembers would become a constant."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALVES else tensor


class _State:
    """Which tensors, and in which version: equal while none of them has changed."""

    def __init__(self, *tensors: Tensor | None) -> None:
        self._tensors = tensors  # kept alive, so that no other tensor gets the place of one
        self._marks = [None if one is None else (id(one), one.data_ptr(), one._version) for one in tensors]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self._marks == other._marks

    __hash__ = None  # type: ignore[assignment]
