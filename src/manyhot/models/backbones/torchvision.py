"""torchvision's networks: a family is one function under `@family`, which says what to keep of a network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from manyhot.errors import UserError, nearest
from manyhot.models.backbones.backbone import Backbone, Features
from manyhot.models.receptive import compose
from manyhot.models.weights import Weights, downloading, load_weights, read_state_dict

families: dict[str, Callable[[Any], Features]] = {}

Family = Callable[[Any], Features]


def family(*patterns: str) -> Callable[[Family], Family]:
    """Decorator of a torchvision family: the names it covers, as in a shell.

    The function takes a network of the library as built, removes in place what comes after the map, and returns its
    `Features`.
    """

    def add(function: Family) -> Family:
        for pattern in patterns:
            assert pattern not in families, f"family {pattern} is registered twice"
            families[pattern] = function
        return function

    return add


def torchvision_names() -> list[str]:
    """The torchvision networks that have a family here."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if any(fnmatchcase(name, key) for key in families)]


def from_torchvision(name: str, weights: Weights) -> Backbone:
    """The backbone of one of `torchvision_names()`.

    Raises:
        UserError: an unknown tag, weights that cannot be fetched or read, or those of another network.
    """
    from torchvision import models

    tags = {tag.name: tag for tag in models.get_model_weights(name)}
    plain = "IMAGENET1K_V1" if "IMAGENET1K_V1" in tags else next(iter(tags))
    if weights.tag is not None and weights.tag not in tags:
        raise UserError(f"torchvision/{name} has no weights '{weights.tag}'.", remedy=nearest(weights.tag, tags))
    tag = tags[weights.tag or plain]
    body = models.get_model(name, weights=None)
    features = next(make for pattern, make in families.items() if fnmatchcase(name, pattern))(body)
    if weights.source == "imagenet":
        origin = f"{tag} of torchvision"
        with downloading(origin):
            state = tag.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
        load_weights(body, state, origin=origin, name=f"torchvision/{name}")
    elif weights.path is not None:
        load_weights(body, read_state_dict(weights.path), origin=str(weights.path), name=f"torchvision/{name}")
    preset = tag.transforms()
    return Backbone(body, features, name=f"torchvision/{name}", mean=tuple(preset.mean), std=tuple(preset.std))


def _drop(body: nn.Module, *children: str) -> None:
    """Remove the layers behind the map, so that no weight is stored or counted that does nothing."""
    for child in children:
        delattr(body, child)


def _first_linear(classifier: nn.Module) -> int:
    """Features that a classifier reads."""
    return next(layer for layer in classifier.modules() if isinstance(layer, nn.Linear)).in_features


def _features(body: Any, images: Tensor) -> Tensor:
    return cast(Tensor, body.features(images))


@family("alexnet", "vgg*")
def _without_last_pool(body: Any) -> Features:
    """AlexNet and VGG: `features` but the last max-pool, which would halve the map for nothing."""
    body.features = body.features[:-1]
    channels = [layer.out_channels for layer in body.features if isinstance(layer, nn.Conv2d)][-1]
    _drop(body, "avgpool", "classifier")
    return Features(_features, channels, compose(body.features))


@family("squeezenet*")
def _squeezenet(body: Any) -> Features:
    """SqueezeNet: the two expansions of a fire module lie side by side, and both keep the place."""
    _drop(body, "classifier")
    last = body.features[-1]
    channels = last.expand1x1.out_channels + last.expand3x3.out_channels
    return Features(_features, channels, compose(body.features))


@family("mobilenet_v2", "mobilenet_v3_*", "efficientnet_*", "convnext_*")
def _chain(body: Any) -> Features:
    """Networks whose `features` is a chain up to the classifier; squeeze-excitation has 1×1 kernels."""
    channels = _first_linear(body.classifier)
    _drop(body, "classifier", *(child for child in ("avgpool",) if hasattr(body, child)))
    return Features(_features, channels, compose(body.features))


@family("resnet*", "resnext*", "wide_resnet*")
def _resnet(body: Any) -> Features:
    """ResNet and its kin up to `layer4`."""
    channels = body.fc.in_features
    _drop(body, "avgpool", "fc")
    return Features(_resnet_map, channels, compose(body, skip=["downsample"]))


def _resnet_map(body: Any, images: Tensor) -> Tensor:
    stem = body.maxpool(body.relu(body.bn1(body.conv1(images))))
    return cast(Tensor, body.layer4(body.layer3(body.layer2(body.layer1(stem)))))


@family("densenet*")
def _densenet(body: Any) -> Features:
    """DenseNet, with the ReLU that its `forward` holds."""
    channels = body.classifier.in_features
    _drop(body, "classifier")
    return Features(_densenet_map, channels, compose(body.features))


def _densenet_map(body: Any, images: Tensor) -> Tensor:
    return F.relu(body.features(images))


@family("regnet*")
def _regnet(body: Any) -> Features:
    """RegNet; `proj` is the shortcut of a block."""
    channels = body.fc.in_features
    _drop(body, "avgpool", "fc")
    return Features(_regnet_map, channels, compose(body, skip=["proj"]))


def _regnet_map(body: Any, images: Tensor) -> Tensor:
    return cast(Tensor, body.trunk_output(body.stem(images)))


@family("shufflenet_v2_*")
def _shufflenet(body: Any) -> Features:
    """ShuffleNet V2; `branch1` runs beside `branch2`, over the same places."""
    channels = body.fc.in_features
    _drop(body, "fc")
    return Features(_shufflenet_map, channels, compose(body, skip=["branch1"]))


def _shufflenet_map(body: Any, images: Tensor) -> Tensor:
    stem = body.maxpool(body.conv1(images))
    return cast(Tensor, body.conv5(body.stage4(body.stage3(body.stage2(stem)))))


@family("swin_*")
def _swin(body: Any) -> Features:
    """Swin: patches of 4, then three times 2×2 neighbours are merged; windows do not move a cell."""
    channels = body.head.in_features
    _drop(body, "avgpool", "flatten", "head")
    geometry = compose(body.features[0])
    for _ in range(3):
        geometry = geometry.then(kernel=2, stride=2)
    return Features(_swin_map, channels, geometry)


def _swin_map(body: Any, images: Tensor) -> Tensor:
    return cast(Tensor, body.permute(body.norm(body.features(images))))
