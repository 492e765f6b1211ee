"""Batches of decoded pictures. Order and augmentation are functions of (seed, epoch, index), never of the workers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhot.data.images import DamagedImage, open_image
from manyhot.data.transforms import Augmentation, Preprocessing, augment

# Streams of randomness: the first number after the seed, so that no two uses share one.
ORDER, AUGMENT = 1, 2

Key = tuple[int, int]
"""(epoch, index): which augmentation of which picture. Epoch -1 asks for the picture without augmentation."""


@dataclass(frozen=True)
class Batch:
    """Pictures on their way to the network.

    Arguments:
        indices: int64 [B], rows of the manifest.
        images: uint8 [B, 3, size, size], channels last in memory.
        labels: int8 [B, C]; 1 present, 0 absent, -1 ignored.
        damaged: (row, reason) of pictures that could not be read; they are not among the B.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor
    damaged: tuple[tuple[int, str], ...] = ()


Item = tuple[int, NDArray[np.uint8]] | tuple[int, str]


class Pictures:
    """Decoded pictures with their labels, by (epoch, index).

    Arguments:
        paths: N image files.
        labels: int8 [N, C].
        preprocessing: how a picture becomes pixels of the input's size.
        augment: parts that change it in training.
        seed: of the augmentation.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int8],
        preprocessing: Preprocessing,
        augment: tuple[Augmentation, ...] = (),
        seed: int = 0,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def __getitem__(self, key: Key) -> Item:
        """(index, uint8 [size, size, 3]), or (index, reason) for a damaged picture."""
        epoch, index = key
        try:
            image = open_image(self.paths[index])
        except DamagedImage as damage:
            return index, damage.reason
        if self.augment and epoch >= 0:
            rng = np.random.default_rng([self.seed, AUGMENT, epoch, index])
            image = augment(image, self.augment, rng, self.preprocessing)
        else:
            image = self.preprocessing.fit_image(image)
        return index, np.asarray(image)

    def collate(self, items: Sequence[Item]) -> Batch:
        """One batch of decoded pictures."""
        sound = [(index, pixels) for index, pixels in items if not isinstance(pixels, str)]
        damaged = tuple((index, pixels) for index, pixels in items if isinstance(pixels, str))
        size = self.preprocessing.size
        pixels_NHWC = np.stack([pixels for _, pixels in sound]) if sound else np.empty((0, size, size, 3), np.uint8)
        rows = [index for index, _ in sound]
        return Batch(
            indices=torch.tensor(rows, dtype=torch.int64),
            images=torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2),
            labels=torch.from_numpy(self.labels[rows]),
            damaged=damaged,
        )


class Batches(Protocol):
    """Which pictures make which batch."""

    def __len__(self) -> int:
        """Batches in a whole pass."""

    def __iter__(self) -> Iterator[list[Key]]:
        """The keys of each batch."""


class TrainingBatches:
    """The batches of one epoch, in an order that (seed, epoch) alone decides.

    With several processes each takes its share of every global batch.

    Arguments:
        n: number of pictures.
        batch_size: of the global batch.
        seed: of the order.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.epoch = 0
        self.skip = 0

    def start(self, epoch: int, skip: int) -> None:
        """Set the epoch (0-based) and the number of its batches that are done already."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """Batches in a whole epoch. A last batch of a single picture joins the one before: BatchNorm needs two."""
        full, rest = divmod(self.n, self.batch_size)
        return max(1, full + (rest > (1 if full else 0)))

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, ORDER, self.epoch]).permutation(self.n)
        count = len(self)
        for batch in range(self.skip, count):
            end = self.n if batch == count - 1 else (batch + 1) * self.batch_size
            share = order[batch * self.batch_size : end][self.rank :: self.world]
            yield [(self.epoch, int(index)) for index in share]


class EvaluationBatches:
    """Every picture once, in order, without augmentation; each process takes every world-th batch."""

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.batch_size, self.rank, self.world = n, batch_size, rank, world

    def __len__(self) -> int:
        """Batches of this process."""
        return len(range(self.rank * self.batch_size, self.n, self.world * self.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(self.rank * self.batch_size, self.n, self.world * self.batch_size):
            yield [(-1, index) for index in range(start, min(start + self.batch_size, self.n))]


class Loader:
    """Decodes pictures ahead of the network, in threads, and gives them in order.

    Pillow decodes and resizes without Python's global lock, so that threads keep all cores busy; unlike processes they
    start at once, copy nothing, die with the program, and work in notebooks and scripts as they are.

    Arguments:
        pictures: the data set.
        batches: which pictures, in which order.
        workers: threads; 0 decodes when asked, None is one a core, at most 16.
    """

    def __init__(self, pictures: Pictures, batches: Batches, workers: int | None = None) -> None:
        self.pictures = pictures
        self.batches = batches
        self.workers = min(16, os.cpu_count() or 1) if workers is None else workers

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers:
            for keys in self.batches:
                yield self.pictures.collate([self.pictures[key] for key in keys])
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            waiting: deque[list[Future[Item]]] = deque()
            for keys in self.batches:
                waiting.append([pool.submit(self.pictures.__getitem__, key) for key in keys])
                if len(waiting) > AHEAD:
                    yield self._finish(waiting.popleft())
            while waiting:
                yield self._finish(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, items: Iterable[Future[Item]]) -> Batch:
        return self.pictures.collate([item.result() for item in items])


# Batches in decoding while one is used: enough to bridge a slow picture, little enough to keep memory small.
AHEAD = 2
