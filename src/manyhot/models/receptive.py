"""Where the cells of a network's map lie: composed from its layers, or measured on it as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from manyhot.models.geometry import Geometry
from manyhot.models.weight_standardization import fold_weights


def compose(layers: nn.Module, start: Geometry | None = None, skip: Iterable[str] = ()) -> Geometry:
    """The geometry of a chain: every convolution and pooling inside `layers`, in the order of their definition.

    Branches that lie side by side are counted one after the other. That is harmless where all but one of them keep the
    place (stride 1, padding kernel // 2); name the others in `skip`.

    Arguments:
        layers: the chain.
        start: geometry of its input; None: the picture itself.
        skip: names of submodules, at any depth, that are passed over.
    """
    geometry = start or Geometry()
    skipped = set(skip)
    for name, layer in layers.named_modules():
        if skipped.isdisjoint(name.split(".")) and isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            geometry = geometry.then(
                kernel=_one(layer.kernel_size),
                stride=_one(layer.stride),
                padding=_one(layer.padding),
                dilation=_one(getattr(layer, "dilation", 1)),
            )
    return geometry


def _one(setting: Any) -> int:
    """A layer's setting that must be the same on both axes."""
    values = tuple(setting) if isinstance(setting, (tuple, list)) else (setting,)
    assert all(isinstance(value, int) and value == values[0] for value in values), f"uneven layer setting {setting}"
    return int(values[0])


def measure_geometry(backbone: nn.Module, size: int, width: int | None = None) -> Geometry:
    """The geometry of any network from pictures to maps, by the input gradient of three cells in the middle.

    A copy of the network is made symmetric first: the weights of a kernel are random and positive over channels but the
    same at all its places, max pooling becomes average pooling, learned positions become constant. On a uniform picture
    the gradient of a cell is then symmetric about the cell's centre, whatever the network has learned, so that its
    centre of mass is exact. What the cell sees through global context (squeeze-excitation, attention) is also seen by
    the far cells of the first and last row, and is subtracted.

    Where two paths of different centres meet (ResNet-D's averaged shortcuts), there is no exact centre: the result lies
    between the two.

    Arguments:
        backbone: from float images [N, 3, H, W] to a map [N, D, h, w].
        size: height of the picture on which it is measured, pixels; twenty strides serve well.
        width: width of that picture, pixels; None: as `size`. A narrow strip is as exact, and quicker.

    Raises:
        ValueError: the map has fewer than five rows at this size, or its cells have no fixed places (attention in
            windows).
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        profile, middle = _profiles(_symmetric(backbone), size, width or size)
    context = torch.minimum(profile[0], profile[1])
    pixels = torch.arange(size, dtype=torch.float64)
    centres = [float((mass * pixels).sum() / mass.sum()) for mass in (profile[2:] - context).clamp_min(0)]
    # Strides of layers are whole, so is their product; rounding keeps a small error from growing with the row number.
    steps = (centres[1] - centres[0], centres[2] - centres[1])
    stride = round((steps[0] + steps[1]) / 2) if all(map(math.isfinite, steps)) else 0
    if stride < 1 or max(abs(step - stride) for step in steps) > 0.25:
        raise ValueError(
            f"the cells have no fixed places: neighbours are {steps[0]:.2f} and {steps[1]:.2f} pixels apart"
        )
    return Geometry(stride=float(stride), offset=round(centres[1] - stride * middle, 3) + 0.0)  # no -0.0


def _profiles(network: nn.Module, height: int, width: int) -> tuple[torch.Tensor, int]:
    """Input gradient by pixel row [5, height] of cells in the first, last and three middle rows; the middle row."""
    # Residual sums double what passes them, and some activations saturate at 6: stay far below. LayerNorm, though,
    # would amplify so small a signal, and drown what a token sees of its own place in what it sees of all the others.
    scale = 1.0 if any(isinstance(layer, nn.LayerNorm) for layer in network.modules()) else 1e-8
    pixel_3 = scale * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    images = pixel_3.view(1, 3, 1, 1).repeat(5, 1, height, width).requires_grad_()
    maps = network(images)
    rows, columns = maps.shape[-2:]
    if rows < 5:
        raise ValueError(f"a map of {rows} rows is too small to be measured; use larger pictures")
    middle = rows // 2
    shown = (0, rows - 1, middle - 1, middle, middle + 1)
    # Channels count unequally: after a LayerNorm their plain sum is constant.
    channels_D = torch.linspace(1, 2, maps.shape[1], dtype=torch.float64)
    cells = [maps[image, :, row, columns // 2] @ channels_D for image, row in enumerate(shown)]
    (gradient,) = torch.autograd.grad(torch.stack(cells).sum(), images)
    return gradient.abs().sum(dim=(1, 3)), middle


def _symmetric(backbone: nn.Module) -> nn.Module:
    """A float64 copy on the CPU whose kernels are even, in eval mode, with gradient to its input."""
    network = fold_weights(backbone)  # a mean that is subtracted would leave nothing of an even kernel
    unfreeze = getattr(network, "unfreeze", None)
    if unfreeze is not None:
        unfreeze()
    network = network.cpu().double().eval()
    network.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    done: set[int] = set()
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            weight = layer.weight
            shape = (*weight.shape[:2], *(1 for _ in weight.shape[2:]))
            even = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
            even = even / (even.mean() * weight[0].numel())
            weight.copy_(even.expand_as(weight))
            done.add(id(weight))
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
            layer.weight.fill_(1.0)  # a block whose last norm starts at zero would show its shortcut alone
            done.add(id(layer.weight))
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.fill_(0.0 if name.endswith("mean") else 1.0)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif id(parameter) not in done:
            parameter.fill_(float(parameter.abs().mean()))
    _average_pools(network)
    return network


def _average_pools(network: nn.Module) -> None:
    for name, layer in network.named_children():
        if isinstance(layer, nn.MaxPool2d) and layer.dilation == 1:
            pool = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
            setattr(network, name, pool)
        else:
            _average_pools(layer)
