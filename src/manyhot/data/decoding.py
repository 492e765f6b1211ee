"""Decoding ahead of the network, in threads: crops as arrays, without torch. `loading` makes tensors of them."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from manyhot import processes
from manyhot.data.images import DamagedImage, open_image
from manyhot.data.preprocessing import Preprocessing

Key = tuple[int, int]
"""(epoch, index): which augmentation of which picture. Epoch -1 asks for the picture without augmentation."""

Item = tuple[int, list[NDArray[np.uint8]]] | tuple[int, str]
"""(index, uint8 [H, W, 3] of each crop), or (index, reason) for a damaged picture."""

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


@dataclass(frozen=True)
class CropGroup:
    """Pictures of a batch whose crops have the same shapes.

    Arguments:
        places: int64 [n], their places in the batch, ascending.
        stacks: uint8 [n, V, H, W, 3] each: V crops of one shape of every picture.
    """

    places: NDArray[np.int64]
    stacks: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class CropBatch:
    """Decoded pictures.

    Arguments:
        indices: int64 [B], which of the pictures.
        groups: the B pictures by the shapes of their crops.
        damaged: (index, reason) of pictures that could not be read; they are not among the B.
    """

    indices: NDArray[np.int64]
    groups: tuple[CropGroup, ...]
    damaged: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, items: Sequence[Item]) -> CropBatch:
        """The batch that decoded pictures make."""
        sound = [(index, views) for index, views in items if not isinstance(views, str)]
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, (_, views) in enumerate(sound):
            alike.setdefault(tuple(view.shape for view in views), []).append(place)
        return cls(
            indices=np.array([index for index, _ in sound], dtype=np.int64),
            groups=tuple(_group(places, [sound[place][1] for place in places]) for places in alike.values()),
            damaged=tuple((index, reason) for index, reason in items if isinstance(reason, str)),
        )


def _group(places: list[int], pictures: list[list[NDArray[np.uint8]]]) -> CropGroup:
    stacks = []
    for _, run in itertools.groupby(range(len(pictures[0])), key=lambda view: pictures[0][view].shape):
        views = list(run)
        pixels_NVHWC = np.stack([picture[view] for picture in pictures for view in views]).reshape(
            len(pictures), len(views), *pictures[0][views[0]].shape
        )
        stacks.append(pixels_NVHWC)
    return CropGroup(np.array(places, dtype=np.int64), tuple(stacks))


class PictureCrops:
    """The crops of pictures as they are, without augmentation, labels or torch.

    Arguments:
        paths: N image files.
        preprocessing: how a picture becomes crops.
    """

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = paths, preprocessing

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def __getitem__(self, key: Key) -> Item:
        """The crops of one picture, or why there are none."""
        try:
            image = open_image(self.paths[key[1]])
        except DamagedImage as damage:
            return key[1], damage.reason
        return key[1], [np.asarray(view) for view in self.preprocessing.views(image)]

    def collate(self, items: Sequence[Item]) -> CropBatch:
        """One batch of decoded pictures."""
        return CropBatch.of(items)


class Decoding(Protocol[B_co]):
    """A data set that decodes one picture at a time, in any thread, and joins them to a batch."""

    def __getitem__(self, key: Key) -> Any:
        """One decoded picture."""

    def collate(self, items: Sequence[Any]) -> B_co:
        """One batch of decoded pictures."""


class Batches(Protocol):
    """Which pictures make which batch."""

    def __len__(self) -> int:
        """Batches in a whole pass."""

    def __iter__(self) -> Iterator[list[Key]]:
        """The keys of each batch."""


class EvaluationBatches:
    """Every picture once, in order; each process takes every world-th batch. Epoch -1 is without augmentation."""

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1, *, epoch: int = -1) -> None:
        self.n, self.batch_size, self.rank, self.world, self.epoch = n, batch_size, rank, world, epoch

    def __len__(self) -> int:
        """Batches of this process."""
        return len(range(self.rank * self.batch_size, self.n, self.world * self.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(self.rank * self.batch_size, self.n, self.world * self.batch_size):
            yield [(self.epoch, index) for index in range(start, min(start + self.batch_size, self.n))]


class Loader(Generic[B]):
    """Decodes pictures ahead of the network, in threads, and gives them in order.

    Pillow decodes and resizes without Python's global lock, so that threads keep all cores busy; unlike processes they
    start at once, copy nothing, die with the program, and work in notebooks and scripts as they are.

    Arguments:
        pictures: the data set.
        batches: which pictures, in which order.
        workers: threads; 0 decodes when asked, None is one a core, at most 16 (processes of one machine share the
            cores).
    """

    def __init__(self, pictures: Decoding[B], batches: Batches, workers: int | None = None) -> None:
        self.pictures = pictures
        self.batches = batches
        cores = max(1, (os.cpu_count() or 1) // processes.place().local_count)
        self.workers = min(16, cores) if workers is None else workers

    def __iter__(self) -> Iterator[B]:
        if not self.workers:
            for keys in self.batches:
                yield self.pictures.collate([self.pictures[key] for key in keys])
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            waiting: deque[list[Future[Any]]] = deque()
            for keys in self.batches:
                waiting.append([pool.submit(self.pictures.__getitem__, key) for key in keys])
                if len(waiting) > AHEAD:
                    yield self._finish(waiting.popleft())
            while waiting:
                yield self._finish(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, items: Iterable[Future[Any]]) -> B:
        return self.pictures.collate([item.result() for item in items])


# Batches in decoding while one is used: enough to bridge a slow picture, little enough to keep memory small.
AHEAD = 2
