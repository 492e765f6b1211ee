"""From a map and the boxes of its picture to features of regions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from manyhot.models.geometry import Geometry

SAMPLES = 2
"""Bilinear samples along each side of a bin of a region."""

LEAST_SHARE = 0.003
"""Of the map that a region is taken to cover at least, where sums are divided by it."""

GAIN = 6.0
"""Features of evidence are multiplied by it, so that those of a middling region are about one in size."""


def to_cells(boxes_R4: Tensor, geometry: Geometry) -> Tensor:
    """Boxes in cells of a map, where cell i reaches from i to i + 1.

    In coordinates where pixel p reaches from p to p + 1, cell i of the map is centred on offset + ½ + stride·i; it is
    taken to reach half a stride to each side.

    Arguments:
        boxes_R4: float [R, 4], pixels of the network's input, x1 and y1 exclusive.
        geometry: of the map.
    """
    return (boxes_R4 - _shift(geometry)) / geometry.stride


def _shift(geometry: Geometry) -> float:
    return geometry.offset + (1 - geometry.stride) / 2


def pool_regions(
    map_DHW: Tensor, boxes_R4: Tensor, geometry: Geometry, side: int, mode: Literal["max", "average"] = "max"
) -> Tensor:
    """Features [R, D, side, side] of boxes, placed exactly by where the cells of the map lie.

    Each of side² bins has 2 × 2 bilinear samples, of which the largest or the mean is taken. roi_align takes cell i to
    be centred on stride·(i + ½), so boxes are shifted by the difference, offset + (1 - stride) / 2.

    Source: He et al., Mask R-CNN, ICCV 2017, section 3 (RoIAlign).

    Arguments:
        map_DHW: float [D, h, w].
        boxes_R4: float [R, 4], pixels of the network's input, x1 and y1 exclusive.
        geometry: of the map.
        side: bins along each axis.
        mode: of joining the samples of a bin.
    """
    shifted = boxes_R4 - _shift(geometry)
    bins, samples = (side * SAMPLES, 1) if mode == "max" else (side, SAMPLES)
    pooled: Tensor = roi_align(
        map_DHW[None], [shifted], bins, 1 / geometry.stride, sampling_ratio=samples, aligned=True
    )
    return F.max_pool2d(pooled, SAMPLES) if mode == "max" and len(pooled) else pooled[:, :, :side, :side]


def box_sums(map_DHW: Tensor, cells_R4: Tensor) -> Tensor:
    """Integrals [R, D] of a map over boxes, exact where the map is constant over each cell; 0 outside of it.

    Source: Crow, Summed-Area Tables for Texture Mapping, SIGGRAPH 1984; the table is read bilinearly.

    Arguments:
        map_DHW: float [D, h, w].
        cells_R4: float [R, 4] x0, y0, x1, y1 in cells, as `to_cells` gives them.
    """
    height, width = map_DHW.shape[1:]
    table = F.pad(map_DHW.cumsum(1).cumsum(2), (1, 0, 1, 0)).permute(1, 2, 0).flatten(0, 1)  # [(h + 1)(w + 1), D]
    limits = cells_R4.new_tensor([width, height, width, height])
    inside_R4 = cells_R4.clamp_min(0).minimum(limits)
    low_R4 = inside_R4.floor().minimum(limits - 1)
    part_R4, low_R4 = inside_R4 - low_R4, low_R4.long()
    total = torch.zeros(())
    for x, y, sign in ((2, 3, 1), (0, 3, -1), (2, 1, -1), (0, 1, 1)):
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            across_R = part_R4[:, x] if dx else 1 - part_R4[:, x]
            down_R = part_R4[:, y] if dy else 1 - part_R4[:, y]
            rows_RD = table[(low_R4[:, y] + dy) * (width + 1) + low_R4[:, x] + dx]
            total = total + (sign * across_R * down_R)[:, None] * rows_RD
    return total


def pool_evidence(
    map_DHW: Tensor, boxes_R4: Tensor, geometry: Geometry, power: float, context: float | None = None
) -> Tensor:
    """Features of boxes that weigh evidence by its extent: means over the box times (its share of the map) ^ power.

    With power 0 a linear layer on them prefers the small box round the strongest part, with power 1 (sums) the box that
    holds all evidence of a picture; between them lies the object. One channel of ones is added to the map, so that such
    a layer also has a price for area; parts of a box beyond the map hold nothing.

    Source: the sum of evidence in a box as its score is that of Lampert, Blaschko and Hofmann, Efficient Subwindow
    Search, CVPR 2008; the ring round it as a feature is Kantorov et al., ContextLocNet, ECCV 2016.

    Arguments:
        map_DHW: float [D, h, w].
        boxes_R4: float [R, 4], pixels of the network's input, x1 and y1 exclusive.
        geometry: of the map.
        power: 0…1.
        context: sides of a wider box, in those of the box; what lies between the two is pooled likewise. None: nothing.

    Returns:
        float [R, D + 1], or with context [R, 2 (D + 1)].
    """
    _, height, width = map_DHW.shape
    whole = torch.cat([map_DHW, map_DHW.new_ones(1, height, width)])
    cells_R4 = to_cells(boxes_R4, geometry)
    inner_RD = box_sums(whole, cells_R4) / (height * width)
    found = [inner_RD]
    if context is not None:
        centre_R2 = (cells_R4[:, :2] + cells_R4[:, 2:]) / 2
        half_R2 = (cells_R4[:, 2:] - cells_R4[:, :2]) * (context / 2)
        wider_R4 = torch.cat([centre_R2 - half_R2, centre_R2 + half_R2], dim=1)
        found.append(box_sums(whole, wider_R4) / (height * width) - inner_RD)
    share_R1 = inner_RD[:, -1:].clamp_min(LEAST_SHARE)
    return torch.cat(found, dim=1) * (GAIN * share_R1 ** (power - 1))


class Bins(nn.Module):
    """Regions as side × side bins (`pool_regions`)."""

    def __init__(self, geometry: Geometry, side: int = 6, mode: Literal["max", "average"] = "max") -> None:
        super().__init__()
        self.geometry, self.side, self.mode = geometry, side, mode

    def forward(self, map_DHW: Tensor, boxes_R4: Tensor) -> Tensor:
        """[R, D, side, side]."""
        return pool_regions(map_DHW, boxes_R4, self.geometry, self.side, self.mode)

    def width(self, channels: int) -> int:
        """Numbers of a region of a map with this many channels."""
        return channels * self.side**2


class Evidence(nn.Module):
    """Regions as evidence weighed by its extent (`pool_evidence`)."""

    def __init__(self, geometry: Geometry, power: float, context: float | None) -> None:
        super().__init__()
        self.geometry, self.power, self.context = geometry, power, context

    def forward(self, map_DHW: Tensor, boxes_R4: Tensor) -> Tensor:
        """[R, D + 1], or with context twice as many."""
        return pool_evidence(map_DHW, boxes_R4, self.geometry, self.power, self.context)

    def width(self, channels: int) -> int:
        """Numbers of a region of a map with this many channels."""
        return (channels + 1) * (1 if self.context is None else 2)


class Components(nn.Module):
    """Principal components of a map's cells, each of variance one; fixed once `fit` has seen some maps.

    Channels are standardised first. A component with less than a five-hundredth of the first one's variance is
    divided as if it had that much, so that noise is not blown up.

    Arguments:
        channels: D of the maps.
        count: P ≤ D components.
    """

    LEAST_VARIANCE = 0.002

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(count, channels))
        self.register_buffer("bias", torch.zeros(count))

    def fit(self, moments: Moments) -> None:
        """Set weight and bias from the moments of cells, computed in float64; signs are such that weights sum to ≥ 0.

        Source: Jolliffe, Principal Component Analysis, second edition, 2002, section 2.3 (correlation matrix).
        """
        mean_D, covariance_DD = moments.mean(), moments.covariance()
        deviation_D = covariance_DD.diag().sqrt()
        inverse_D = torch.where(deviation_D > 0, 1 / deviation_D, 0.0)
        variances, vectors = torch.linalg.eigh(covariance_DD * inverse_D[:, None] * inverse_D)
        count = len(self.weight)
        variances_P, vectors_PD = variances.flip(0)[:count], vectors.flip(1)[:, :count].T
        vectors_PD = vectors_PD * torch.where(vectors_PD.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        least = (variances_P[0] * self.LEAST_VARIANCE).clamp_min(torch.finfo(torch.float64).tiny)
        weight_PD = vectors_PD / variances_P.maximum(least).sqrt()[:, None] * inverse_D
        self.weight.copy_(weight_PD)
        self.bias.copy_(-(weight_PD @ mean_D))

    def forward(self, maps_NDHW: Tensor) -> Tensor:
        """[N, P, h, w]."""
        return F.conv2d(maps_NDHW, self.weight[:, :, None, None], self.bias)


class Moments:
    """Running mean and covariance of the cells of maps, in float64.

    Arguments:
        channels: D of the maps.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sum_D = torch.zeros(channels, dtype=torch.float64)
        self._products_DD = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, map_DHW: Tensor) -> None:
        """Take in the cells of a map, float [D, h, w]."""
        cells_ID = map_DHW.detach().flatten(1).T.double().cpu()
        self.count += len(cells_ID)
        self._sum_D += cells_ID.sum(dim=0)
        self._products_DD += cells_ID.T @ cells_ID

    def mean(self) -> Tensor:
        """[D]."""
        assert self.count, "no cells"
        return self._sum_D / self.count

    def covariance(self) -> Tensor:
        """[D, D], divided by the count."""
        mean_D = self.mean()
        return self._products_DD / self.count - mean_D[:, None] * mean_D
