"""The same network with less to compute: BatchNorms folded into the convolutions before them, for inference."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from manyhot.models.weight_standardization import fold_weights
from manyhot.models.weight_standardization.graph import read_wiring

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def fold_batch_norms(model: M) -> M:
    """A copy, in eval mode, whose convolutions do what a BatchNorm behind them did; the same function but for rounding.

    Weights are standardised once for all. A BatchNorm that is not alone behind its convolution, or of a network that
    cannot be traced, stays. Factors are computed in float64.
    """
    model = fold_weights(model).eval()
    exchanged: dict[nn.Module, nn.Module] = {}
    for conv, norm in read_wiring(model).norms.items():
        if norm.running_mean is None or norm.running_var is None:
            continue  # it goes by the batch, in eval mode too
        scale_O = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale_O = scale_O * norm.weight.double()
        bias_O = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
        bias_O = bias_O * scale_O
        if norm.bias is not None:
            bias_O = bias_O + norm.bias.double()
        conv.weight = nn.Parameter((conv.weight.double() * scale_O.view(-1, 1, 1, 1)).to(conv.weight), False)
        conv.bias = nn.Parameter(bias_O.to(conv.weight), False)
        # timm's norms hold the activation that follows.
        activation = getattr(norm, "act", None)
        exchanged[norm] = nn.Identity() if activation is None else activation
    for holder in list(model.modules()):
        for name, layer in list(holder.named_children()):
            if layer in exchanged:
                setattr(holder, name, exchanged[layer])
    return model
