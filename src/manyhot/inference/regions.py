"""Pictures with their boxes on the way to a detector: views, batches, and pictures decoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from manyhot.data.decoding import Key
from manyhot.data.images import DamagedImage, image_size, open_image
from manyhot.data.loading import Batch
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Corners, Proposals
from manyhot.errors import UserError
from manyhot.models.detectors import WSDDN
from manyhot.models.wsddn import Packed

ROI = 7
"""Stream of randomness beside those of manyhot.data.loading."""


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
