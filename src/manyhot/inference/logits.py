"""What a network says of pictures, collected batch by batch, and the scores that it means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from manyhot import processes
from manyhot.progress import progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from manyhot.data.loading import Batch


@dataclass(frozen=True)
class Logits:
    """What the network says of N pictures.

    Arguments:
        values: float32 [n, C] of the pictures that could be read.
        rows: int64 [n], their places among the N, ascending.
        damaged: (place, reason) of the others.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    damaged: list[tuple[int, str]]

    def of_all_processes(self) -> Logits:
        """These and those of the pictures that other processes looked at, each picture once."""
        parts = processes.gathered(self)
        if len(parts) == 1:
            return self
        seen = [part for part in parts if len(part.rows)] or parts[:1]
        rows = np.concatenate([part.rows for part in seen])
        assert len(np.unique(rows)) == len(rows), "a picture was looked at twice"
        order = rows.argsort()
        values = np.concatenate([part.values for part in seen])[order]
        return Logits(values, rows[order], sorted(one for part in parts for one in part.damaged))


class Decoded(Protocol):
    """Pictures of a batch, as tensors or as arrays."""

    @property
    def indices(self) -> Any:
        """int64 [B], which of the N pictures."""

    @property
    def damaged(self) -> tuple[tuple[int, str], ...]:
        """(index, reason) of pictures that could not be read; they are not among the B."""


D = TypeVar("D", bound=Decoded)


def collect_logits(
    look: Callable[[D], NDArray[np.float32]],
    batches: Iterable[D],
    n: int,
    *,
    what: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Logits:
    """Look at batches of pictures, each once; of several processes each looks at its own.

    Arguments:
        look: from a batch of B sound pictures to their logits, float32 [B, C].
        batches: of decoded pictures, or of features.
        n: number of pictures, for the progress bar.
        what: the text before the progress bar.
        after_batch: called after each batch; may raise to stop.
    """
    values: list[NDArray[np.float32]] = []
    rows: list[NDArray[np.int64]] = []
    damaged: list[tuple[int, str]] = []
    with progress(n, what) as bar:
        for batch in batches:
            damaged.extend(batch.damaged)
            if len(batch.indices):
                values.append(look(batch))
                rows.append(np.asarray(batch.indices))
            bar.advance(len(batch.indices) + len(batch.damaged))
            after_batch()
    if not rows:
        return Logits(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), sorted(damaged))
    order = np.concatenate(rows).argsort()
    return Logits(np.concatenate(values)[order], np.concatenate(rows)[order], sorted(damaged))


def compute_logits(
    model: nn.Module,
    batches: Iterable[Batch],
    n: int,
    device: torch.device,
    *,
    what: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Logits:
    """`collect_logits` of a network of torch, put in eval mode, without gradient.

    Arguments:
        model: a Classifier for pictures, its head for features.
        batches: decoded pictures, or features.
        n: see `collect_logits`.
        device: where the model lies.
        what: see `collect_logits`.
        after_batch: see `collect_logits`.
    """
    import torch

    model.eval()

    def look(batch: Batch) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = batch.logits(model, device).float().cpu().numpy()
        return logits

    with torch.no_grad():
        return collect_logits(look, batches, n, what=what, after_batch=after_batch)


def activate(logits_NC: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Scores in 0…1 by "sigmoid" or "softmax", float32 [N, C], rounded from float64."""
    logits = logits_NC.astype(np.float64)
    rest = np.logaddexp.reduce(logits, axis=1, keepdims=True) if activation == "softmax" else np.logaddexp(0.0, logits)
    return np.asarray(np.exp(logits - rest), dtype=np.float32)
