"""A network from images to a feature map, with the geometry of that map, which can be frozen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manyhot.errors import UserError
from manyhot.models.geometry import Geometry
from manyhot.models.receptive import measure_geometry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Many rows, for wide receptive fields.
MEASURED_ON = (640, 64)

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Features:
    """What a backbone knows of the network that it holds.

    Arguments:
        forward: from the network and images [N, 3, H, W] to the map [N, channels, h, w]; a function of a module, so
            that backbones can be copied and pickled.
        channels: of the map.
        geometry: of the map; None: it is measured when first asked for.
    """

    forward: Callable[[nn.Module, Tensor], Tensor]
    channels: int
    geometry: Geometry | None


class Backbone(nn.Module):
    """A network from images to a feature map, which can be frozen.

    Its parameters carry the names of the library under the prefix `body.`, so `body` takes published state dicts.

    Arguments:
        body: the library's network without its classifier.
        features: how a map is drawn from it.
        name: resolved, with the library: `torchvision/resnet18`.
        mean: RGB mean in 0…1 of the preprocessing that the weights expect.
        std: RGB standard deviation of it.
        measured_on: height and width of the picture on which an undeclared geometry is measured, pixels; a narrow strip
            is as exact as a square, and quicker.
    """

    def __init__(
        self,
        body: nn.Module,
        features: Features,
        *,
        name: str,
        mean: Colour,
        std: Colour,
        measured_on: tuple[int, int] = MEASURED_ON,
    ) -> None:
        super().__init__()
        self.body = body
        self.name = name
        self.channels = features.channels
        self.mean = mean
        self.std = std
        self.frozen = False
        self._extract = features.forward
        self._geometry = features.geometry
        self._measured_on = measured_on
        self._wants_training = True
        self._trainable: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """Where the cells of the map lie on the picture.

        Raises:
            UserError: it is not declared and cannot be measured.
        """
        if self._geometry is None:
            try:
                self._geometry = measure_geometry(self, *self._measured_on)
            except ValueError as error:
                raise UserError(
                    f"where the map of {self.name} lies on the picture is not known ({error}).",
                    remedy="Choose another model.backbone.",
                ) from error
        return self._geometry

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Float images [N, 3, H, W], normalised by `mean` and `std` → float map [N, channels, h, w].

        Raises:
            UserError: a size that the network cannot take.
        """
        # Pictures that ask for their gradient get it from a frozen network too; its weights do not.
        with torch.no_grad() if self.frozen and not x_N3HW.requires_grad else nullcontext():
            map_NDHW = self._extract(self.body, x_N3HW)
        assert map_NDHW.ndim == 4, f"{self.name} gives no map"
        assert map_NDHW.shape[1] == self.channels, f"{self.name} gives {map_NDHW.shape[1]} channels"
        return map_NDHW

    def traceable(self, x_N3HW: Tensor) -> Any:
        """What torch.fx can follow of `forward`: the same layers, without the checks of their output."""
        forward_features = getattr(self.body, "forward_features", None)  # timm's
        return forward_features(x_N3HW) if forward_features else self._extract(self.body, x_N3HW)

    def freeze(self) -> None:
        """No gradient, no BatchNorm update, no dropout, whatever `train()` is told, until `unfreeze()`."""
        if self.frozen:
            return
        self._wants_training = self.training
        self._trainable = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        self.frozen = True
        self.requires_grad_(requires_grad=False)
        super().train(mode=False)

    def unfreeze(self) -> None:
        """Undo `freeze()`: gradients where there were some, and the mode last asked for by `train()` or `eval()`."""
        if not self.frozen:
            return
        self.frozen = False
        trainable = set(self._trainable)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)
        super().train(mode=self._wants_training)

    def train(self, mode: bool = True) -> Backbone:
        """Train or eval mode; a frozen backbone stays in eval mode and remembers what was asked."""
        self._wants_training = mode
        super().train(mode=mode and not self.frozen)
        return self
