"""Batches of decoded pictures. Order and augmentation are functions of (seed, epoch, index), never of the workers."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manyhot import processes
from manyhot.data.images import DamagedImage, EncodedPicture, open_image
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import Augmentation, augment

# Streams of randomness: the first number after the seed, so that no two uses share one.
ORDER, AUGMENT = 1, 2

Key = tuple[int, int]
"""(epoch, index): which augmentation of which picture. Epoch -1 asks for the picture without augmentation."""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures of a batch whose crops have the same shapes.

    Arguments:
        places: int64 [n], their places in the batch.
        stacks: uint8 [n, V, 3, H, W] each, channels last in memory: V crops of one shape of every picture.
        preprocessing: of the pictures.
    """

    places: Tensor
    stacks: tuple[Tensor, ...]
    preprocessing: Preprocessing

    def normalized(self, device: torch.device) -> tuple[Tensor, ...]:
        """The stacks as the network takes them, float32, on its device."""
        return tuple(self.preprocessing.normalize(stack.to(device, non_blocking=True)) for stack in self.stacks)

    def logits(self, network: nn.Module, device: torch.device) -> Tensor:
        """What the network says of them, [n, C]."""
        logits: Tensor = network(self.normalized(device), self.preprocessing.window)
        return logits

    def part(self, start: int, end: int) -> PictureGroup:
        """Those of places start…end - 1 in the batch, counted from `start`."""
        inside = _inside(self.places, start, end)
        return PictureGroup(
            self.places[inside] - start, tuple(stack[inside] for stack in self.stacks), self.preprocessing
        )


@dataclass(frozen=True)
class FeatureGroup:
    """Pictures of a batch whose features were computed before.

    Arguments:
        places: int64 [n], their places in the batch.
        features: float16 or float32 [n, I, D], of I crops or windows a picture.
    """

    places: Tensor
    features: Tensor

    def part(self, start: int, end: int) -> FeatureGroup:
        """Those of places start…end - 1 in the batch, counted from `start`."""
        inside = _inside(self.places, start, end)
        return FeatureGroup(self.places[inside] - start, self.features[inside])

    def logits(self, network: nn.Module, device: torch.device) -> Tensor:
        """What the head says of them, [n, C]."""
        logits: Tensor = network(self.features.to(device, non_blocking=True).float())
        return logits


class Group(Protocol):
    """Pictures of a batch that go through the network together."""

    @property
    def places(self) -> Tensor:
        """int64 [n], their places in the batch, ascending."""

    def logits(self, network: nn.Module, device: torch.device) -> Tensor:
        """What the network says of them, [n, C]."""

    def part(self, start: int, end: int) -> Group:
        """Those of places start…end - 1 in the batch, counted from `start`."""


@dataclass(frozen=True)
class Batch:
    """Pictures on their way to the network.

    Arguments:
        indices: int64 [B], rows of the manifest.
        labels: int8 [B, C]; 1 present, 0 absent, -1 ignored.
        groups: the B pictures, or their features, by shape; one group where all are alike.
        damaged: (row, reason) of pictures that could not be read; they are not among the B.
    """

    indices: Tensor
    labels: Tensor
    groups: tuple[Group, ...]
    damaged: tuple[tuple[int, str], ...] = ()

    def part(self, start: int, end: int) -> Batch:
        """Pictures start…end - 1 of the B."""
        if start <= 0 and end >= len(self.indices):
            return self
        groups = [group.part(start, end) for group in self.groups]
        return Batch(
            self.indices[start:end], self.labels[start:end], tuple(group for group in groups if len(group.places))
        )

    def logits(self, network: nn.Module, device: torch.device) -> Tensor:
        """What a network says of the pictures, [B, C].

        Arguments:
            network: a Classifier, or for features its head.
            device: where it lies.
        """
        found = [group.logits(network, device) for group in self.groups]
        if len(found) == 1:
            return found[0]
        order = torch.cat([group.places for group in self.groups]).argsort()
        return torch.cat(found)[order.to(device)]


def _inside(places: Tensor, start: int, end: int) -> slice:
    """Where ascending places lie within start…end - 1."""
    return slice(int((places < start).sum()), int((places < end).sum()))


Item = tuple[int, list[NDArray[np.uint8]]] | tuple[int, str]


