"""Maps of a frozen backbone, computed once: a detector on them goes without its backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhot.data.decoding import Batches, Key, Loader
from manyhot.data.images import cache_folder
from manyhot.data.loading import Batch
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.inference.feature_store import Features, FeatureStore, digests, store_key, weights_digest
from manyhot.inference.regions import Regions, RoiGroup, RoiPictures, View
from manyhot.models.weight_standardization import standardization_settings
from manyhot.models.wsddn import Packed, Wsddn
from manyhot.progress import progress

log = logging.getLogger("manyhot")

_CHUNK_BYTES = 64 << 20  # of maps in one file of the store: what a kill can lose


@dataclass(frozen=True)
class Maps:
    """Maps of N pictures in some views, float16.

    Arguments:
        features: by view; of each picture a row that begins with the map's height and width, then its cells.
    """

    features: dict[View, Features]

    def at(self, view: View, row: int) -> Tensor:
        """The map of a picture, float16 [D, h, w]."""
        rows_ID = torch.from_numpy(self.features[view].gather([row])[0])
        height, width = (int(one) for one in rows_ID[0, :2])
        return rows_ID[1:].reshape(height, width, -1).permute(2, 0, 1)


@dataclass(frozen=True)
class MapExtraction:
    """A frozen backbone, and how pictures reach it; its maps are kept as the features of frozen classifiers are.

    Arguments:
        network: its backbone is used.
        preprocessing: filter, mean and standard deviation.
        device: where the network lies.
        workers: threads that decode; None is one a core.
        batch_size: pictures decoded together.
    """

    network: Wsddn
    preprocessing: Preprocessing
    device: torch.device
    workers: int | None = None
    batch_size: int = 16

    def compute(
        self,
        paths: Sequence[Path],
        regions: Regions,
        views: Sequence[View],
        *,
        what: str,
        after_batch: Callable[[], None] = lambda: None,
    ) -> Maps:
        """Maps of N pictures in each view: what the store has is read, the rest computed and stored.

        Raises:
            UserError: a picture that cannot be read, or a map that is no finite float16.
        """
        return Maps(self.features(paths, regions, views, what=what, after_batch=after_batch))

    def features(
        self,
        paths: Sequence[Path],
        regions: Regions,
        views: Sequence[View],
        *,
        what: str,
        after_batch: Callable[[], None] = lambda: None,
    ) -> dict[View, Features]:
        """What is kept of N pictures in each view, as `compute`."""
        names = self.names(paths, regions)
        found = {}
        for number, view in enumerate(views):
            store = FeatureStore(self._folder(view), self.width, info=self.parts(view))
            missing = store.missing(names)
            text = f"{what}, view {number + 1}/{len(views)}"
            log.info("%s: %d of %d in the cache, %d px%s", self.kind, len(names) - len(missing), len(names), view.scale,
                     ", mirrored" if view.mirrored else "")  # fmt: skip
            if missing:
                self._fill(store, view, names, paths, regions, missing, text, after_batch)
            found[view] = store.read(names)
        return found

    @property
    def kind(self) -> str:
        """What is kept, in a word."""
        return "maps"

    @property
    def width(self) -> int:
        """Numbers of a row that is kept."""
        return self.network.backbone.channels

    def names(self, paths: Sequence[Path], regions: Regions) -> list[str]:  # noqa: ARG002 - of regions they are boxes
        """What tells apart what is kept of each picture, in hexadecimal SHA-256."""
        return digests(paths, self.workers)

    def parts(self, view: View) -> dict[str, Any]:
        """All that can change what is kept, beside the pictures."""
        backbone = self.network.backbone
        parts = {
            "map": True,
            "network": backbone.name,
            "weights": weights_digest(backbone),
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "interpolation": self.preprocessing.interpolation,
            "scale": view.scale,
            "mirrored": view.mirrored,
        }
        if standardized := standardization_settings(backbone):
            parts["weight_standardization"] = standardized
        return parts

    def rows(self, maps: Sequence[Tensor], packed: Packed) -> list[NDArray[np.float32]]:  # noqa: ARG002 - as above
        """What is kept of some pictures, of each float [I, width].

        Arguments:
            maps: of each picture.
            packed: their boxes.
        """
        return [_rows(map_DHW) for map_DHW in maps]

    def _folder(self, view: View) -> Path:
        return cache_folder() / "features" / store_key(**self.parts(view))

    @torch.no_grad()
    def _fill(
        self,
        store: FeatureStore,
        view: View,
        names: list[str],
        paths: Sequence[Path],
        regions: Regions,
        missing: list[int],
        what: str,
        after_batch: Callable[[], None],
    ) -> None:
        pictures = RoiPictures(paths, np.zeros((len(paths), 0), np.int8), self.preprocessing, regions, view)
        batches = _Chosen(missing, self.batch_size)
        self.network.eval()
        rows: list[int] = []
        waiting: list[NDArray[np.float32]] = []

        def keep() -> None:
            if rows:
                store.add([names[row] for row in rows], waiting, [paths[row] for row in rows])
            rows.clear()
            waiting.clear()

        try:
            with progress(len(missing), what) as bar:
                for batch in Loader(pictures, batches, self.workers):
                    if batch.damaged:
                        row, reason = batch.damaged[0]
                        raise UserError(f"the picture cannot be read any more: {reason}.", file=paths[row])
                    (group,) = batch.groups
                    assert isinstance(group, RoiGroup)
                    ready = group.ready(self.device)
                    waiting.extend(self.rows(self.network.maps(ready.inputs), ready))
                    rows.extend(batch.indices.tolist())
                    if sum(one.nbytes for one in waiting) >= _CHUNK_BYTES:
                        keep()
                    bar.advance(len(batch.indices))
                    after_batch()
        finally:
            keep()


class _Chosen:
    """Some pictures, each once."""

    def __init__(self, rows: Sequence[int], batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.rows), self.batch_size):
            yield [(-1, row) for row in self.rows[start : start + self.batch_size]]


def _rows(map_DHW: Tensor) -> NDArray[np.float32]:
    """A row with height and width, then the cells, [1 + h·w, D]."""
    cells_ID = map_DHW.flatten(1).T.float().cpu()
    first_1D = cells_ID.new_zeros(1, cells_ID.shape[1])
    first_1D[0, :2] = torch.tensor([float(side) for side in map_DHW.shape[1:]])
    rows_ID: NDArray[np.float32] = torch.cat([first_1D, cells_ID]).numpy()
    return rows_ID


class MapLoader:
    """Gives batches of maps with boxes as `Loader` gives batches of pictures.

    Arguments:
        maps: of N pictures, in all views that are drawn.
        labels: int8 [N, C].
        regions: their boxes.
        batches: which pictures, in which order.
    """

    def __init__(self, maps: Maps, labels: NDArray[np.int8], regions: Regions, batches: Batches) -> None:
        self.maps, self.labels, self.regions, self.batches = maps, labels, regions, batches

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            rows = [index for _, index in keys]
            drawn = [self.regions.draw(*key) for key in keys]
            inputs = [self.maps.at(view, row) for row, (view, _) in zip(rows, drawn, strict=True)]
            yield Batch(
                indices=torch.tensor(rows, dtype=torch.int64),
                labels=torch.from_numpy(self.labels[rows]),
                groups=(RoiGroup(torch.arange(len(rows)), self.regions.pack(inputs, rows, drawn), None),),
            )
