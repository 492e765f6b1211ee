"""Pooled regions of a frozen backbone, computed once: an epoch of a detector on them costs its head alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhot.data.decoding import Batches
from manyhot.data.loading import Batch
from manyhot.inference.feature_store import Features, weights_digest
from manyhot.inference.kept_maps import MapExtraction
from manyhot.inference.regions import Regions, RoiGroup, View
from manyhot.models.region_pooling import Evidence
from manyhot.models.wsddn import Packed

log = logging.getLogger("manyhot")


@dataclass(frozen=True)
class RegionExtraction(MapExtraction):
    """A frozen backbone and the pooling of a head before which nothing learns.

    The same picture with other boxes, or other components, has other regions in the cache.
    """

    def announce(self, regions: Regions, count: int, views: Sequence[View]) -> None:
        """Say how much room the regions of N pictures take."""
        boxes = sum(len(regions.boxes(row)) for row in range(count))
        size = len(views) * (boxes + count) * self.width * np.float16().itemsize
        log.info("regions: %d boxes x %d views x %d numbers of 2 bytes: %.2f GB", boxes, len(views), self.width,
                 size / 1e9)  # fmt: skip

    @property
    def kind(self) -> str:
        """What is kept."""
        return "regions"

    @property
    def width(self) -> int:
        """F."""
        return self.network.head.region_width(self.network.backbone.channels)

    def names(self, paths: Sequence[Path], regions: Regions) -> list[str]:
        """By picture and boxes."""
        pictures = super().names(paths, regions)
        return [
            hashlib.sha256(bytes.fromhex(one) + regions.boxes(row).tobytes()).hexdigest()
            for row, one in enumerate(pictures)
        ]

    def parts(self, view: View) -> dict[str, Any]:
        """Those of maps, and all of the pooling."""
        pooling = self.network.head.pooling
        settings = (
            {"power": pooling.power, "context": pooling.context}
            if isinstance(pooling, Evidence)
            else {"side": pooling.side, "mode": pooling.mode}
        )
        return super().parts(view) | {
            "map": False,
            "regions": settings | {"stride": pooling.geometry.stride, "offset": pooling.geometry.offset},
            "squeeze": weights_digest(self.network.head.squeeze),
        }

    def rows(self, maps: Sequence[Tensor], packed: Packed) -> list[NDArray[np.float32]]:
        """A row of zeros, as a picture may have no box, then a row a box."""
        counts = torch.bincount(packed.segments, minlength=len(maps)).tolist()
        found = []
        for map_DHW, boxes_R4 in zip(maps, torch.split(packed.boxes, counts), strict=True):
            pooled_RF = self.network.head.pool(map_DHW, boxes_R4).flatten(1).float().cpu()
            rows: NDArray[np.float32] = torch.cat([pooled_RF.new_zeros(1, self.width), pooled_RF]).numpy()
            found.append(rows)
        return found


class RegionLoader:
    """Gives batches of pooled regions as `MapLoader` gives batches of maps.

    Arguments:
        features: by view; of each picture a row of zeros, then a row a box.
        labels: int8 [N, C].
        regions: their boxes.
        batches: which pictures, in which order.
    """

    def __init__(
        self, features: dict[View, Features], labels: NDArray[np.int8], regions: Regions, batches: Batches
    ) -> None:
        self.features, self.labels, self.regions, self.batches = features, labels, regions, batches

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            rows = [index for _, index in keys]
            drawn = [self.regions.draw(*key) for key in keys]
            inputs = [self._at(row, *one) for row, one in zip(rows, drawn, strict=True)]
            packed = self.regions.pack(inputs, rows, drawn, pooled=True)
            yield Batch(
                indices=torch.tensor(rows, dtype=torch.int64),
                labels=torch.from_numpy(self.labels[rows]),
                groups=(RoiGroup(torch.arange(len(rows)), packed, None),),
            )

    def _at(self, row: int, view: View, chosen: NDArray[np.int64] | None) -> Tensor:
        rows_RF = self.features[view].gather([row])[0][1:]
        return torch.from_numpy(rows_RF if chosen is None else rows_RF[chosen])
