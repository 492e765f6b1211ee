"""Mixing the pictures of a batch, and their targets with them: the parts that `training.mix` of a recipe can name."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from manyhot import processes
from manyhot.data.loading import Batch, PictureGroup
from manyhot.data.transforms import Positive, Probability
from manyhot.registry import Part, Registry


class Mix(Part):
    """Each picture of a batch is mixed with another of it; one permutation and one share a batch."""

    p: Probability = Field(1.0, description="probability that a batch is mixed")

    def apply(self, images_N3HW: Tensor, labels_NC: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The mixed pictures and their targets; what is given stays as it is.

        Arguments:
            images_N3HW: float [N, 3, H, W], normalised.
            labels_NC: int8 [N, C]; 1 present, 0 absent, -1 ignored.
            rng: all the randomness there is.

        Returns:
            Pictures [N, 3, H, W] and targets [N, C] (`mix_labels`).
        """
        if rng.random() >= self.p:
            return images_N3HW, labels_NC
        partner_N = torch.from_numpy(rng.permutation(len(images_N3HW))).to(images_N3HW.device)
        mixed_N3HW, share = self.blend(images_N3HW, images_N3HW[partner_N], rng)
        return mixed_N3HW, mix_labels(labels_NC, labels_NC[partner_N], share)

    @abstractmethod
    def blend(self, own_N3HW: Tensor, other_N3HW: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        """New pictures of `own` and `other`, and the share of `own` in them, 0…1."""


mixes: Registry[Mix] = Registry("mix", "training.mix")


def mix_labels(own_NC: Tensor, other_NC: Tensor, share: float) -> Tensor:
    """Targets of pictures that show `own` to a share, and `other` for the rest.

    An entry that either of the two ignores is ignored in the mixture, as nobody knows its target; a picture without
    any share in the mixture has no say in this.

    Arguments:
        own_NC: int8 labels [N, C]; 1 present, 0 absent, -1 ignored.
        other_NC: the same of the partners.
        share: of `own`, 0…1.

    Returns:
        Float32 targets [N, C], share·own + (1 - share)·other or -1; int8 labels as they were where the share is 1 or 0.
    """
    if share in (0, 1):
        return own_NC if share else other_NC
    # Not share·a + (1 - share)·b, which can miss 1 by a rounding where both are 1.
    mixed_NC = torch.lerp(other_NC.float(), own_NC.float(), share)
    return mixed_NC.masked_fill((own_NC < 0) | (other_NC < 0), -1)


@mixes.register("mixup")
class Mixup(Mix):
    """The weighted mean of two pictures, and of their labels (Zhang et al., ICLR 2018, section 2)."""

    alpha: Positive = Field(
        0.2, description="the share is drawn from Beta(alpha, alpha): 1 is uniform, less is nearer to one picture"
    )

    def blend(self, own_N3HW: Tensor, other_N3HW: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        """share·own + (1 - share)·other."""
        share = float(rng.beta(self.alpha, self.alpha))
        return torch.lerp(other_N3HW, own_N3HW, share), share


@mixes.register("cutmix")
class CutMix(Mix):
    """A rectangle of another picture pasted in, labels mixed by area (Yun et al., ICCV 2019, section 3.1)."""

    alpha: Positive = Field(
        1.0, description="the share that is kept is drawn from Beta(alpha, alpha), before the edges cut the rectangle"
    )

    def blend(self, own_N3HW: Tensor, other_N3HW: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        """A rectangle of the picture's shape about a uniform centre, cut at the edges; the share counts its pixels."""
        height, width = own_N3HW.shape[2:]
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        top, bottom = _span(height, side, rng)
        left, right = _span(width, side, rng)
        mixed_N3HW = own_N3HW.clone()
        mixed_N3HW[:, :, top:bottom, left:right] = other_N3HW[:, :, top:bottom, left:right]
        return mixed_N3HW, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Start and end of a span of so great a share of the length, about a uniform centre, cut at both ends."""
    span = int(length * share)
    start = int(rng.integers(length)) - span // 2
    return max(0, start), min(length, start + span)


@dataclass(frozen=True)
class MixedGroup:
    """Mixed pictures of a batch.

    Arguments:
        places: int64 [n], their places in the batch.
        images: float [n, 3, H, W], normalised, on the network's device.
        window: what the network pools over.
    """

    places: Tensor
    images: Tensor
    window: tuple[int, int] | None

    def logits(self, network: nn.Module, device: torch.device) -> Tensor:  # noqa: ARG002
        """What the network says of them, [n, C]."""
        logits: Tensor = network((self.images.unsqueeze(1),), self.window)
        return logits

    def part(self, start: int, end: int) -> MixedGroup:
        """Those of places start…end - 1 in the batch, counted from `start`."""
        return MixedGroup(self.places[start:end] - start, self.images[start:end], self.window)


def mix_batch(
    batch: Batch, labels_NC: Tensor, mix: Mix, rng: np.random.Generator, size: int, device: torch.device
) -> tuple[Batch, Tensor]:
    """This process's pictures of a global batch, mixed with any others of it.

    A picture's partner may lie in another process, so that all of them exchange their pictures first.

    Arguments:
        batch: this process's pictures, of one crop and one shape.
        labels_NC: int8 [n, C] of those of them that count, on the device.
        mix: the part that mixes.
        rng: all the randomness there is, the same in every process.
        size: pictures of the global batch.
        device: of the network.

    Returns:
        the batch with its pictures mixed, and their targets [n, C].
    """
    (group,) = batch.groups
    assert isinstance(group, PictureGroup)
    images_N3HW = group.normalized(device)[0].squeeze(1)
    all_images, all_labels = (_interleaved(rows, size) for rows in (images_N3HW[: len(labels_NC)], labels_NC))
    mixed, targets = mix.apply(all_images, all_labels, rng)
    place = processes.place()
    own = slice(place.rank, None, place.count)
    if len(labels_NC):  # else the picture stands in for none, and stays as it is
        images_N3HW = mixed[own]
    mixed_group = MixedGroup(group.places, images_N3HW, group.preprocessing.window)
    return replace(batch, groups=(mixed_group,)), targets[own]


def _interleaved(rows: Tensor, size: int) -> Tensor:
    """The rows of all processes, `size` in all, in the order of the batch: the first of each, then the second."""
    count = processes.place().count
    if count == 1:
        return rows
    longest = -(-size // count)
    padded = F.pad(rows.contiguous(), (*[0] * 2 * (rows.ndim - 1), 0, longest - len(rows)))
    return torch.stack(processes.gathered_tensors(padded), dim=1).flatten(0, 1)[:size]
