"""Networks with the numbers of a trained one, dead channels included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from manyhot.models.weight_standardization.graph import read_wiring


@torch.no_grad()
def make_trained(model: nn.Module, dead: float = 0.05) -> None:
    """Random BatchNorms, and a share of dead filters with the small statistics that belong to them.

    Every layer has random numbers, so that a conversion that forgets one of them shows. (Statistics of real batches
    would make most of these random networks so ill-conditioned that float32 itself is off by 2e-5.)
    """
    generator = torch.Generator().manual_seed(3)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.normal_(0, 0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.1, generator=generator)
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.05, 2, generator=generator)
    norms = read_wiring(model).norms
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            off = torch.rand(layer.out_channels, generator=generator) < dead
            layer.weight[off] *= 1e-6
            if layer in norms:
                norms[layer].running_mean[off] *= 1e-6
                norms[layer].running_var[off] *= 1e-12
    model.eval()


def tensors(output: object) -> Iterator[Tensor]:
    """The tensors of an output: itself, or those of a named tuple."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple):
        for one in output:
            yield from tensors(one)


def relative(one: object, other: object) -> float:
    """Largest difference of two outputs in units of the largest number of the first."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert pairs
    size = max(float(a.detach().abs().max()) for a, _ in pairs)
    return max(float((a - b).detach().abs().max()) for a, b in pairs) / size


@pytest.fixture(scope="session")
def trained():
    return make_trained


@pytest.fixture(scope="session")
def apart():
    return relative
