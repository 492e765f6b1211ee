"""What a network consists of: one row a layer, for people and for log.txt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network.

    Arguments:
        name: path of the layer inside the network.
        kind: name of its class.
        output: shape of what it returned for one picture, with the batch axis; None where it returns no single tensor
            or was not called itself.
        parameters: numbers that it holds itself, without its children; one shared by two layers counts in the first.
        trainable: how many of them have a gradient.
    """

    name: str
    kind: str
    output: tuple[int, ...] | None
    parameters: int
    trainable: int


def summarize(model: nn.Module, input_size: int | tuple[int, int], crops: int = 1) -> list[LayerRow]:
    """The layers of a network in the order of their definition, from one black picture in eval mode.

    The network is left as it was: no BatchNorm update, no gradient, every layer in its former mode.

    Arguments:
        model: from float images [N, 3, H, W] to anything.
        input_size: side, or height and width, of the picture, pixels.
        crops: of the picture, for a Classifier that takes them together.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    outputs: dict[nn.Module, tuple[int, ...] | None] = {}

    def record(layer: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.setdefault(layer, tuple(output.shape) if isinstance(output, Tensor) else None)

    modes = {layer: layer.training for layer in model.modules()}
    handles = [layer.register_forward_hook(record) for layer in model.modules()]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        for layer in modes:  # not by model.eval(), which a frozen backbone would remember
            layer.training = False
        with torch.no_grad():
            picture = torch.zeros(1, 3, height, width, device=device)
            model(picture if crops == 1 else [picture.unsqueeze(1)] * crops)
    finally:
        for handle in handles:
            handle.remove()
        for layer, mode in modes.items():
            layer.training = mode
    rows = []
    counted: set[int] = set()
    for name, layer in model.named_modules():
        own = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) not in counted]
        counted.update(id(parameter) for parameter in own)
        is_leaf = next(layer.children(), None) is None
        if own or (is_leaf and layer in outputs):
            rows.append(
                LayerRow(
                    name=name,
                    kind=type(layer).__name__,
                    output=outputs.get(layer),
                    parameters=sum(parameter.numel() for parameter in own),
                    trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
                )
            )
    return rows


def totals(rows: Iterable[LayerRow]) -> tuple[int, int]:
    """All parameters of the rows, and how many of them are trainable."""
    listed = list(rows)
    return sum(row.parameters for row in listed), sum(row.trainable for row in listed)


def render(rows: Iterable[LayerRow]) -> str:
    """The rows as aligned plain text with a heading, and the totals below."""
    listed = list(rows)
    parameters, trainable = totals(listed)
    table = [
        ("layer", "type", "output", "parameters", "trainable"),
        *(
            (
                row.name,
                row.kind,
                "×".join(map(str, row.output)) if row.output else "-",
                f"{row.parameters:,}",
                f"{row.trainable:,}",
            )
            for row in listed
        ),
        ("total", "", "", f"{parameters:,}", f"{trainable:,}"),
    ]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    lines = []
    for line in table:
        words = [text.ljust(width) for text, width in zip(line[:3], widths[:3], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(line[3:], widths[3:], strict=True)]
        lines.append("  ".join([*words, *numbers]))
    return "\n".join(lines)
