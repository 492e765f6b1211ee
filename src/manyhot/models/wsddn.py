"""WSDDN: boxes from image-level labels. Bilen and Vedaldi, Weakly Supervised Deep Detection Networks, CVPR 2016."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from manyhot.models.backbones import Backbone
from manyhot.models.region_pooling import Bins, Components, Evidence

LEAST_SCORE = 1e-6
"""Image scores are kept this far from 0 and 1, so that their logits and losses are finite."""


@dataclass(frozen=True)
class Packed:
    """N pictures and their R boxes in all, without padding.

    Arguments:
        inputs: of each picture a normalised image [3, H, W], the backbone's map of it [D, h, w], sizes may differ, or
            what was pooled from that for each of its boxes [r, …].
        boxes: float [R, 4] x0, y0, x1, y1 in pixels of the image that the network sees, 0-based, x1 and y1 exclusive.
        segments: int64 [R], the picture of each box, ascending.
        scores: float [R], how likely each box is to hold an object, as its proposer says; None: unknown.
        pooled: the inputs are pooled regions.
    """

    inputs: tuple[Tensor, ...]
    boxes: Tensor
    segments: Tensor
    scores: Tensor | None = None
    pooled: bool = False

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
            self.pooled,
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
        joined: boxes are scored by products and branches together.
    """

    packed: Packed
    features: Tensor
    products: Tensor
    images: Tensor
    refined: tuple[Tensor, ...] = ()
    joined: bool = False

    @property
    def boxes(self) -> Tensor:
        """Scores of the boxes, float [R, C]: the products; where there are branches their mean, or with `joined` the
        geometric mean of both.
        """
        if not self.refined:
            return self.products
        mean_RC = torch.stack([logits.softmax(dim=1)[:, :-1] for logits in self.refined]).mean(dim=0)
        return (mean_RC * self.products).sqrt() if self.joined else mean_RC


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


class WsddnHead(nn.Module):
    """From maps and boxes to scores: pooled regions, hidden layers, two streams, and refinement branches.

    Arguments:
        pooling: from a map and its boxes to regions.
        body: from regions to features [R, F].
        width: F.
        n_classes: C.
        temperature: of the softmax over boxes.
        refinements: K branches.
        joined: see `RoiScores`.
        squeeze: done on the map before regions are pooled, so that it costs little: a 1×1 convolution that learns, or
            components that do not; None: none.
    """

    def __init__(
        self,
        pooling: Bins | Evidence,
        body: nn.Module,
        width: int,
        n_classes: int,
        *,
        temperature: float = 1.0,
        refinements: int = 0,
        joined: bool = False,
        squeeze: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.squeeze = squeeze or nn.Identity()
        self.pooling = pooling
        self.body = body
        self.classification = nn.Linear(width, n_classes)
        self.detection = nn.Linear(width, n_classes)
        self.refinements = nn.ModuleList(nn.Linear(width, n_classes + 1) for _ in range(refinements))
        for layer in (self.classification, self.detection, *self.refinements):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.temperature, self.joined = temperature, joined
        self.latest: RoiScores | None = None

    def forward(self, packed: Packed) -> Tensor:
        """Logits [N, C] of the image scores; in training `latest` keeps what the other terms of the loss need."""
        scores = self.scores(packed)
        self.latest = scores if self.training else None
        return scores.images.logit()

    def scores(self, packed: Packed) -> RoiScores:
        """Scores of boxes and pictures; `packed` holds maps, or regions pooled from them.

        A picture without a box has the least score for every class.
        """
        regions = self._regions(packed)
        if packed.scores is not None:  # as the authors do with EdgeBoxes
            factors_R = 1 + 10 * packed.scores.to(regions)
            regions = regions * factors_R.reshape(-1, *[1] * (regions.ndim - 1))
        features_RF = self.body(regions)
        count = len(packed)
        classes_RC = self.classification(features_RF).softmax(dim=1)
        places_RC = segment_softmax(self.detection(features_RF), packed.segments, count, self.temperature)
        products_RC = classes_RC * places_RC
        images_NC = segment_sum(products_RC, packed.segments, count).clamp(LEAST_SCORE, 1 - LEAST_SCORE)
        refined = tuple(branch(features_RF) for branch in self.refinements)
        return RoiScores(packed, features_RF, products_RC, images_NC, refined, self.joined)

    def pool(self, map_DHW: Tensor, boxes_R4: Tensor) -> Tensor:
        """The regions of a picture, [R, …]."""
        regions: Tensor = self.pooling(self.squeeze(map_DHW[None])[0], boxes_R4)
        return regions

    @property
    def pools_as_ever(self) -> bool:
        """Nothing that learns comes before regions are pooled, so that they can be kept."""
        return not list(self.squeeze.parameters())

    def region_width(self, channels: int) -> int:
        """Numbers of a region of a backbone's map with this many channels."""
        return self.pooling.width(len(self.squeeze.weight) if isinstance(self.squeeze, Components) else channels)

    def _regions(self, packed: Packed) -> Tensor:
        if packed.pooled:
            return torch.cat(packed.inputs)
        counts = torch.bincount(packed.segments, minlength=len(packed)).tolist()
        split = torch.split(packed.boxes, counts)
        return torch.cat([self.pool(map_DHW, own) for map_DHW, own in zip(packed.inputs, split, strict=True)])


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
