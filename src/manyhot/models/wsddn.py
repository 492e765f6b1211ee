"""WSDDN: boxes from image-level labels. Bilen and Vedaldi, Weakly Supervised Deep Detection Networks, CVPR 2016."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from manyhot.models.backbones import Backbone
from manyhot.models.geometry import Geometry

LEAST_SCORE = 1e-6
"""Image scores are kept this far from 0 and 1, so that their logits and losses are finite."""

SAMPLES = 2
"""Bilinear samples along each side of a bin of a region."""


@dataclass(frozen=True)
class Packed:
    """N pictures and their R boxes in all, without padding.

    Arguments:
        inputs: of each picture a normalised image [3, H, W], or the backbone's map of it [D, h, w]; sizes may differ.
        boxes: float [R, 4] x0, y0, x1, y1 in pixels of the image that the network sees, 0-based, x1 and y1 exclusive.
        segments: int64 [R], the picture of each box, ascending.
        scores: float [R], how likely each box is to hold an object, as its proposer says; None: unknown.
    """

    inputs: tuple[Tensor, ...]
    boxes: Tensor
    segments: Tensor
    scores: Tensor | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.inputs)

    def to(self, device: torch.device) -> Packed:
        """The same on a device, inputs as float32."""
        return Packed(
            tuple(one.to(device, non_blocking=True).float() for one in self.inputs),
            self.boxes.to(device, non_blocking=True),
            self.segments.to(device, non_blocking=True),
            None if self.scores is None else self.scores.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class RoiScores:
    """What the network says of R boxes in N pictures.

    Arguments:
        packed: the boxes.
        features: float [R, F], of the last hidden layer (fc7).
        products: float [R, C], softmax over classes times softmax over the boxes of a picture.
        images: float [N, C] in LEAST_SCORE…1 - LEAST_SCORE, the sums of the products.
        refined: logits [R, C + 1] of each refinement branch; the last column is background.
    """

    packed: Packed
    features: Tensor
    products: Tensor
    images: Tensor
    refined: tuple[Tensor, ...] = ()

    @property
    def boxes(self) -> Tensor:
        """Scores of the boxes, float [R, C]: the products, or the mean over the branches where there are any."""
        if not self.refined:
            return self.products
        return torch.stack([logits.softmax(dim=1)[:, :-1] for logits in self.refined]).mean(dim=0)


def segment_sum(values_RC: Tensor, segment_R: Tensor, count: int) -> Tensor:
    """Sums of rows by segment, [count, C]; zero where a segment has no row."""
    return values_RC.new_zeros(count, values_RC.shape[1]).index_add(0, segment_R, values_RC)


def segment_softmax(logits_RC: Tensor, segment_R: Tensor, count: int, temperature: float = 1.0) -> Tensor:
    """Softmax of logits / temperature down each column, over the rows of each segment by itself, [R, C].

    Arguments:
        logits_RC: float [R, C].
        segment_R: int64 [R], 0…count - 1.
        count: number of segments; one may have no row.
        temperature: above 0; a higher one spreads the scores.
    """
    scaled_RC = logits_RC / temperature
    index_RC = segment_R[:, None].expand_as(scaled_RC)
    lowest = torch.full((count, logits_RC.shape[1]), -torch.inf, dtype=scaled_RC.dtype, device=scaled_RC.device)
    highest_NC = lowest.scatter_reduce(0, index_RC, scaled_RC.detach(), "amax")
    powers_RC = (scaled_RC - highest_NC[segment_R]).exp()
    return powers_RC / segment_sum(powers_RC, segment_R, count)[segment_R]


def pool_regions(
    map_DHW: Tensor, boxes_R4: Tensor, geometry: Geometry, side: int, mode: Literal["max", "average"] = "max"
) -> Tensor:
    """Features [R, D, side, side] of boxes, placed exactly by where the cells of the map lie.

    Each of side² bins has 2 × 2 bilinear samples, of which the largest or the mean is taken. In coordinates where pixel
    p reaches from p to p + 1, cell i of the map is centred on offset + ½ + stride·i; roi_align takes it to be centred
    on stride·(i + ½), so boxes are shifted by the difference, offset + (1 - stride) / 2.

    Source: He et al., Mask R-CNN, ICCV 2017, section 3 (RoIAlign).

    Arguments:
        map_DHW: float [D, h, w].
        boxes_R4: float [R, 4], pixels of the network's input, x1 and y1 exclusive.
        geometry: of the map.
        side: bins along each axis.
        mode: of joining the samples of a bin.
    """
    shift = geometry.offset + (1 - geometry.stride) / 2
    bins, samples = (side * SAMPLES, 1) if mode == "max" else (side, SAMPLES)
    pooled: Tensor = roi_align(
        map_DHW[None], [boxes_R4 - shift], bins, 1 / geometry.stride, sampling_ratio=samples, aligned=True
    )
    return F.max_pool2d(pooled, SAMPLES) if mode == "max" and len(pooled) else pooled[:, :, :side, :side]


class WsddnHead(nn.Module):
    """From maps and boxes to scores: pooled regions, hidden layers, two streams, and refinement branches.

    Arguments:
        body: from regions [R, D, side, side] to features [R, F].
        width: F.
        n_classes: C.
        geometry: of the maps.
        side: bins of a region along each axis.
        mode: of joining samples in a bin, `max` or `average`.
        temperature: of the softmax over boxes.
        refinements: K branches.
        squeeze: 1×1 convolution and ReLU on the map before regions are pooled, so that it costs little; None: none.
    """

    def __init__(
        self,
        body: nn.Module,
        width: int,
        n_classes: int,
        geometry: Geometry,
        *,
        side: int = 6,
        mode: Literal["max", "average"] = "max",
        temperature: float = 1.0,
        refinements: int = 0,
        squeeze: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.squeeze = squeeze or nn.Identity()
        self.body = body
        self.classification = nn.Linear(width, n_classes)
        self.detection = nn.Linear(width, n_classes)
        self.refinements = nn.ModuleList(nn.Linear(width, n_classes + 1) for _ in range(refinements))
        for layer in (self.classification, self.detection, *self.refinements):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.geometry, self.side, self.mode, self.temperature = geometry, side, mode, temperature
        self.latest: RoiScores | None = None

    def forward(self, packed: Packed) -> Tensor:
        """Logits [N, C] of the image scores; in training `latest` keeps what the other terms of the loss need."""
        scores = self.scores(packed)
        self.latest = scores if self.training else None
        return scores.images.logit()

    def scores(self, packed: Packed) -> RoiScores:
        """Scores of boxes and pictures; `packed` holds maps.

        A picture without a box has the least score for every class.
        """
        regions = self._regions(packed)
        if packed.scores is not None:  # as the authors do with EdgeBoxes
            regions = regions * (1 + 10 * packed.scores.to(regions))[:, None, None, None]
        features_RF = self.body(regions)
        count = len(packed)
        classes_RC = self.classification(features_RF).softmax(dim=1)
        places_RC = segment_softmax(self.detection(features_RF), packed.segments, count, self.temperature)
        products_RC = classes_RC * places_RC
        images_NC = segment_sum(products_RC, packed.segments, count).clamp(LEAST_SCORE, 1 - LEAST_SCORE)
        refined = tuple(branch(features_RF) for branch in self.refinements)
        return RoiScores(packed, features_RF, products_RC, images_NC, refined)

    def _regions(self, packed: Packed) -> Tensor:
        counts = torch.bincount(packed.segments, minlength=len(packed)).tolist()
        parts = [
            pool_regions(self.squeeze(map_DHW[None])[0], boxes_R4, self.geometry, self.side, self.mode)
            for map_DHW, boxes_R4 in zip(packed.inputs, torch.split(packed.boxes, counts), strict=True)
        ]
        return torch.cat(parts)


class Wsddn(nn.Module):
    """Backbone and head.

    Arguments:
        backbone: from images to a feature map.
        head: from maps and boxes to scores.
    """

    def __init__(self, backbone: Backbone, head: WsddnHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def latest(self) -> RoiScores | None:
        """Of the head."""
        return self.head.latest

    def forward(self, packed: Packed) -> Tensor:
        """Logits [N, C] of the image scores; `packed` holds normalised images."""
        logits_NC: Tensor = self.head(self.mapped(packed))
        return logits_NC

    def scores(self, packed: Packed) -> RoiScores:
        """Scores of boxes and pictures; `packed` holds normalised images."""
        return self.head.scores(self.mapped(packed))

    def mapped(self, packed: Packed) -> Packed:
        """The same with the backbone's maps in place of images."""
        return replace(packed, inputs=tuple(self.maps(packed.inputs)))

    def maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Maps [D, h, w] of images [3, H, W]; those of one shape go through the backbone together."""
        alike: dict[torch.Size, list[int]] = {}
        for place, image in enumerate(images):
            alike.setdefault(image.shape, []).append(place)
        found: dict[int, Tensor] = {}
        for places in alike.values():
            stack = torch.stack([images[place] for place in places]).contiguous(memory_format=torch.channels_last)
            found |= dict(zip(places, self.backbone(stack), strict=True))
        return [found[place] for place in range(len(images))]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters of the backbone, frozen or not."""
        return list(self.backbone.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """All parameters of the head."""
        return list(self.head.parameters())
