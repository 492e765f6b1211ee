"""The gradient of a global batch: of parts one after the other, and of several processes at once."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manyhot import processes
from manyhot.data.loading import Batch
from manyhot.errors import UserError
from manyhot.models.global_batch import GlobalBatch
from manyhot.training.mixing import mix_batch
from manyhot.training.setup import MIX, STEP, Session, derive_seed


@dataclass(frozen=True)
class Outcome:
    """What a step found, over all processes.

    Arguments:
        loss: of the global batch.
        hits: its pictures whose class had the highest logit.
        judged: those that have a class; 0 where batches are mixed.
        logits: [n, C], of this process's share of it, detached.
    """

    loss: float
    hits: int
    judged: int
    logits: Tensor


def compute_gradients(session: Session, batch: Batch, step: int) -> Outcome:
    """Add the gradient of the global batch's loss to the parameters, in every process the same.

    The loss of the global batch is total / weight, and each is the sum over all parts (`Loss.compute`). So every part
    adds the gradient of its total / weight of the whole batch, and the gradients of the processes are summed: uneven
    parts and ignored labels need no further care.

    Arguments:
        session: network, loss, recipe.
        batch: this process's share of the global batch; where it has none, any picture, which does not count.
        step: of the run.
    """
    recipe, device, mix = session.recipe, session.accelerator.device, session.parts.mix
    place, size = processes.place(), session.batches.size(step % len(session.batches))
    shares = [len(range(rank, size, place.count)) for rank in range(place.count)]
    n = shares[place.rank]
    targets = batch.labels.to(device)
    if mix is not None:
        rng = np.random.default_rng([recipe.seed, MIX, step])
        batch, targets = mix_batch(batch, targets[:n], mix, rng, size, device)
    weight = processes.summed(session.parts.loss.weight(targets[:n])).clamp(min=1)
    # Two pictures a part at least, as BatchNorm needs them.
    count = max(1, min(recipe.training.accumulate, size // place.count // 2))
    synchronise = place.count > 1 and recipe.training.sync_batch_norm
    # A compiled network would be compiled anew for every `GlobalBatch`.
    own_masks = recipe.training.compile and count * place.count > 1
    logits_of_parts: list[Tensor] = []
    total, hits, judged = torch.zeros((), device=device, dtype=torch.float64), 0, 0
    for number in range(count if n or synchronise else 0):
        start, end = _span(n, count, number) if n else (0, 1)
        part = batch.part(start, end)
        wanted = targets[start:end] if n else torch.full_like(part.labels, -1, device=device)
        together = sum(_length(_span(one, count, number)) for one in shares)
        places = place.rank + place.count * torch.arange(start, end) if n else torch.zeros(1, dtype=torch.int64)
        whole = GlobalBatch(size, places, together, synchronise=synchronise, counts=n > 0)
        # Dropout and the like are functions of (seed, step), so that a resumed run repeats them.
        torch.manual_seed(derive_seed(recipe.seed, STEP, step, *((place.rank, number) if own_masks else ())))
        with contextlib.nullcontext() if own_masks or count == place.count == 1 else whole:
            logits = _forward(session, part)
        loss = session.parts.loss.total(logits, wanted) / weight
        if (auxiliary := session.auxiliary_loss(wanted)) is not None:
            loss = loss + auxiliary
        session.accelerator.backward(loss)
        total += loss.detach()
        logits_of_parts.append(logits.detach()[: end - start if n else 0])
        if session.single_label and mix is None and n:
            right, known = count_hits(logits, part.labels)
            hits, judged = hits + right, judged + known
    _sum_gradients(session.trained)
    if not synchronise:
        _average_statistics(session.trained, n / size)
    found = processes.summed(torch.tensor([total.item(), hits, judged], dtype=torch.float64)).tolist()
    none = torch.zeros(0, targets.shape[1], device=device)
    return Outcome(found[0], int(found[1]), int(found[2]), torch.cat([none, *logits_of_parts]))


def _forward(session: Session, part: Batch) -> Tensor:
    try:
        return part.logits(session.trained, session.accelerator.device)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "BatchNorm needs more than one value of each channel, and a single picture gives one.",
            remedy="Set another training.batch_size, or training.sync_batch_norm=true.",
        ) from None


def count_hits(logits_NC: Tensor, labels_NC: Tensor) -> tuple[int, int]:
    """Pictures whose class, the only 1 of their labels, has the highest logit; and pictures that have a class."""
    known_N = (labels_NC == 1).any(dim=1)
    right_N = logits_NC.detach().argmax(dim=1).cpu() == (labels_NC == 1).int().argmax(dim=1)
    return int((right_N & known_N).sum()), int(known_N.sum())


def _span(n: int, count: int, part: int) -> tuple[int, int]:
    """Start and end of one of `count` parts of n pictures, whose sizes differ by one at most."""
    return part * n // count, (part + 1) * n // count


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _sum_gradients(network: nn.Module) -> None:
    """Replace every gradient by its sum over the processes, all in one message."""
    if processes.place().count == 1:
        return
    trained = [one for one in network.parameters() if one.requires_grad]
    # What no process reached keeps no gradient: zeros would let the optimizer decay it.
    reached = processes.summed(torch.tensor([one.grad is not None for one in trained], dtype=torch.int32))
    trained = [one for one, times in zip(trained, reached.tolist(), strict=True) if times]
    flat = torch.cat([torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in trained])
    pieces = torch.split(processes.summed(flat), [one.numel() for one in trained])
    for one, piece in zip(trained, pieces, strict=True):
        if one.grad is None:
            one.grad = torch.zeros_like(one)
        one.grad.copy_(piece.view_as(one))


def _average_statistics(network: nn.Module, share: float) -> None:
    """Replace the running statistics by their mean over the processes, each weighted by its share of the batch."""
    norms = [one for one in network.modules() if isinstance(one, _BatchNorm) and one.training]
    running = [one for norm in norms for one in (norm.running_mean, norm.running_var) if one is not None]
    if processes.place().count == 1 or not running:
        return
    mean = processes.summed(torch.cat(running) * share)
    for one, piece in zip(running, torch.split(mean, [len(one) for one in running]), strict=True):
        one.copy_(piece)
