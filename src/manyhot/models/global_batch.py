"""Networks that see a part of a batch and act as if they saw all of it: statistics of BatchNorm, masks of dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

from manyhot import processes


class GlobalBatch(TorchFunctionMode):
    """While open, a network in training mode treats the part that it is given as a part of a greater batch.

    Random masks (`F.dropout`, `F.dropout2d`, and stochastic depth, which draws by `bernoulli_`) are drawn for all
    pictures, by the generator's state when it is opened, and the part takes its rows. So a picture's mask depends on
    its place in the batch alone. With `synchronise`, batch norms take mean and variance over the parts that all
    processes compute at this time, by `F.batch_norm` or `batch_moments`; each process must run the same layers.

    It changes functions and not modules, so that any BatchNorm and its subclasses are reached, and the names of weights
    stay.

    Arguments:
        size: N, pictures of the whole batch.
        places: int64 [n], places in it of this part's pictures.
        together: pictures of the parts that all processes compute at this time.
        synchronise: batch norms go over all of these.
        counts: False where the part is a stand-in of a process that has no picture left: it takes part in what the
            processes do together, and adds nothing to it.
    """

    def __init__(
        self, size: int, places: Tensor, together: int, *, synchronise: bool = False, counts: bool = True
    ) -> None:
        super().__init__()
        self.size, self.places, self.together = size, places, together
        self.synchronise, self.counts = synchronise, counts

    def __enter__(self) -> Self:
        global _open
        self._former, _open = _open, self
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self

    def __exit__(self, *what: object) -> None:
        global _open
        super().__exit__(*what)  # type: ignore[no-untyped-call]
        _open = self._former

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout or func is F.dropout2d:
            return self._dropout(func, *args, **kwargs)
        if func is torch.Tensor.bernoulli_:
            return self._bernoulli(*args, **kwargs)
        if func is F.batch_norm and self.synchronise:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self, func: Callable[..., Tensor], x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or len(x) % len(self.places):
            return func(x, p, training, inplace)
        return x * self._own(func(self._all_rows(x).fill_(1), p, True))

    def _bernoulli(self, x: Tensor, p: Any = 0.5, **options: Any) -> Tensor:
        if len(x) % len(self.places):
            return x.bernoulli_(p, **options)
        return x.copy_(self._own(self._all_rows(x).bernoulli_(p, **options)))

    def _all_rows(self, x: Tensor) -> Tensor:
        """As x, of all pictures."""
        return x.new_empty(self.size * (len(x) // len(self.places)), *x.shape[1:])

    def _own(self, rows: Tensor) -> Tensor:
        """The rows of this part's pictures; a picture has one or several, which follow each other."""
        by_picture = rows.view(self.size, -1, *rows.shape[1:])
        return by_picture[self.places.to(rows.device)].flatten(0, 1)


_open: GlobalBatch | None = None


def is_synchronised() -> bool:
    """Whether batch norms now go over the pictures of all processes."""
    return _open is not None and _open.synchronise


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean [C] and variance [C] (divided by n) of float [N, C, …] over all axes but the second, and n.

    Within a `GlobalBatch` that synchronises they are those of all processes, and so is their gradient.
    """
    axes = [0, *range(2, x.ndim)]
    n = x.numel() // x.shape[1]
    if _open is None or not _open.synchronise:
        var_C, mean_C = torch.var_mean(x, dim=axes, correction=0)
        return mean_C, var_C, n
    n = n // len(_open.places) * _open.together
    counted = x if _open.counts else x[:0]
    mean_C = _Summed.apply(counted.sum(axes)) / n
    var_C = _Summed.apply((counted - _along(mean_C, x)).square().sum(axes)) / n
    return mean_C, var_C, n


class _Summed(torch.autograd.Function):
    """The sum over processes: every process's result depends on every process's input, and so do the gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:  # noqa: ARG004
        return processes.summed(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return processes.summed(gradient)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, in training over the pictures of all processes.

    One value a channel has no variance: it is normalised by the running statistics, and does not move them.
    """
    assert _open is not None
    n = x.numel() // x.shape[1] // len(_open.places) * _open.together
    if not training or n == 1:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.device.type == "cuda":
        return _by_kernels(x, running_mean, running_var, weight, bias, momentum, eps)
    mean_C, var_C, n = batch_moments(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean_C.detach().to(running_mean.dtype), momentum)
        running_var.lerp_((var_C.detach() * (n / (n - 1))).to(running_var.dtype), momentum)
    scale_C = (var_C + eps).rsqrt()
    scale_C = scale_C if weight is None else scale_C * weight
    normed = (x - _along(mean_C, x)) * _along(scale_C, x)
    return (normed if bias is None else normed + _along(bias, x)).to(x.dtype)


def _by_kernels(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """The same by torch's own kernels, which are there for GPUs alone."""
    assert _open is not None
    counted = x if _open.counts else x[:0]
    group, count = torch.distributed.group.WORLD, processes.place().count
    apply: Any = SyncBatchNorm.apply
    found: Tensor = apply(counted, weight, bias, running_mean, running_var, eps, momentum, group, count)
    if _open.counts:
        return found
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps) + found.sum()


def _along(values_C: Tensor, x: Tensor) -> Tensor:
    """Values of channels, to be combined with [N, C, …]."""
    return values_C.view(-1, *[1] * (x.ndim - 2))
