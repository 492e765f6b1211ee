"""Terms beside the image-level loss of WSDDN: the spatial regulariser, and refinement branches (OICR)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from manyhot.models.wsddn import RoiScores

NEXT_BEST = 9
"""Boxes after the best one that the regulariser looks at."""

LEAST_OVERLAP = 0.6
"""IoU with the best box from which they are drawn to it."""

SAME_OBJECT = 0.5
"""IoU with the best box from which a box is taken to show its object (Tang et al.)."""


def spatial_regulariser(scores: RoiScores, targets_NC: Tensor) -> Tensor:
    """Boxes that overlap the best one should look like it: ½ ‖p (f - f_best)‖², summed over boxes and classes.

    For each present class, the nine boxes that score next to the best one are taken, and of these the ones whose IoU
    with it is above 0.6; p is the best box's score, a constant here: its own gradient would push down the score of
    whatever is found.

    Source: Bilen and Vedaldi, CVPR 2016, section 3.4 (spatial regulariser).

    Arguments:
        scores: of boxes.
        targets_NC: int8 or float [N, C]; 1 present.

    Returns:
        a scalar, the mean over the N pictures.
    """
    total = scores.features.new_zeros(())
    for rows, classes in _present(scores, targets_NC):
        own, features = scores.products[rows].detach(), scores.features[rows]
        boxes = scores.packed.boxes[rows]
        for c in classes:
            ranked = own[:, c].argsort(descending=True, stable=True)[: NEXT_BEST + 1]
            best, others = ranked[0], ranked[1:]
            near = others[box_iou(boxes[best][None], boxes[others])[0] > LEAST_OVERLAP]
            total = total + 0.5 * (own[best, c] * (features[near] - features[best])).square().sum()
    return total / len(scores.packed)


def refinement_loss(scores: RoiScores, targets_NC: Tensor) -> Tensor:
    """Loss of the refinement branches, each taught by the one before, the first by the two streams.

    For each present class, the teacher's best box is taken for an object with the teacher's score as its weight. A box
    whose IoU with one of them is .5 or more has that class, else it is background; its weight is that of the one it
    overlaps most. The loss of a branch is the weighted cross-entropy, averaged over the boxes of a picture; branches
    are summed, pictures averaged. Nothing flows back into the teacher.

    Source: Tang et al., Multiple Instance Detection Network with Online Instance Classifier Refinement, CVPR 2017,
    algorithm 1 and equation 4.

    Arguments:
        scores: of boxes; its `refined` must hold a branch or more.
        targets_NC: int8 or float [N, C]; 1 present.
    """
    total = scores.features.new_zeros(())
    background = targets_NC.shape[1]
    for rows, classes in _present(scores, targets_NC):
        teacher = scores.products[rows].detach()
        boxes = scores.packed.boxes[rows]
        for logits in scores.refined:
            own = logits[rows]
            best_K = torch.stack([teacher[:, c].argmax() for c in classes])
            weight_K = teacher[best_K, classes]
            overlap_R, nearest_R = box_iou(boxes, boxes[best_K]).max(dim=1)
            label_R = torch.where(
                overlap_R >= SAME_OBJECT, torch.tensor(classes, device=own.device)[nearest_R], background
            )
            entropy_R = F.cross_entropy(own, label_R, reduction="none")
            total = total + (weight_K[nearest_R] * entropy_R).mean()
            teacher = own.detach().softmax(dim=1)[:, :-1]
    return total / len(scores.packed)


def _present(scores: RoiScores, targets_NC: Tensor) -> list[tuple[slice, list[int]]]:
    """Of every picture that has a box and a class: its rows, and the classes present."""
    counts = torch.bincount(scores.packed.segments, minlength=len(scores.packed)).tolist()
    found, start = [], 0
    for count, targets_C in zip(counts, targets_NC, strict=True):
        classes = (targets_C == 1).nonzero().flatten().tolist()
        if count and classes:
            found.append((slice(start, start + count), classes))
        start += count
    return found
