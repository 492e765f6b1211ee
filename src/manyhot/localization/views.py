"""The views of pictures half-way through a classifier: at the map that heat maps read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from manyhot.models.classifier import Classifier, Window


class Views:
    """The views of N pictures on their way through a classifier, which stops at its maps.

    A logit of a view is what the head says of this view alone; where the head joins the views (`concat`), it is what it
    says of all of them.

    Arguments:
        model: in eval mode.
        stacks: float [N, V, 3, H, W] each, as the classifier takes them.
        window: as the classifier takes it.
    """

    def __init__(self, model: Classifier, stacks: Sequence[Tensor], window: Window | None = None) -> None:
        assert not model.training
        self.model, self.stacks, self.window = model, stacks, window
        with torch.no_grad():
            maps = [model.maps(stack.flatten(0, 1)).float() for stack in stacks]
        self.maps = [_by_view(one.detach(), stack) for one, stack in zip(maps, stacks, strict=True)]

    @property
    def joined(self) -> bool:
        """Whether the head sees all views at once."""
        return self.model.head.crop_pooling.joins

    def logits(self) -> Tensor:
        """What the classifier says of the pictures, [N, C]."""
        with torch.no_grad():
            logits_NC: Tensor = self.model.head(torch.cat(self.vectors(self.maps), dim=1).flatten(1, 2))
        return logits_NC

    def vectors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [N, V, D, h, w] of each stack → pooled features [N, V, P, F], of P windows a view."""
        return [_by_view(self.model.pool(one.flatten(0, 1), self.window), one) for one in maps]

    def view_logits(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Pooled features [N, V, P, F] of each stack → logits [N, V, C] of each view, by the head."""
        if self.joined:
            logits_NC = self.model.head(torch.cat(list(vectors), dim=1).flatten(1, 2))
            return [logits_NC.unsqueeze(1).expand(-1, one.shape[1], -1) for one in vectors]
        return [_by_view(self.model.head(one.flatten(0, 1)), one) for one in vectors]

    def gradients(self, class_: int) -> tuple[list[Tensor], list[Tensor]]:
        """Of one class: the logit [N, V] of each view, and its gradient [N, V, D, h, w] by the view's own map."""
        with torch.enable_grad():
            maps = [one.clone().requires_grad_() for one in self.maps]
            logits = [one[..., class_] for one in self.view_logits(self.vectors(maps))]
            # Joined views share one logit, which counts once.
            total = logits[0][:, 0].sum() if self.joined else torch.stack([one.sum() for one in logits]).sum()
            found = torch.autograd.grad(total, maps)
        return [one.detach() for one in logits], list(found)

    def pixel_gradients(self, classes: Sequence[int]) -> Iterator[list[Tensor]]:
        """For one class after the other, the gradient [N, V, 3, H, W] of each view's logit by its own pixels."""
        with torch.enable_grad():
            stacks = [stack.clone().requires_grad_() for stack in self.stacks]
            maps = [_by_view(self.model.maps(stack.flatten(0, 1)).float(), stack) for stack in stacks]
            logits = self.view_logits(self.vectors(maps))
        for class_ in classes:
            with torch.enable_grad():
                own = [one[..., class_] for one in logits]
                total = own[0][:, 0].sum() if self.joined else torch.stack([one.sum() for one in own]).sum()
            yield list(torch.autograd.grad(total, stacks, retain_graph=True))


def _by_view(rows: Tensor, like: Tensor) -> Tensor:
    """[N·V, …] → [N, V, …] with N and V of another tensor."""
    return rows.reshape(*like.shape[:2], *rows.shape[1:])
