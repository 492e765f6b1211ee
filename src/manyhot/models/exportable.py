"""A classifier as it leaves the training machine: from crops in bytes to logits and score maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.models.classifier import Classifier
from manyhot.models.folding import fold_batch_norms
from manyhot.models.head import ScoreHead


class CropsClassifier(nn.Module):
    """One crop a row: uint8 [M, H, W, 3] in RGB, as pictures lie in memory → logits and score maps.

    The pooling over the crops of a picture comes after it, but where the head joins their features: then the crops of
    a picture follow each other, and a row of the logits is a picture.

    Arguments:
        model: left as it was.
        preprocessing: of the pictures: mean, standard deviation and number of crops.

    Raises:
        UserError: crops that are windows of a map.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    cell_weight: Tensor

    def __init__(self, model: Classifier, preprocessing: Preprocessing) -> None:
        super().__init__()
        if preprocessing.window is not None:
            name = preprocessing.crops["name"]
            raise UserError(
                f"'{name}' crops pool windows of a map, which exported networks cannot.",
                remedy="Use --backend torch, or train with other input.crops.",
            )
        self.model = fold_batch_norms(model).cpu().float()
        self.model.backbone.unfreeze()
        self.model.requires_grad_(requires_grad=False)
        self.joined = preprocessing.cropping.count if model.head.crop_pooling.joins else None
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))
        weight_CF, bias_C = model.head.affine(range(n_classes(model)))
        self.register_buffer("weight", weight_CF.cpu())
        self.register_buffer("bias", bias_C.cpu())
        # A map of one cell pools to copies of that cell by every rule.
        cell_CD = weight_CF.reshape(len(weight_CF), 1 if self.joined else model.pooling.width(1), -1).sum(dim=1)
        self.register_buffer("cell_weight", cell_CD[..., None, None].cpu())

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """uint8 [M, H, W, 3] → logits [M, C] and score maps [M, C, h, w]; where crops are joined, [M / crops, C] alone.

        A score map is what the head says of a crop that were nothing but this cell
        (`manyhot.localization.heatmaps.CAM`); of a localizer, the scores that it pools.
        """
        images_M3HW = (crops.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        maps_MDHW = self.model.maps(images_M3HW)
        vectors_MF = self.model.pool(maps_MDHW)[:, 0]
        if self.joined:
            return (functional.linear(vectors_MF.reshape(-1, self.weight.shape[1]), self.weight, self.bias),)
        score_maps = functional.conv2d(maps_MDHW, self.cell_weight, self.bias)
        return functional.linear(vectors_MF, self.weight, self.bias), score_maps


def n_classes(model: Classifier) -> int:
    """C of a classifier or localizer."""
    head = model.head
    return head.n_classes if isinstance(head, ScoreHead) else head.linear.out_features
