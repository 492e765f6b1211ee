"""Pictures of a pixel store that lie in the device's memory, cut and augmented there by whole batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhot.data.decoding import Batches, Key
from manyhot.data.decoding_processes import AUGMENT
from manyhot.data.loading import Batch, PictureGroup
from manyhot.data.pixels import StoredPicture, stored_picture
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import Augmentation, RandomResizedCrop, augmentations
from manyhot.data.transforms.batched import kernels, resized_parts
from manyhot.data.transforms.cropping import Box
from manyhot.errors import UserError
from manyhot.progress import progress

_SHARE = 0.8
"""Of the device's free memory that pictures may take."""


class DeviceLoader:
    """Batches as `Loader` gives them, without a processor's work for each picture.

    Order and draws are those of `Loader` with the same seed; values differ by the rounding of other kernels.

    Arguments:
        paths: N pictures of pixel stores.
        labels: int8 [N, C].
        preprocessing: how a picture becomes one crop.
        augment: parts that change it, the one that crops first.
        seed: of the augmentation.
        batches: which pictures, in which order; epoch -1 is without augmentation.
        device: where the pictures lie.

    Raises:
        UserError: pictures that are not pixels of a store, or more than the device holds.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int8],
        preprocessing: Preprocessing,
        augment: tuple[Augmentation, ...],
        seed: int,
        batches: Batches,
        device: torch.device,
    ) -> None:
        self.labels = labels
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.batches = batches
        self.device = device
        stored = [_raw(path) for path in paths]
        self.sizes = [one.size for one in stored]
        bytes_N = np.array([3 * width * height for width, height in self.sizes], dtype=np.int64)
        self.starts_N = np.concatenate([[0], np.cumsum(bytes_N)])
        total = int(self.starts_N[-1])
        _refuse_too_many(total, device)
        self.bytes = torch.empty(total, dtype=torch.uint8, device=device)
        with progress(total, "pictures to the device", "B") as bar:
            for number, one in enumerate(stored):
                start, end = self.starts_N[number], self.starts_N[number + 1]
                self.bytes[start:end] = torch.from_numpy(np.array(one.content()).reshape(-1))
                bar.advance(int(end - start))

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            indices = [index for _, index in keys]
            group = PictureGroup(torch.arange(len(keys)), (self._pixels(keys).unsqueeze(1),), self.preprocessing)
            yield Batch(torch.tensor(indices), torch.from_numpy(self.labels[indices]), (group,))

    def _pixels(self, keys: list[Key]) -> Tensor:
        """uint8 [B, 3, size, size]."""
        parts = self.augment if keys and keys[0][0] >= 0 else ()
        side = self.preprocessing.size
        drawn: list[list[Any]] = [[] for _ in parts]
        boxes: list[Box] = []
        limits: list[Box] = []
        for epoch, index in keys:
            rng = np.random.default_rng([self.seed, AUGMENT, epoch, index]) if parts else None
            size = self.sizes[index]
            box, limit = self.preprocessing.kept(size), (0.0, 0.0, float(size[0]), float(size[1]))
            for part, values in zip(parts, drawn, strict=True):
                assert rng is not None
                if part.crops:
                    box = part.draw(size, rng, self.preprocessing)
                    limit = box if isinstance(part, RandomResizedCrop) else limit
                else:
                    values.append(part.draw((side, side), rng, self.preprocessing))
            boxes.append(box)
            limits.append(limit)
        widths, heights = zip(*(self.sizes[index] for _, index in keys), strict=True)
        canvas_BHW3 = torch.zeros(len(keys), max(heights), max(widths), 3, dtype=torch.uint8, device=self.device)
        for row, (_, index) in enumerate(keys):
            width, height = self.sizes[index]
            pixels = self.bytes[self.starts_N[index] : self.starts_N[index + 1]]
            canvas_BHW3[row, :height, :width] = pixels.view(height, width, 3)
        pixels_B3SS = resized_parts(canvas_BHW3, boxes, limits, side)
        for part, values in zip(parts, drawn, strict=True):
            if not part.crops:
                pixels_B3SS = kernels[type(part)](pixels_B3SS, values, self.preprocessing)
        return pixels_B3SS.contiguous(memory_format=torch.channels_last)


def refuse_unbatched(paths: Sequence[Path], preprocessing: Preprocessing, augment: tuple[Augmentation, ...]) -> None:
    """Refuse what batches cannot do.

    Raises:
        UserError: several crops, another filter than bilinear, a part without a kernel or before the one that crops, a
            picture that is not the pixels of a store.
    """
    if preprocessing.crops["name"] != "one":
        raise UserError(
            f"training.on_device cuts one crop of a picture, and input.crops is '{preprocessing.crops['name']}'."
        )
    if preprocessing.interpolation != "bilinear":
        raise UserError(
            f"training.on_device resizes bilinearly, and input.interpolation is '{preprocessing.interpolation}'."
        )
    for place, part in enumerate(augment):
        if part.crops:
            if place:
                raise UserError("with training.on_device the part that crops comes first in input.augment.")
        elif type(part) not in kernels:
            known = ", ".join(sorted(augmentations.name_of(one.model_construct()) for one in kernels))
            raise UserError(
                f"training.on_device: {augmentations.name_of(part)} cannot be drawn on batches.",
                remedy=f"Of the parts that do not crop, these can: {known}.",
            )
    for path in paths:
        _raw(path)


def _raw(path: Path) -> StoredPicture:
    stored = stored_picture(path)
    if stored is None or stored.store.layout != "raw":
        raise UserError(
            "training.on_device takes the pictures of a pixel store, and this is none.",
            file=path,
            remedy="Make one with `manyhot data prepare`, without --jpeg.",
        )
    return stored


def _refuse_too_many(total: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if total > _SHARE * free:
        raise UserError(
            f"the pictures to train on take {total / 2**30:.1f} GiB, and the device has {free / 2**30:.1f} GiB free.",
            remedy="Prepare a smaller store, or set training.on_device=false.",
        )
