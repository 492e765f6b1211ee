"""Pictures with their boxes on the way to a detector: decoded anew, or as maps that a frozen backbone gave before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from manyhot.data.decoding import Batches, Key, Loader
from manyhot.data.images import DamagedImage, cache_folder, image_size, open_image
from manyhot.data.loading import Batch
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Corners, Proposals
from manyhot.errors import UserError
from manyhot.inference.feature_store import Features, FeatureStore, digests, store_key, weights_digest
from manyhot.models.detectors import WSDDN
from manyhot.models.weight_standardization import standardization_settings
from manyhot.models.wsddn import Packed, Wsddn
from manyhot.progress import progress

log = logging.getLogger("manyhot")

ROI = 7
"""Stream of randomness beside those of manyhot.data.loading."""

_CHUNK_BYTES = 64 << 20  # of maps in one file of the store: what a kill can lose


class View(NamedTuple):
    """How a picture is seen: its longer side in pixels, and whether it is mirrored."""

    scale: int
    mirrored: bool


def training_views(part: WSDDN) -> list[View]:
    """All views of which training draws one for each picture."""
    return _views(part.scales, flips=part.flips)


def detection_views(part: WSDDN) -> list[View]:
    """All views over which detection sums; the first one is that of validation."""
    return _views(part.detection_scales, flips=part.flips)


def _views(scales: Sequence[int], *, flips: bool) -> list[View]:
    return [View(scale, mirrored) for mirrored in ((False, True) if flips else (False,)) for scale in scales]


def view_size(size: tuple[int, int], view: View) -> tuple[int, int]:
    """Width and height of a picture of this width and height as it is seen, pixels."""
    factor = view.scale / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def place_boxes(boxes_R4: Corners, size: tuple[int, int], view: View) -> Corners:
    """Boxes in the pixels of a view.

    Arguments:
        boxes_R4: in pixels of the picture, x1 and y1 exclusive.
        size: width and height of the picture.
        view: as which it is seen.
    """
    width, height = view_size(size, view)
    placed_R4 = boxes_R4 * np.array([width / size[0], height / size[1]] * 2, np.float32)
    if view.mirrored:
        placed_R4[:, [0, 2]] = width - placed_R4[:, [2, 0]]
    return placed_R4


def see(image: Image.Image, view: View, rule: Preprocessing) -> NDArray[np.uint8]:
    """A picture as it is seen, uint8 [H, W, 3]."""
    pixels_HW3 = np.asarray(image.resize(view_size(image.size, view), rule.filter))
    return np.array(pixels_HW3[:, ::-1] if view.mirrored else pixels_HW3)  # a copy, which torch may write to


@dataclass(frozen=True)
class RoiGroup:
    """Pictures of a batch with their boxes.

    Arguments:
        places: int64 [n], their places in the batch.
        packed: images uint8 [3, H, W], or float16 maps [D, h, w] or regions [r, F], and boxes.
        preprocessing: of the images; None for maps and pooled regions.
    """

    places: Tensor
    packed: Packed
    preprocessing: Preprocessing | None

    def ready(self, device: torch.device) -> Packed:
        """As the network takes it."""
        if self.preprocessing is None:
            return self.packed.to(device)
        images = tuple(self.preprocessing.normalize(one.to(device)) for one in self.packed.inputs)
        return replace(self.packed, inputs=images).to(device)

    def part(self, start: int, end: int) -> RoiGroup:
        """A detector's batch goes through whole."""
        raise NotImplementedError

    def logits(self, network: nn.Module, device: torch.device) -> Tensor:
        """What the network says of the pictures, [n, C]: the whole one of images, its head of maps."""
        logits: Tensor = network(self.ready(device))
        return logits


