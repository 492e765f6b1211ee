"""Detectors by name: what a recipe's `model.detector` may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from manyhot import recipe
from manyhot.data.selective_search import SelectiveSearch
from manyhot.errors import UserError
from manyhot.models.backbones import Backbone, create_backbone
from manyhot.models.region_pooling import Bins, Components, Evidence
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
    width: int | None = Field(256, ge=1, description="of the own head's hidden layer; null: none")
    squeeze: int | None = Field(
        None,
        ge=1,
        description="channels to which the own head brings the map, once and not for every box; null: the backbone's",
    )
    squeeze_by: Literal["convolution", "components"] = Field(
        "convolution",
        description="a 1×1 convolution that learns, or the principal components of the maps of train pictures, each of "
        "variance one, taken before training (needs model.frozen)",
    )
    side: int = Field(6, ge=1, le=14, description="bins of a region along each axis; fc6 of AlexNet takes 6")
    region_pooling: Literal["max", "average", "evidence"] = Field(
        "average",
        description="of the 2 × 2 samples in a bin; `max` is what fc6 of AlexNet knows, and costs more. `evidence`: no "
        "bins, the exact mean over the box times a power of the share of the picture that it covers",
    )
    evidence_power: float = Field(
        0.75, ge=0, le=1, description="that power; 0 finds the strongest part, 1 all that speaks for a class"
    )
    context: float | None = Field(
        1.5, gt=1, description="of `evidence`: the ring between a box and one with so many times its sides; null: none"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability after hidden layers")
    kept: Literal["maps", "regions"] = Field(
        "maps",
        description="what is computed once with a frozen backbone: its maps, or the pooled regions of all boxes, which "
        "take more room and leave the head alone to an epoch",
    )
    temperature: float = Field(1.0, gt=0, description="the logits of the softmax over boxes are divided by it")
    regulariser: float = Field(1e-4, ge=0, description="weight of the spatial regulariser; 0: none")
    refinements: int = Field(0, ge=0, le=5, description="refinement branches (OICR); their mean scores the boxes")
    joined: bool = Field(
        default=False, description="the geometric mean of the two streams' score and that of the branches scores them"
    )
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
    squeeze: nn.Module | None = None
    pooling: Bins | Evidence
    body: nn.Module
    if part.head == "alexnet":
        if backbone.name != "torchvision/alexnet" or part.side != 6 or part.squeeze is not None:
            raise UserError("the detector's head 'alexnet' needs the backbone alexnet, side 6 and no squeeze.")
        if part.region_pooling == "evidence":
            raise UserError("the detector's head 'alexnet' needs bins, not region_pooling=evidence.")
        pooling = Bins(backbone.geometry, part.side, part.region_pooling)
        body, width = _alexnet_body(part.dropout), 4096
        _load_alexnet(body, model.weights)
    else:
        squeeze, pooling = _squeeze(part, backbone, frozen=model.frozen), _pooling(part, backbone)
        body, width = _own_body(part, pooling.width(part.squeeze or backbone.channels))
    head = WsddnHead(
        pooling,
        body,
        width,
        n_classes,
        temperature=part.temperature,
        refinements=part.refinements,
        joined=part.joined,
        squeeze=squeeze,
    )
    if part.kept == "regions" and not head.pools_as_ever:
        raise UserError(
            "model.detector.kept=regions needs regions that stay as they are, and squeeze learns.",
            remedy="Set model.detector.squeeze_by=components, or squeeze=null.",
        )
    return Wsddn(backbone, head)


def _squeeze(part: WSDDN, backbone: Backbone, *, frozen: bool) -> nn.Module | None:
    if part.squeeze is None:
        return None
    if part.squeeze_by == "convolution":
        return nn.Sequential(nn.Conv2d(backbone.channels, part.squeeze, 1), nn.ReLU())
    if not frozen or part.squeeze > backbone.channels:
        raise UserError(
            f"model.detector.squeeze_by=components needs model.frozen, and at most {backbone.channels} of them."
        )
    return Components(backbone.channels, part.squeeze)


def _pooling(part: WSDDN, backbone: Backbone) -> Bins | Evidence:
    if part.region_pooling == "evidence":
        return Evidence(backbone.geometry, part.evidence_power, part.context)
    return Bins(backbone.geometry, part.side, part.region_pooling)


def _own_body(part: WSDDN, inputs: int) -> tuple[nn.Module, int]:
    """From regions to features, and how many of these there are."""
    if part.width is None:
        return nn.Sequential(nn.Flatten(), nn.Dropout(part.dropout)), inputs
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, part.width), nn.ReLU(), nn.Dropout(part.dropout)), part.width


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
