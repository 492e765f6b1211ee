"""Feature extractors of torchvision and timm, each with its geometry.

A torchvision family is one function under `@family`, which says what to keep of a network; a timm network needs none,
but may declare its geometry by one function under `@timm_geometry`. Nothing else lists them.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhot.errors import UserError, nearest
from manyhot.models.geometry import Geometry, compose, measure_geometry
from manyhot.models.weights import Weights, downloading, load_weights, parse_weights, read_state_dict

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
        with torch.no_grad() if self.frozen else nullcontext():
            map_NDHW = self._extract(self.body, x_N3HW)
        assert map_NDHW.ndim == 4, f"{self.name} gives no map"
        assert map_NDHW.shape[1] == self.channels, f"{self.name} gives {map_NDHW.shape[1]} channels"
        return map_NDHW

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


def create_backbone(name: str, weights: str = "imagenet", output_stride: int | None = None) -> Backbone:
    """The feature extractor of a published network.

    Arguments:
        name: `torchvision/NAME`, `timm/NAME` (timm's `NAME.TAG` too), or a bare NAME: torchvision's where it has a
            family here, timm's otherwise.
        weights: `imagenet`, `imagenet:TAG`, `none` or the path of a file. torchvision's plain `imagenet` is
            IMAGENET1K_V1, the weights of the published recipes; timm's is its default tag.
        output_stride: 8, 16 or 32 pixels between cells, by dilation in place of strides, where timm's network can;
            None is the network's own.

    Raises:
        UserError: an unknown name or tag, an output stride that the network does not offer, weights that cannot be
            fetched or read, or those of another network.
    """
    library, _, bare = name.rpartition("/")
    wanted = parse_weights(weights)
    if library in ("", "torchvision") and bare in torchvision_names():
        if output_stride is not None:
            raise UserError(f"torchvision/{bare} has an output stride of its own.", remedy=f"Try timm/{bare}.")
        return _from_torchvision(bare, wanted)
    if library in ("", "timm"):
        import timm

        if timm.is_model(bare.partition(".")[0]):
            return _from_timm(bare, wanted, output_stride)
    raise _unknown(name, library, bare)


def torchvision_names() -> list[str]:
    """The torchvision networks that have a family here."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if any(fnmatchcase(name, key) for key in _families)]


def _unknown(name: str, library: str, bare: str) -> UserError:
    import timm
    from torchvision import models

    if library not in ("", "torchvision", "timm"):
        return UserError(f"unknown library '{library}' in model.backbone '{name}'.", remedy="Known: timm, torchvision.")
    if library != "timm" and bare in models.list_models(module=models):
        return UserError(
            f"torchvision's '{bare}' has no feature map here, in model.backbone.",
            remedy=f"Choose one of torchvision's {', '.join(_families)}, or a network of timm.",
        )
    known = set() if library == "timm" else set(torchvision_names())
    if library != "torchvision":
        known |= set(timm.list_models())
    # timm has more than a thousand names: only those that look alike help.
    close = difflib.get_close_matches(bare, known, n=5)
    return UserError(f"unknown network '{name}' in model.backbone.", remedy=nearest(bare, close or torchvision_names()))


_families: dict[str, Callable[[Any], Features]] = {}

Family = Callable[[Any], Features]


def family(*patterns: str) -> Callable[[Family], Family]:
    """Decorator of a torchvision family: the names it covers, as in a shell.

    The function takes a network of the library as built, removes in place what comes after the map, and returns its
    `Features`.
    """

    def add(function: Family) -> Family:
        for pattern in patterns:
            assert pattern not in _families, f"family {pattern} is registered twice"
            _families[pattern] = function
        return function

    return add


def _from_torchvision(name: str, weights: Weights) -> Backbone:
    from torchvision import models

    tags = {tag.name: tag for tag in models.get_model_weights(name)}
    plain = "IMAGENET1K_V1" if "IMAGENET1K_V1" in tags else next(iter(tags))
    if weights.tag is not None and weights.tag not in tags:
        raise UserError(f"torchvision/{name} has no weights '{weights.tag}'.", remedy=nearest(weights.tag, tags))
    tag = tags[weights.tag or plain]
    body = models.get_model(name, weights=None)
    features = next(make for pattern, make in _families.items() if fnmatchcase(name, pattern))(body)
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


_timm_geometries: dict[str, Callable[[Any], Geometry | None]] = {}

Declaration = Callable[[Any], Geometry | None]

# Layers that only timm's forward_head uses.
_TIMM_HEADS = ("head", "head_dist", "fc", "classifier", "fc_norm", "attn_pool", "norm_head", "pre_logits")


def timm_geometry(*classes: str) -> Callable[[Declaration], Declaration]:
    """Decorator of a function that declares the geometry of timm's networks of these classes, or None to measure."""

    def add(function: Declaration) -> Declaration:
        for name in classes:
            assert name not in _timm_geometries, f"the geometry of timm's {name} is declared twice"
            _timm_geometries[name] = function
        return function

    return add


def _from_timm(name: str, weights: Weights, output_stride: int | None) -> Backbone:
    import timm

    architecture, _, tag = name.partition(".")
    known = [full.partition(".")[2] for full in timm.models.get_arch_pretrained_cfgs(architecture)]
    tag = weights.tag or tag
    if tag and tag not in known:
        raise UserError(f"timm/{architecture} has no weights '{tag}'.", remedy=nearest(tag, known))
    full = f"{architecture}.{tag}" if tag else architecture
    if weights.source == "imagenet":
        with downloading(f"{full} of timm"):
            body = _create_timm(full, pretrained=True, output_stride=output_stride)
    else:
        body = _create_timm(full, pretrained=False, output_stride=output_stride)
    for child in (*_TIMM_HEADS, *(["conv_head"] if type(body).__name__ == "MobileNetV3" else [])):
        if isinstance(getattr(body, child, None), nn.Module):
            setattr(body, child, nn.Identity())
    if weights.path is not None:
        load_weights(body, read_state_dict(weights.path), origin=str(weights.path), name=f"timm/{full}")
    settings = body.pretrained_cfg
    declare = _timm_geometries.get(type(body).__name__)
    features = Features(_timm_map, body.num_features, declare(body) if declare else None)
    square = settings["input_size"][1:]
    return Backbone(
        body,
        features,
        name=f"timm/{full}",
        mean=tuple(settings.get("mean") or IMAGENET_MEAN),
        std=tuple(settings.get("std") or IMAGENET_STD),
        measured_on=tuple(square) if settings.get("fixed_input_size") else MEASURED_ON,
    )


def _create_timm(name: str, *, pretrained: bool, output_stride: int | None) -> Any:
    """timm's network without its classifier, and able to take pictures of any size where it can be told to."""
    import timm

    if output_stride is not None:
        try:
            return timm.create_model(
                name, pretrained=pretrained, num_classes=0, global_pool="", output_stride=output_stride
            )
        except (TypeError, NotImplementedError, AssertionError, RuntimeError):
            raise UserError(f"timm/{name} does not offer an output stride of {output_stride}.") from None
    attempts: list[dict[str, Any]] = [{"global_pool": ""}, {}]
    settings = timm.models.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        sizes: list[dict[str, Any]] = [{"dynamic_img_size": True}, {"strict_img_size": False}, {}]
        attempts = [{**pooling, **size} for pooling in attempts for size in sizes]
    for attempt in attempts[:-1]:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **attempt)
        except (TypeError, AssertionError):  # how timm's networks refuse an argument
            continue
    return timm.create_model(name, pretrained=pretrained, num_classes=0, **attempts[-1])