class Regions:
    """The boxes of N pictures, as each view and epoch takes them.

    Arguments:
        proposals: of the N pictures, in their order.
        paths: their files.
        part: the detector's settings.
        seed: of the drawing of views and boxes.
    """

    def __init__(self, proposals: Proposals, paths: Sequence[Path], part: WSDDN, seed: int = 0) -> None:
        self.sizes = [own or image_size(path) for own, path in zip(proposals.sizes, paths, strict=True)]
        self.views = training_views(part)
        self.first = detection_views(part)[0]
        self._proposals, self._part, self._seed = proposals, part, seed
        if part.box_scores and proposals.scores is None:
            raise UserError("model.detector.box_scores needs proposals that have scores.")

    def draw(self, epoch: int, index: int) -> tuple[View, NDArray[np.int64] | None]:
        """The view of a picture in an epoch, and which boxes (None: all); a negative epoch asks for the first view.

        It depends on the seed, the epoch and the index alone.
        """
        if epoch < 0:
            return self.first, None
        rng = np.random.default_rng([self._seed, ROI, epoch, index])
        view = self.views[int(rng.integers(len(self.views)))]
        count, most = len(self._proposals.boxes[index]), self._part.max_boxes
        if most is None or count <= most:
            return view, None
        return view, np.sort(rng.permutation(count)[:most])

    def pack(
        self,
        inputs: Sequence[Tensor],
        rows: Sequence[int],
        drawn: Sequence[tuple[View, NDArray[np.int64] | None]],
        *,
        pooled: bool = False,
    ) -> Packed:
        """Pictures, or their pooled regions, with their boxes in the pixels of their views."""
        boxes, scores = [], []
        for row, (view, chosen) in zip(rows, drawn, strict=True):
            take = slice(None) if chosen is None else chosen
            boxes.append(place_boxes(self._proposals.boxes[row][take], self.sizes[row], view))
            if self._part.box_scores and self._proposals.scores is not None:
                scores.append(self._proposals.scores[row][take])
        counts = torch.tensor([len(own) for own in boxes])
        return Packed(
            tuple(inputs),
            torch.from_numpy(np.concatenate(boxes)),
            torch.repeat_interleave(torch.arange(len(boxes)), counts),
            torch.from_numpy(np.concatenate(scores)) if scores else None,
            pooled,
        )

    def of(self, rows: Sequence[int]) -> Proposals:
        """The proposals of some pictures."""
        own = self._proposals
        return Proposals(
            tuple(own.ids[row] for row in rows),
            tuple(own.boxes[row] for row in rows),
            tuple(own.sizes[row] for row in rows),
            None if own.scores is None else tuple(own.scores[row] for row in rows),
            own.source,
        )

    def boxes(self, row: int) -> Corners:
        """All boxes of a picture, in its own pixels."""
        return self._proposals.boxes[row]


class RoiPictures:
    """Decoded pictures with their labels and boxes, by (epoch, index): what `Loader` takes.

    Arguments:
        paths: N image files.
        labels: int8 [N, C].
        preprocessing: filter, mean and standard deviation.
        regions: their boxes.
        view: always this one, with all boxes; None: as drawn.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int8],
        preprocessing: Preprocessing,
        regions: Regions,
        view: View | None = None,
    ) -> None:
        self.paths, self.labels, self.preprocessing, self.regions, self.view = (
            paths, labels, preprocessing, regions, view,
        )  # fmt: skip

    def _drawn(self, key: Key) -> tuple[View, NDArray[np.int64] | None]:
        return self.regions.draw(*key) if self.view is None else (self.view, None)

    def __getitem__(self, key: Key) -> tuple[Key, NDArray[np.uint8]] | tuple[Key, str]:
        """The key with uint8 [H, W, 3], or with the reason why the picture is damaged."""
        try:
            return key, see(open_image(self.paths[key[1]]), self._drawn(key)[0], self.preprocessing)
        except DamagedImage as damage:
            return key, damage.reason

    def collate(self, items: Sequence[tuple[Key, NDArray[np.uint8]] | tuple[Key, str]]) -> Batch:
        """One batch."""
        sound = [(key, pixels) for key, pixels in items if not isinstance(pixels, str)]
        rows = [index for (_, index), _ in sound]
        images = [torch.from_numpy(pixels).permute(2, 0, 1) for _, pixels in sound]
        group = (
            RoiGroup(
                torch.arange(len(rows)),
                self.regions.pack(images, rows, [self._drawn(key) for key, _ in sound]),
                self.preprocessing,
            ),
        )
        return Batch(
            indices=torch.tensor(rows, dtype=torch.int64),
            labels=torch.from_numpy(self.labels[rows]),
            groups=group if rows else (),
            damaged=tuple((index, reason) for (_, index), reason in items if isinstance(reason, str)),
        )


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
