"""Optimizers with a head group and a backbone group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from manyhot.registry import Part, Registry

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]


class OptimizerPart(Part):
    """What all optimizers have: rates and weight decay by group."""

    lr: Rate = Field(1e-3, description="peak learning rate of the head, and of the backbone unless it has its own")
    backbone_lr: Rate | None = Field(None, description="peak learning rate of the backbone; null: `lr`")
    weight_decay: Decay = Field(0.0, description="weight decay of the head, and of the backbone unless it has its own")
    backbone_weight_decay: Decay | None = Field(None, description="weight decay of the backbone; null: `weight_decay`")

    def groups(self, head: Iterable[nn.Parameter], backbone: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
        """Parameter groups; biases and norm parameters (one-dimensional) are never decayed.

        Each group has its `name`, `peak_lr`, `lr` and `weight_decay`.
        """
        found = []
        for name, parameters, lr, decay in (
            ("head", list(head), self.lr, self.weight_decay),
            (
                "backbone",
                list(backbone),
                self.lr if self.backbone_lr is None else self.backbone_lr,
                self.weight_decay if self.backbone_weight_decay is None else self.backbone_weight_decay,
            ),
        ):
            for members, weight_decay in (
                ([p for p in parameters if p.ndim > 1], decay),
                ([p for p in parameters if p.ndim <= 1], 0.0),
            ):
                if members:
                    group = {"params": members, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay, "name": name}
                    found.append(group)
        return found

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over the groups."""
        raise NotImplementedError


optimizers: Registry[OptimizerPart] = Registry("optimizer", "optimizer")


@optimizers.register("sgd")
class SGD(OptimizerPart):
    """Stochastic gradient descent with momentum."""

    momentum: float = Field(0.9, ge=0, lt=1, description="momentum")
    nesterov: bool = Field(default=False, description="Nesterov's momentum")

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and not info.data.get("momentum", 1):
            raise ValueError("Nesterov's momentum needs a momentum above 0")
        return nesterov

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)


class _Adam(OptimizerPart):
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the mean of squared gradients")


@optimizers.register("adam")
class Adam(_Adam):
    """Adam (Kingma and Ba, ICLR 2015); weight decay is added to the gradient."""

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.Adam."""
        return torch.optim.Adam(groups, betas=(self.beta1, self.beta2))


@optimizers.register("adamw")
class AdamW(_Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        return torch.optim.AdamW(groups, betas=(self.beta1, self.beta2))
