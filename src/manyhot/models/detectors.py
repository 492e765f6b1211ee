"""Detectors by name: what a recipe's `model.detector` may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from manyhot import recipe
from manyhot.data.selective_search import SelectiveSearch
from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone
from manyhot.models.weights import downloading, parse_weights, read_state_dict
from manyhot.models.wsddn import Wsddn, WsddnHead
from manyhot.models.wsddn_terms import refinement_loss, spatial_regulariser
from manyhot.registry import Part, Registry

Scale = Annotated[int, Field(ge=32, le=4096)]


class DetectorPart(Part):
    """What a recipe says of a detector that learns from image-level labels."""


detectors: Registry[DetectorPart] = Registry("detector", "model.detector")


@detectors.register("wsddn")
class WSDDN(DetectorPart):
    """Two streams over proposals: which class a box shows, and which boxes show a class (docs/detection.md)."""

    head: Literal["own", "alexnet"] = Field(
        "own",
        description="hidden layers: `alexnet` is fc6 and fc7 of AlexNet with their published weights; `own` is one "
        "layer from scratch",
    )
    width: int = Field(256, ge=1, description="of the own head's hidden layer")
    squeeze: int | None = Field(
        None,
        ge=1,
        description="channels of a 1×1 convolution of the own head, done on the map once and not for every box; "
        "null: none",
    )
    side: int = Field(6, ge=1, le=14, description="bins of a region along each axis; fc6 of AlexNet takes 6")
    region_pooling: Literal["max", "average"] = Field(
        "average", description="of the 2 × 2 samples in a bin; `max` is what fc6 of AlexNet knows, and costs more"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability after hidden layers")
    temperature: float = Field(1.0, gt=0, description="the logits of the softmax over boxes are divided by it")
    regulariser: float = Field(1e-4, ge=0, description="weight of the spatial regulariser; 0: none")
    refinements: int = Field(0, ge=0, le=5, description="refinement branches (OICR); their mean scores the boxes")
    box_scores: bool = Field(
        default=False, description="multiply a region's features by 1 + 10 times the score of its proposal"
    )
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = Field(
        (480, 576, 688, 864, 1200), description="longer sides of the pictures in training, pixels; one is drawn"
    )
    test_scales: Annotated[tuple[Scale, ...], Field(min_length=1)] | None = Field(
        None, description="of detection, where scores are summed over all; null: those of training"
    )
    flips: bool = Field(default=True, description="also mirrored pictures, in training and detection")
    max_boxes: int | None = Field(None, ge=1, description="boxes a picture in training, drawn at random; null: all")
    search_size: int = Field(400, ge=16, description="longer side of a picture in selective search, pixels")
    search_scale: int = Field(150, ge=1, description="of the segmentation it starts from; smaller ones give more boxes")
    min_side: float = Field(20, ge=0, description="smaller boxes are left out, pixels of the picture")
    min_score: float = Field(1e-3, ge=0, description="least summed score of a detection")
    overlap: float = Field(0.4, ge=0, le=1, description="IoU above which a better box suppresses another")

    @property
    def search(self) -> SelectiveSearch:
        """The settings of selective search, where no proposals are given."""
        return SelectiveSearch(self.search_size, scale=self.search_scale, min_side=self.min_side)

    @property
    def detection_scales(self) -> tuple[int, ...]:
        """Longer sides at test, pixels; the first one is also that of validation."""
        return self.test_scales or self.scales

    def auxiliary_loss(self, network: Wsddn | WsddnHead, targets_NC: Tensor) -> Tensor | None:
        """What is added to the image-level loss for the pictures that went through last; None: nothing."""
        scores = network.latest
        assert scores is not None, "no forward pass in training mode"
        terms = []
        if self.regulariser:
            terms.append(self.regulariser * spatial_regulariser(scores, targets_NC))
        if self.refinements:
            terms.append(refinement_loss(scores, targets_NC))
        return sum(terms[1:], terms[0]) if terms else None


def create_detector(model: recipe.Model, n_classes: int) -> Wsddn:
    """The detector that a recipe's section `model` describes; random values come from torch's global generator.

    Raises:
        UserError: as `create_classifier`; fc6 and fc7 of another network than AlexNet, or without their weights.
    """
    assert model.detector is not None
    part = detectors.build(model.detector)
    assert isinstance(part, WSDDN)
    backbone = create_backbone(model.backbone, model.weights, model.output_stride, model.stages)
    if model.frozen:
        backbone.freeze()
    squeeze = None
    if part.head == "alexnet":
        if backbone.name != "torchvision/alexnet" or part.side != 6 or part.squeeze is not None:
            raise UserError("the detector's head 'alexnet' needs the backbone alexnet, side 6 and no squeeze.")
        body, width = _alexnet_body(part.dropout), 4096
        _load_alexnet(body, model.weights)
    else:
        channels, width = part.squeeze or backbone.channels, part.width
        if part.squeeze is not None:
            squeeze = nn.Sequential(nn.Conv2d(backbone.channels, channels, 1), nn.ReLU())
        body = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * part.side**2, width), nn.ReLU(), nn.Dropout(part.dropout)
        )
    head = WsddnHead(
        body,
        width,
        n_classes,
        backbone.geometry,
        side=part.side,
        mode=part.region_pooling,
        temperature=part.temperature,
        refinements=part.refinements,
        squeeze=squeeze,
    )
    return Wsddn(backbone, head)


def describe_detector(network: Wsddn) -> str:
    """Its two halves in a line."""
    backbone, head = (sum(one.numel() for one in half.parameters()) for half in (network.backbone, network.head))
    frozen = " (frozen)" if network.backbone.frozen else ""
    return (
        f"{network.backbone.name}{frozen}, {backbone:,} parameters, and a WSDDN head of {head:,}, "
        f"{len(network.head.refinements)} refinement branches"
    )


def _alexnet_body(dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(256 * 36, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
    )


def _load_alexnet(body: nn.Sequential, spec: str) -> None:
    """Copy `classifier.1` and `classifier.4` of AlexNet's weights into fc6 and fc7."""
    weights = parse_weights(spec)
    if weights.source == "none":
        return
    if weights.path is not None:
        state = read_state_dict(weights.path)
    else:
        from torchvision.models import AlexNet_Weights

        with downloading("of AlexNet"):
            state = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True, weights_only=True)
    for place, name in ((1, "classifier.1"), (4, "classifier.4")):
        given = {key: state.get(f"{name}.{key}") for key in ("weight", "bias")}
        expected = body[place].state_dict()
        if any(one is None or one.shape != expected[key].shape for key, one in given.items()):
            raise UserError(
                f"these weights have no {name} of AlexNet, which the detector's head starts from.",
                file=spec,
                remedy="Give the state dict of torchvision's alexnet, or set model.detector.head=own.",
            )
        body[place].load_state_dict(given)
