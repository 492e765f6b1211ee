"""Where the maps of inner stages lie, and what networks of two paths know of their places."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from manyhot.models.backbones import create_backbone
from manyhot.models.geometry import Geometry
from manyhot.models.receptive import compose, measure_geometry


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("last", "stride"), [("layer2", 8), ("layer3", 16), ("layer4", 32)])
def test_every_stage_of_a_resnet_starts_at_the_first_pixel(name, last, stride):
    network = models.get_model(name, weights=None)
    parts = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    stages = nn.Sequential(*(getattr(network, part) for part in parts[: parts.index(last) + 1]))
    assert compose(stages, skip=["downsample"]) == Geometry(stride, 0)
    measured = measure_geometry(stages, 512, 32)
    assert measured.stride == stride
    assert measured.offset == pytest.approx(0, abs=0.5)


class OnePath(nn.Module):
    """A residual block that is only one of its two paths."""

    def __init__(self, block: nn.Module, path: str) -> None:
        super().__init__()
        inner = [getattr(block, f"conv{i}") for i in (1, 2, 3) if hasattr(block, f"conv{i}")]
        self.path = nn.Sequential(*inner) if path == "convolutions" else block.downsample or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.path(x)


@pytest.mark.parametrize(("stride", "shortcut"), [(8, 2 + 4 + 4), (32, 2 + 4 + 8)])
def test_the_two_paths_of_a_resnet_d_have_two_centres(stride, shortcut):
    # Averaging 2×2 cells moves a shortcut by half a cell at each stage; dilation keeps the cell at 8 pixels.
    backbone = create_backbone("test_resnet", "none", None if stride == 32 else stride)
    found = {}
    for path in ("convolutions", "shortcuts"):
        body = backbone.body
        blocks = [OnePath(block, path) for stage in (body.layer2, body.layer3, body.layer4) for block in stage]
        chain = nn.Sequential(body.conv1, body.maxpool, body.layer1, *blocks)
        found[path] = measure_geometry(chain, 20 * stride, 2 * stride)
    assert found["convolutions"].offset == pytest.approx(0, abs=0.01)
    assert found["shortcuts"].offset == pytest.approx(shortcut, abs=0.01)
    assert {one.stride for one in found.values()} == {stride}
    assert 0 < backbone.geometry.offset < shortcut