class Pictures:
    """Decoded pictures with their labels, by (epoch, index).

    Arguments:
        paths: N image files; a sequence that fetches them may raise DamagedImage for one.
        labels: int8 [N, C].
        preprocessing: how a picture becomes crops.
        augment: parts that change it in training.
        seed: of the augmentation.
        names: N numbers that the augmentation of each picture depends on; None: the indices.
    """

    def __init__(
        self,
        paths: Sequence[Path | EncodedPicture],
        labels: NDArray[np.int8],
        preprocessing: Preprocessing,
        augment: tuple[Augmentation, ...] = (),
        seed: int = 0,
        names: Sequence[int] | None = None,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self.names = names

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def __getitem__(self, key: Key) -> Item:
        """(index, uint8 [H, W, 3] of each crop), or (index, reason) for a damaged picture."""
        epoch, index = key
        try:
            image = open_image(self.paths[index])
        except DamagedImage as damage:
            return index, damage.reason
        if self.augment and epoch >= 0:
            name = index if self.names is None else self.names[index]
            views = augment(
                image, self.augment, np.random.default_rng([self.seed, AUGMENT, epoch, name]), self.preprocessing
            )
        else:
            views = self.preprocessing.views(image)
        return index, [np.asarray(view) for view in views]

    def collate(self, items: Sequence[Item]) -> Batch:
        """One batch of decoded pictures."""
        sound = [(index, views) for index, views in items if not isinstance(views, str)]
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, (_, views) in enumerate(sound):
            alike.setdefault(tuple(view.shape for view in views), []).append(place)
        rows = [index for index, _ in sound]
        return Batch(
            indices=torch.tensor(rows, dtype=torch.int64),
            labels=torch.from_numpy(self.labels[rows]),
            groups=tuple(self._group(places, [sound[place][1] for place in places]) for places in alike.values()),
            damaged=tuple((index, reason) for index, reason in items if isinstance(reason, str)),
        )

    def _group(self, places: list[int], pictures: list[list[NDArray[np.uint8]]]) -> PictureGroup:
        stacks = []
        for _, run in itertools.groupby(range(len(pictures[0])), key=lambda view: pictures[0][view].shape):
            views = list(run)
            pixels_NVHWC = np.stack([picture[view] for picture in pictures for view in views]).reshape(
                len(pictures), len(views), *pictures[0][views[0]].shape
            )
            stacks.append(torch.from_numpy(pixels_NVHWC).permute(0, 1, 4, 2, 3))
        return PictureGroup(torch.tensor(places), tuple(stacks), self.preprocessing)


class Decoding(Protocol):
    """A data set that decodes one picture at a time, in any thread, and joins them to a batch."""

    def __getitem__(self, key: Key) -> Any:
        """One decoded picture."""

    def collate(self, items: Sequence[Any]) -> Batch:
        """One batch of decoded pictures."""


class Batches(Protocol):
    """Which pictures make which batch."""

    def __len__(self) -> int:
        """Batches in a whole pass."""

    def __iter__(self) -> Iterator[list[Key]]:
        """The keys of each batch."""


class TrainingBatches:
    """The batches of one epoch, in an order that (seed, epoch) alone decides.

    With several processes each takes its share of every global batch: process r takes pictures r, r + world, and so on.
    A process for which none is left gets the first picture of the batch, as a stand-in that is not to be counted.

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

    def size(self, batch: int) -> int:
        """Pictures of a global batch, counted from 0."""
        return (self.n if batch == len(self) - 1 else (batch + 1) * self.batch_size) - batch * self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, ORDER, self.epoch]).permutation(self.n)
        for batch in range(self.skip, len(self)):
            start = batch * self.batch_size
            whole = order[start : start + self.size(batch)]
            share = whole[self.rank :: self.world]
            yield [(self.epoch, int(index)) for index in (share if len(share) else whole[:1])]


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


class Loader:
    """Decodes pictures ahead of the network, in threads, and gives them in order.

    Pillow decodes and resizes without Python's global lock, so that threads keep all cores busy; unlike processes they
    start at once, copy nothing, die with the program, and work in notebooks and scripts as they are.

    Arguments:
        pictures: the data set.
        batches: which pictures, in which order.
        workers: threads; 0 decodes when asked, None is one a core, at most 16 (processes of one machine share the
            cores).
    """

    def __init__(self, pictures: Decoding, batches: Batches, workers: int | None = None) -> None:
        self.pictures = pictures
        self.batches = batches
        cores = max(1, (os.cpu_count() or 1) // processes.place().local_count)
        self.workers = min(16, cores) if workers is None else workers

    def __iter__(self) -> Iterator[Batch]:
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

    def _finish(self, items: Iterable[Future[Any]]) -> Batch:
        return self.pictures.collate([item.result() for item in items])


# Batches in decoding while one is used: enough to bridge a slow picture, little enough to keep memory small.
AHEAD = 2
