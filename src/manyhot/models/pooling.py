"""From a feature map to one vector: the parts that `model.pooling` of a recipe can name."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import dropout

from manyhot.registry import Part, Registry


class Pooling(Part):
    """A pooling over all cells of a map; without parameters of its own, so that it needs no place in a state dict."""

    @abstractmethod
    def pool(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → float vectors [N, `width(D)`]."""

    def pool_in_training(self, map_NDHW: Tensor) -> Tensor:
        """The same while training, for poolings that leave something to chance then; by torch's global generator."""
        return self.pool(map_NDHW)

    def width(self, channels: int) -> int:
        """Length of the vector for a map of so many channels."""
        return channels


poolings: Registry[Pooling] = Registry("pooling", "model.pooling")


@poolings.register("average")
class Average(Pooling):
    """Mean over all cells (Lin, Chen and Yan, "Network in network", ICLR 2014, section 3.2)."""

    def pool(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → [N, D]."""
        return map_NDHW.mean(dim=(-2, -1))


@poolings.register("max")
class Max(Pooling):
    """Largest cell (Oquab et al., "Is object localization for free?", CVPR 2015, section 3)."""

    def pool(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → [N, D]; among equal cells the gradient is shared."""
        return map_NDHW.amax(dim=(-2, -1))


@poolings.register("dropped_max")
class DroppedMax(Max):
    """The largest of those cells that were not dropped; each is, with probability p, while training alone.

    A class can then not rely on its one best place. Every channel drops cells of its own. Dropout as torch has it
    (`zeros`) gives dropped cells the value 0, which among scores below 0 is the largest: a localizer's absent class is
    then scored 0 at the least while training. Left out instead, a dropped cell says nothing.
    """

    p: float = Field(0.5, ge=0, lt=1, description="probability that a cell is dropped")
    zeros: bool = Field(default=False, description="dropped cells become 0 and the others grow by 1 / (1 - p)")

    def pool_in_training(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → [N, D]; where every cell is dropped, the largest of them all."""
        if self.zeros:
            return self.pool(dropout(map_NDHW, self.p))
        kept_NDHW = torch.rand_like(map_NDHW) >= self.p
        kept_NDHW |= ~kept_NDHW.flatten(-2).any(dim=-1)[..., None, None]
        return self.pool(map_NDHW.masked_fill(~kept_NDHW, -math.inf))


@poolings.register("average+max")
class AverageMax(Pooling):
    """Mean and largest cell side by side, the mean first, at twice the width (Woo et al., "CBAM", ECCV 2018)."""

    def pool(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → [N, 2D]."""
        return torch.cat([map_NDHW.mean(dim=(-2, -1)), map_NDHW.amax(dim=(-2, -1))], dim=1)

    def width(self, channels: int) -> int:
        """Twice the channels."""
        return 2 * channels


@poolings.register("lse")
class LogSumExp(Pooling):
    """log(mean(exp(r·x))) / r, between the mean and the maximum (Pinheiro and Collobert, CVPR 2015, equation 6)."""

    r: float = Field(4.0, gt=0, description="sharpness: towards 0 the mean, towards infinity the maximum")

    def pool(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → [N, D]."""
        cells = map_NDHW.shape[-2] * map_NDHW.shape[-1]
        # An exporter leaves the number of cells open, which Python's logarithm would fix.
        log_cells = math.log(cells) if isinstance(cells, int) else torch.scalar_tensor(cells).log()
        return (torch.logsumexp(self.r * map_NDHW, dim=(-2, -1)) - log_cells) / self.r


@poolings.register("topk")
class TopK(Pooling):
    """Mean of the k largest cells, each channel by itself (Durand, Thome and Cord, "WELDON", CVPR 2016)."""

    k: int = Field(10, ge=1, description="cells that count; all of them where the map has fewer")

    def pool(self, map_NDHW: Tensor) -> Tensor:
        """Float map [N, D, H, W] → [N, D]."""
        cells_NDL = map_NDHW.flatten(-2)
        return cells_NDL.topk(torch.sym_min(self.k, cells_NDL.shape[-1]), dim=-1).values.mean(dim=-1)
