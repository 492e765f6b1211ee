"""ResNet with pre-activation bottlenecks, of any depth, for training from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

STEM = 64

Stage = tuple[int, int]
"""Channels that a stage gives, and its blocks."""


class PreActBottleneck(nn.Module):
    """BN-ReLU-1×1 (c/4), BN-ReLU-3×3 (c/4), BN-ReLU-1×1 (c), plus the input.

    Where channels or stride change, a 1×1 projection of the pre-activated input takes the place of the input
    (He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, figure 4e).

    Arguments:
        width: channels of the input.
        channels: c of the output, a multiple of 4.
        stride: of the 3×3 convolution and of the projection.
    """

    projection: nn.Conv2d | None

    def __init__(self, width: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        narrow = channels // 4
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, narrow, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, channels, 1, bias=False)
        changes = stride != 1 or width != channels
        self.projection = nn.Conv2d(width, channels, 1, stride, bias=False) if changes else None

    def forward(self, x_NDHW: Tensor) -> Tensor:
        """Float [N, width, H, W] → [N, channels, ⌈H / stride⌉, ⌈W / stride⌉]."""
        active_NDHW = F.relu(self.norm1(x_NDHW))
        shortcut_NDHW = x_NDHW if self.projection is None else self.projection(active_NDHW)
        y_NDHW = self.conv1(active_NDHW)
        y_NDHW = self.conv2(F.relu(self.norm2(y_NDHW)))
        y_NDHW = self.conv3(F.relu(self.norm3(y_NDHW)))
        return cast(Tensor, y_NDHW + shortcut_NDHW)


class PreActResNet(nn.Module):
    """Convolution 7×7/2, max pooling 3×3/2, stages of bottlenecks, a last BN-ReLU: from images to a feature map.

    The first stage keeps the stride, each other halves the map. All weights of convolutions are drawn from Xavier's
    normal distribution (Glorot and Bengio, AISTATS 2010, equation 12) by torch's global generator.

    Arguments:
        stages: channels (a multiple of 4) and number of blocks of each stage.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        assert stages, "a network without stages"
        self.conv = nn.Conv2d(3, STEM, 7, 2, padding=3, bias=False)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.Sequential()
        width = STEM
        for number, (channels, blocks) in enumerate(stages):
            assert blocks >= 1, f"a stage of {blocks} blocks"
            assert channels % 4 == 0, f"{channels} channels are no multiple of 4"
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if number and not block else 1
                stage.append(PreActBottleneck(width, channels, stride))
                width = channels
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(width)
        self.channels = width
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Float images [N, 3, H, W] → map [N, channels, h, w], 4·2^(stages - 1) pixels a cell."""
        map_NDHW = self.stages(self.pool(self.conv(x_N3HW)))
        return F.relu(self.norm(map_NDHW))


def depth(stages: Sequence[Stage]) -> int:
    """Convolutions and linear layers on the main path of a classifier: 1 + 3 a block + the head's one."""
    return 1 + 3 * sum(blocks for _, blocks in stages) + 1
