"""From a trained network to a weight-standardised one of the same function, and back to ordinary layers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from manyhot.models.weight_standardization.graph import Wiring, read_wiring, set_mode
from manyhot.models.weight_standardization.layers import ChannelEpsBatchNorm2d, WeightStandardizedConv2d
from manyhot.models.weight_standardization.modes import Gain, Standardization, standardizations

log = logging.getLogger("manyhot")

RANDOM_SIDE = 224

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Difference:
    """How far two networks are apart on the same inputs, in eval mode.

    Arguments:
        largest: largest absolute difference of two outputs.
        magnitude: largest absolute output of the first network.
    """

    largest: float
    magnitude: float

    @property
    def relative(self) -> float:
        """`largest` in units of `magnitude`; of `largest` alone where all outputs are 0."""
        return self.largest / self.magnitude if self.magnitude else self.largest

    def __str__(self) -> str:
        return f"{self.largest:.2e} of {self.magnitude:.4g}, relative {self.relative:.2e}"


@dataclass(frozen=True)
class ConvRow:
    """One convolution of a converted network.

    Arguments:
        name: its path.
        mode: how it was standardised; "left": it was not.
        norm: path of the BatchNorm that was adapted to it; None: none was.
        std: least, median and largest s of its filters; None where it was left.
        remark: why it was not standardised in the mode that was asked for; empty: it was.
    """

    name: str
    mode: str
    norm: str | None
    std: tuple[float, float, float] | None
    remark: str


@dataclass(frozen=True)
class StandardizationReport:
    """What a conversion did.

    Arguments:
        mode: the mode that was asked for.
        convs: one row a 2D convolution, in the order of definition.
        untraced: why the network could not be traced; None: it was.
        difference: of the outputs before and after; None: the network takes other inputs than random pictures.
    """

    mode: str
    convs: tuple[ConvRow, ...]
    untraced: str | None
    difference: Difference | None = None

    def render(self) -> str:
        """Aligned plain text: a row a convolution, then the check."""
        table = [["convolution", "mode", "BatchNorm", "least s", "median s", "largest s", "remark"]]
        for row in self.convs:
            stds = [f"{value:.3e}" for value in row.std] if row.std else ["–"] * 3
            table.append([row.name, row.mode, row.norm or "–", *stds, row.remark])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        padded = [[f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)] for cells in table]
        lines = ["  ".join(cells).rstrip() for cells in padded]
        if self.untraced:
            lines.append(f"not traced ({self.untraced}): each convolution was standardised by itself")
        checked = "not checked" if self.difference is None else f"largest difference {self.difference}"
        return "\n".join([*lines, "", f"{self.summarize()}; outputs before and after: {checked}"])

    def summarize(self) -> str:
        """How many convolutions were standardised in which mode, in one line."""
        modes = [row.mode for row in self.convs]
        return f"{len(modes)} convolutions: " + ", ".join(
            f"{modes.count(mode)} {mode}" for mode in dict.fromkeys([self.mode, "gain", "left"]) if mode in modes
        )


def standardize_weights(
    model: M,
    mode: str | Mapping[str, Any] | Standardization = "alpha",
    example_inputs: Tensor | Sequence[Any] | None = None,
) -> tuple[M, StandardizationReport]:
    """A weight-standardised copy of a network with the same function, and what was done to it.

    Every `nn.Conv2d` becomes a `WeightStandardizedConv2d`. The modes alpha, channel-eps, var and naive adapt the
    BatchNorm that alone reads a convolution, which is found by tracing the network (torch.fx); a convolution without
    one, or with one that cannot be adapted, is standardised by gain, and so are all of a network that cannot be traced.
    Source: docs/weight_standardization.md.

    Arguments:
        model: left as it was. A submodule class with a method `traceable` is traced through that.
        mode: alpha, channel-eps, gain, exact-mean, var, naive or unadapted; with settings, a mapping such as
            `{"name": "alpha", "eps": 1e-5}`.
        example_inputs: what the check gives both networks: a tensor, or the positional arguments; None: one picture
            [1, I, 224, 224] of normal random numbers.

    Raises:
        UserError: an unknown mode or setting.
    """
    setting = mode if isinstance(mode, Standardization) else standardizations.build(_setting(mode))
    converted, report = standardize_in_place(copy.deepcopy(model), setting)
    given = example_inputs is not None
    inputs = _arguments(example_inputs) if given else _random_inputs(model)
    try:
        difference = output_difference(model, converted, *inputs) if inputs else None
    except Exception:
        if given:
            raise
        log.warning("the network takes other inputs than random pictures: not checked; pass example_inputs")
        return converted, report
    return converted, replace(report, difference=difference)


def standardize_in_place(model: M, setting: Standardization) -> tuple[M, StandardizationReport]:
    """As `standardize_weights`, of the network itself and without a check; a bare convolution is returned anew."""
    wiring = read_wiring(model)
    if wiring.untraced and setting.needs_norm:
        log.warning("not traced (%s): each convolution is standardised by itself, by gain", wiring.untraced)
    names = {layer: name for name, layer in model.named_modules()}
    taken: dict[nn.Module, nn.Module] = {}
    rows = []
    for conv in (layer for layer in names if isinstance(layer, nn.Conv2d)):
        if conv in wiring.left:
            rows.append(ConvRow(names[conv], "left", None, None, wiring.left[conv]))
            continue
        norm, remark = _norm_of(conv, wiring, setting)
        used = Gain(eps=setting.eps, unbiased=setting.unbiased) if remark else setting
        twin = taken[conv] = used.convolution(conv)
        if norm is not None:
            s_O = twin.std().detach().cpu().double()
            taken[norm] = setting.adapt(norm, s_O)
            if twin.bias is not None:
                with torch.no_grad():
                    twin.bias.copy_(twin.bias.cpu().double() / s_O)
        std_O = twin.std().detach()
        std = (std_O.min().item(), std_O.median().item(), std_O.max().item())
        rows.append(ConvRow(names[conv], _name(used), names[norm] if norm else None, std, remark))
    return _exchange(model, taken), StandardizationReport(_name(setting), tuple(rows), wiring.untraced)


def fold_weights(model: M) -> M:
    """A copy in ordinary layers: weights standardised once for all, and stock BatchNorms (the same in eval mode)."""
    model = copy.deepcopy(model)
    taken: dict[nn.Module, nn.Module] = {
        layer: layer.fold()
        for layer in model.modules()
        if isinstance(layer, (WeightStandardizedConv2d, ChannelEpsBatchNorm2d))
    }
    return _exchange(model, taken)


def standardization_settings(model: nn.Module) -> dict[str, str]:
    """What a state dict does not say of each weight-standardised convolution, by name: `unadapted` adds no tensor."""
    return {
        name: layer.describe() for name, layer in model.named_modules() if isinstance(layer, WeightStandardizedConv2d)
    }


@torch.no_grad()
def output_difference(before: nn.Module, after: nn.Module, *inputs: Any) -> Difference:
    """The largest difference between the outputs of two networks in eval mode, whatever mode they are in."""
    outputs = []
    for model in (before, after):
        with set_mode(model, training=False):
            outputs.append(list(_tensors(model(*inputs))))
    assert [one.shape for one in outputs[0]] == [one.shape for one in outputs[1]], "the outputs have other shapes"
    pairs = list(zip(*outputs, strict=True))
    return Difference(
        max((_largest(one - other) for one, other in pairs), default=0.0),
        max((_largest(one) for one, _ in pairs), default=0.0),
    )


def _setting(mode: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": mode} if isinstance(mode, str) else mode


def _name(setting: Standardization) -> str:
    return next(name for name, part in standardizations if part is type(setting))


def _norm_of(conv: nn.Conv2d, wiring: Wiring, setting: Standardization) -> tuple[nn.BatchNorm2d | None, str]:
    """The BatchNorm to adapt to a convolution, or why gain must do."""
    if not setting.needs_norm:
        return None, ""
    norm = wiring.norms.get(conv)
    if norm is None:
        return None, wiring.reasons[conv]
    obstacle = setting.obstacle(norm)
    return (None, obstacle) if obstacle else (norm, "")


def _exchange(model: M, taken: Mapping[nn.Module, nn.Module]) -> M:
    """Put layers in the place of others, under every name that these have."""
    for holder in list(model.modules()):
        for name, layer in list(holder._modules.items()):
            if layer is not None and layer in taken:
                holder._modules[name] = taken[layer]
    root: Any = taken.get(model, model)
    return root  # type: ignore[no-any-return]


def _arguments(example_inputs: Any) -> tuple[Any, ...]:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def _random_inputs(model: nn.Module) -> tuple[Tensor, ...]:
    """A picture of random numbers for a network that starts with a convolution; nothing for one that has none."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        return ()
    picture = torch.randn(1, first.in_channels, RANDOM_SIDE, RANDOM_SIDE, generator=torch.Generator().manual_seed(0))
    return (picture.to(first.weight),)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
