"""Localizers: every cell of the map is scored for every class first, and the scores are pooled afterwards."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from pydantic import Field
from torch import Tensor, nn

from manyhot.errors import UserError
from manyhot.models.backbones import Backbone
from manyhot.models.classifier import Classifier
from manyhot.models.crop_pooling import CropPooling
from manyhot.models.geometry import Geometry
from manyhot.models.head import ScoreHead
from manyhot.models.pooling import Pooling
from manyhot.models.receptive import compose
from manyhot.registry import Part, Registry


class Scoring(Part):
    """The layers that score cells, whose weights start from Xavier's uniform distribution and whose biases from zero.

    Source of the former: Glorot and Bengio, AISTATS 2010, equation 16.
    """

    norm: bool = Field(
        False,
        description="standardise the backbone's map first, each channel by its running mean and variance (BatchNorm "
        "without scale and shift)",
    )

    @abstractmethod
    def layers(self, channels: int, n_classes: int) -> nn.Sequential:
        """From a map of so many channels to scores of the classes."""

    def build(self, channels: int, n_classes: int) -> nn.Sequential:
        """`layers`, behind the standardisation where there is one."""
        layers = self.layers(channels, n_classes)
        return layers.insert(0, nn.BatchNorm2d(channels, affine=False)) if self.norm else layers


localizers: Registry[Scoring] = Registry("localizer", "model.localizer")


@localizers.register("convolutions")
class Convolutions(Scoring):
    """Convolution 3×3 without padding, ReLU, 1×1, ReLU, 1×1 to the classes: sees the neighbours of a cell too."""

    width: int = Field(256, ge=1, description="channels of the two hidden convolutions")

    def layers(self, channels: int, n_classes: int) -> nn.Sequential:
        """Five layers; the map loses one cell on every side."""
        first, second = nn.Conv2d(channels, self.width, 3), nn.Conv2d(self.width, self.width, 1)
        return _xavier(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(self.width, n_classes, 1)))


@localizers.register("linear")
class Linear(Scoring):
    """A 1×1 convolution: cells of the backbone's map are scored as they are."""

    def layers(self, channels: int, n_classes: int) -> nn.Sequential:
        """One layer."""
        return _xavier(nn.Sequential(nn.Conv2d(channels, n_classes, 1)))


def _xavier(layers: nn.Sequential) -> nn.Sequential:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return layers


class Localizer(Classifier):
    """Images to logits by way of a score map: backbone, convolutions down to one channel a class, pooling.

    The map says where a class is in the very numbers that its logit is made of; with maximum pooling the logit is the
    score of one place.

    Source: Oquab et al., Is object localization for free?, CVPR 2015, section 3.

    Arguments:
        backbone: from images to a feature map.
        scoring: from the feature map to scores [N, C, h, w].
        pooling: from the score map to a score a class.
        head: pools the crops.
    """

    def __init__(self, backbone: Backbone, scoring: nn.Sequential, pooling: Pooling, head: ScoreHead) -> None:
        super().__init__(backbone, pooling, head)
        self.scoring = scoring

    @property
    def geometry(self) -> Geometry:
        """Where the scores lie on the picture."""
        return compose(self.scoring, self.backbone.geometry)

    def maps(self, images_N3HW: Tensor) -> Tensor:
        """Images → score maps, float logits [N, C, h, w].

        Raises:
            UserError: a picture so small that no cell is left.
        """
        features_NDHW = self.backbone(images_N3HW)
        lost = sum(
            one.kernel_size[0] - 1 - 2 * int(one.padding[0]) for one in self.scoring if isinstance(one, nn.Conv2d)
        )
        if min(features_NDHW.shape[-2:]) <= lost:
            raise UserError(
                f"a picture of {images_N3HW.shape[-1]}×{images_N3HW.shape[-2]} pixels is too small for the localizer: "
                f"its last convolutions need a map of {lost + 1} cells a side.",
                remedy="Set a larger input.size.",
            )
        return cast(Tensor, self.scoring(features_NDHW))

    def head_parameters(self) -> list[nn.Parameter]:
        """All parameters of the convolutions that score."""
        return list(self.scoring.parameters())


def create_localizer(
    backbone: Backbone, pooling: Pooling, crop_pooling: CropPooling, n_classes: int, scoring: Scoring
) -> Localizer:
    """The localizer that a recipe's `model.localizer` describes, on a backbone.

    Raises:
        UserError: a pooling that does not give one number a class, or crops whose features are to be joined.
    """
    if pooling.width(n_classes) != n_classes:
        raise UserError("model.localizer needs a model.pooling that gives one number a class, such as max or lse.")
    if crop_pooling.joins:
        raise UserError("model.localizer has no features of crops to join.", remedy="Set model.crop_pooling=max.")
    return Localizer(backbone, scoring.build(backbone.channels, n_classes), pooling, ScoreHead(n_classes, crop_pooling))
