"""timm's networks: none needs a line here, but a class may declare its geometry under `@timm_geometry`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from manyhot.errors import UserError, nearest
from manyhot.models.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, MEASURED_ON, Backbone, Features
from manyhot.models.geometry import Geometry
from manyhot.models.receptive import compose
from manyhot.models.weights import Weights, downloading, load_weights, read_state_dict

_geometries: dict[str, Callable[[Any], Geometry | None]] = {}

Declaration = Callable[[Any], Geometry | None]

# Layers that only timm's forward_head uses.
_TIMM_HEADS = ("head", "head_dist", "fc", "classifier", "fc_norm", "attn_pool", "norm_head", "pre_logits")


def timm_geometry(*classes: str) -> Callable[[Declaration], Declaration]:
    """Decorator of a function that declares the geometry of timm's networks of these classes, or None to measure."""

    def add(function: Declaration) -> Declaration:
        for name in classes:
            assert name not in _geometries, f"the geometry of timm's {name} is declared twice"
            _geometries[name] = function
        return function

    return add


def from_timm(name: str, weights: Weights, output_stride: int | None = None) -> Backbone:
    """The backbone of a name that timm knows, with or without a tag.

    Raises:
        UserError: an unknown tag, an output stride that the network does not offer, weights that cannot be fetched or
            read, or those of another network.
    """
    import timm

    architecture, _, tag = name.partition(".")
    known = [full.partition(".")[2] for full in timm.models.get_arch_pretrained_cfgs(architecture)]
    tag = weights.tag or tag
    if tag and tag not in known:
        raise UserError(f"timm/{architecture} has no weights '{tag}'.", remedy=nearest(tag, known))
    full = f"{architecture}.{tag}" if tag else architecture
    if weights.source == "imagenet":
        with downloading(f"{full} of timm"):
            body = _create(full, pretrained=True, output_stride=output_stride)
    else:
        body = _create(full, pretrained=False, output_stride=output_stride)
    for child in (*_TIMM_HEADS, *(["conv_head"] if type(body).__name__ == "MobileNetV3" else [])):
        if isinstance(getattr(body, child, None), nn.Module):
            setattr(body, child, nn.Identity())
    if weights.path is not None:
        load_weights(body, read_state_dict(weights.path), origin=str(weights.path), name=f"timm/{full}")
    settings = body.pretrained_cfg
    declare = _geometries.get(type(body).__name__)
    features = Features(_map, body.num_features, declare(body) if declare else None)
    square = settings["input_size"][1:]
    return Backbone(
        body,
        features,
        name=f"timm/{full}",
        mean=tuple(settings.get("mean") or IMAGENET_MEAN),
        std=tuple(settings.get("std") or IMAGENET_STD),
        measured_on=tuple(square) if settings.get("fixed_input_size") else MEASURED_ON,
    )


def _create(name: str, *, pretrained: bool, output_stride: int | None) -> Any:
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


def _map(body: Any, images: Tensor) -> Tensor:
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
