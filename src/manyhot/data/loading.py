"""Batches of decoded pictures. Order and augmentation are functions of (seed, epoch, index), never of the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manyhot.data.decoding import CropBatch, CropGroup, Key, PictureFiles
from manyhot.data.decoding_processes import Decoder
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import Augmentation

ORDER = 1
"""The stream of randomness of the order: the first number after the seed. That of augmentation is 2."""


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

    @classmethod
    def of(cls, group: CropGroup, preprocessing: Preprocessing) -> PictureGroup:
        """Decoded pictures as tensors, which share their memory."""
        stacks = (torch.from_numpy(stack).permute(0, 1, 4, 2, 3) for stack in group.stacks)
        return cls(torch.from_numpy(group.places), tuple(stacks), preprocessing)

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


class Pictures(PictureFiles[Batch]):
    """Decoded pictures with their labels, by (epoch, index).

    Arguments:
        paths: N image files.
        labels: int8 [N, C].
        preprocessing: how a picture becomes crops.
        augment: parts that change it in training.
        seed: of the augmentation.
        names: N numbers that the augmentation of each picture depends on; None: the indices.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int8],
        preprocessing: Preprocessing,
        augment: tuple[Augmentation, ...] = (),
        seed: int = 0,
        names: Sequence[int] | None = None,
    ) -> None:
        super().__init__(paths, Decoder(preprocessing, augment, seed), names)
        self.labels = labels

    def batch(self, crops: CropBatch) -> Batch:
        """Tensors over the crops' memory, with the labels."""
        return Batch(
            indices=torch.from_numpy(crops.indices),
            labels=torch.from_numpy(self.labels[crops.indices]),
            groups=tuple(PictureGroup.of(group, self.decoder.preprocessing) for group in crops.groups),
            damaged=crops.damaged,
        )


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