def _timm_map(body: Any, images: Tensor) -> Tensor:
    architecture = body.pretrained_cfg["architecture"]
    height, width = images.shape[-2:]
    try:
        features = body.forward_features(images)
    except AssertionError as error:
        raise UserError(
            f"timm/{architecture} cannot take pictures of {width}×{height} pixels: {str(error).rstrip('.')}."
        ) from None
    if isinstance(features, Tensor) and features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(body, "output_fmt", "NCHW") == "NHWC" else features
    patch = getattr(getattr(body, "patch_embed", None), "patch_size", None)
    if not (isinstance(features, Tensor) and features.ndim == 3 and patch):
        raise UserError(f"timm/{architecture} gives no feature map.", remedy="Choose another model.backbone.")
    rows, columns = height // patch[0], width // patch[1]
    tokens_NLD = features[:, getattr(body, "num_prefix_tokens", 0) :]
    assert tokens_NLD.shape[1] == rows * columns, f"{architecture}: {tokens_NLD.shape[1]} tokens, {rows}×{columns} map"
    return tokens_NLD.transpose(1, 2).reshape(len(images), -1, rows, columns)


@timm_geometry("ResNet")
def _timm_resnet(body: Any) -> Geometry | None:
    """As torchvision's; averaged shortcuts (ResNet-D) and blurred strides have no exact centre."""
    pools = [layer for layer in body.modules() if isinstance(layer, nn.AvgPool2d) and layer.stride != 1]
    return None if pools or _has_layer(body, "BlurPool2d", "Conv2dSame") else compose(body, skip=["downsample", "se"])


@timm_geometry("EfficientNet", "MobileNetV3", "ConvNeXt", "VGG", "DenseNet")
def _timm_chain(body: Any) -> Geometry | None:
    """Chains; TensorFlow's padding ("same") depends on the picture's size and is measured."""
    return None if _has_layer(body, "BlurPool2d", "Conv2dSame") else compose(body)


@timm_geometry("VisionTransformer", "Beit", "Eva", "VisionTransformerDistilled")
def _timm_patches(body: Any) -> Geometry | None:
    """Tokens stay where their patches were."""
    return compose(body.patch_embed)


@timm_geometry("SwinTransformer", "SwinTransformerV2")
def _timm_swin(body: Any) -> Geometry | None:
    """Patches and merged patches: a cell covers exactly its stride."""
    stride = body.feature_info[-1]["reduction"]
    return Geometry(stride=stride, offset=(stride - 1) / 2)


def _has_layer(body: nn.Module, *classes: str) -> bool:
    return any(type(layer).__name__ in classes for layer in body.modules())
