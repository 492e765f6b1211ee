"""Decoding ahead of the network: crops as arrays, without torch. `loading` makes tensors of them."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from manyhot import processes
from manyhot.data.decoding_processes import Decoder, DecodingProcesses, Item, Request, can_start_processes
from manyhot.data.images import DamagedImage, EncodedPicture
from manyhot.data.patience import Patience
from manyhot.data.pixels import stored_picture
from manyhot.data.preprocessing import Preprocessing

log = logging.getLogger("manyhot")

Key = tuple[int, int]
"""(epoch, index): which augmentation of which picture. Epoch -1 asks for the picture without augmentation."""

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


class PictureFiles(ABC, Generic[B]):
    """Pictures by (epoch, index), decoded one at a time in any thread or process and joined to batches.

    Arguments:
        paths: N image files; a sequence that fetches them may raise DamagedImage for one.
        decoder: how a picture becomes crops.
        names: N numbers that the augmentation of each picture depends on; None: the indices.
    """

    def __init__(
        self, paths: Sequence[Path | EncodedPicture], decoder: Decoder, names: Sequence[int] | None = None
    ) -> None:
        self.paths, self.decoder, self.names = paths, decoder, names

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def __getitem__(self, key: Key) -> Item:
        """The crops of one picture, or why there are none."""
        epoch, index = key
        try:
            path = self.paths[index]
        except DamagedImage as damage:
            return index, damage.reason
        return index, self.decoder.decode(path, epoch, self._name(index))

    def request(self, key: Key) -> Request:
        """The same for another process."""
        epoch, index = key
        return str(self.paths[index]), epoch, self._name(index)

    @property
    def are_pixels(self) -> bool:
        """Whether they come from a pixel store, ready to be cut."""
        first = self.paths[0] if isinstance(self.paths, list | tuple) and self.paths else None
        stored = stored_picture(first) if isinstance(first, Path) else None
        return stored is not None and stored.store.layout == "raw"

    def collate(self, items: Sequence[Item]) -> B:
        """One batch of decoded pictures."""
        return self.batch(CropBatch.of(items))

    @abstractmethod
    def batch(self, crops: CropBatch) -> B:
        """What they are wanted as; the memory of their crops is theirs as long as the batch holds it."""

    def _name(self, index: int) -> int:
        return index if self.names is None else int(self.names[index])


class PictureCrops(PictureFiles[CropBatch]):
    """The crops of pictures as they are, without augmentation, labels or torch.

    Arguments:
        paths: N image files, as `PictureFiles` takes them.
        preprocessing: how a picture becomes crops.
    """

    def __init__(self, paths: Sequence[Path | EncodedPicture], preprocessing: Preprocessing) -> None:
        super().__init__(paths, Decoder(preprocessing))

    def batch(self, crops: CropBatch) -> CropBatch:
        """As they are."""
        return crops


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
    """Decodes pictures ahead of the network and gives them in order: in threads, and where these are too slow for the
    pixels of a store, in processes.

    Pillow decodes and resizes without Python's lock, so that threads keep all cores busy; unlike processes they start
    at once, copy nothing, and work in notebooks and scripts as they are. Pixels of a store take little but Python,
    where threads are in each other's way. Processes are started when the network has waited for such pictures, and
    take over once they are there. Batches are the same either way.

    Arguments:
        pictures: the data set.
        batches: which pictures, in which order.
        workers: threads, and processes; 0 decodes when asked, None is one a core, at most 16 (processes of one machine
            share the cores).
    """

    def __init__(self, pictures: Decoding[B], batches: Batches, workers: int | None = None) -> None:
        self.pictures = pictures
        self.batches = batches
        cores = max(1, (os.cpu_count() or 1) // processes.place().local_count)
        self.workers = min(16, cores) if workers is None else workers
        self._patience = Patience()
        self._processes: DecodingProcesses | None = None
        self._taken = threading.Lock()
        self._largest = 0

    @property
    def has_processes(self) -> bool:
        """Whether processes decode by now."""
        return self._processes is not None and self._processes.ready

    def __iter__(self) -> Iterator[B]:
        if not self.workers:
            for keys in self.batches:
                yield self.pictures.collate([self.pictures[key] for key in keys])
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        first = self._taken.acquire(blocking=False)  # a second pass beside the first has its threads alone
        try:
            waiting: deque[Callable[[], B]] = deque()
            self._patience.start()
            for keys in self.batches:
                self._largest = max(self._largest, len(keys))
                waiting.append((first and self._ask_processes(keys)) or _ask_threads(pool, self.pictures, keys))
                if len(waiting) > AHEAD:
                    yield self._finish(waiting.popleft())
            while waiting:
                yield self._finish(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if first:
                if self._processes is not None:
                    self._processes.drain()
                self._taken.release()

    def _finish(self, get: Callable[[], B]) -> B:
        with self._patience:
            batch = get()
        if self._patience.is_over and self._processes is None:
            self._processes = self._start_processes()
        return batch

    def _start_processes(self) -> DecodingProcesses | None:
        """Processes for these pictures; None where they are of no use."""
        pictures = self.pictures
        if not isinstance(pictures, PictureFiles) or type(pictures).__getitem__ is not PictureFiles.__getitem__:
            return None
        if not pictures.are_pixels or not can_start_processes():
            return None
        _, views = pictures[-1, 0]
        if isinstance(views, str) or len({view.shape for view in views}) > 1:
            return None
        log.debug("the network waits for pictures: %d processes are started to cut them", self.workers)
        shape = (len(views), *views[0].shape)
        helpers = DecodingProcesses(pictures.decoder, self.workers, shape, self._largest, AHEAD + 4)
        weakref.finalize(self, helpers.close)
        return helpers

    def _ask_processes(self, keys: list[Key]) -> Callable[[], B] | None:
        helpers, pictures = self._processes, self.pictures
        if helpers is None or not helpers.ready:
            return None
        assert isinstance(pictures, PictureFiles)
        return partial(_collect, helpers, pictures, keys) if helpers.ask([*map(pictures.request, keys)]) else None


def _ask_threads(pool: ThreadPoolExecutor, pictures: Decoding[B], keys: list[Key]) -> Callable[[], B]:
    futures = [pool.submit(pictures.__getitem__, key) for key in keys]
    return lambda: pictures.collate([future.result() for future in futures])


def _collect(helpers: DecodingProcesses, pictures: PictureFiles[B], keys: list[Key]) -> B:
    found = helpers.collect()
    if isinstance(found, np.ndarray):
        rows = np.array([index for _, index in keys], dtype=np.int64)
        return pictures.batch(CropBatch(rows, (CropGroup(np.arange(len(keys)), (found,)),)))
    return pictures.collate(
        [pictures[key] if views is None else (key[1], views) for key, views in zip(keys, found, strict=True)]
    )


# Batches in decoding while one is used: enough to bridge a slow picture, little enough to keep memory small.
AHEAD = 2
