"""Real architectures: the converted network computes what the given one does, in every exact mode."""

import copy
import time

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from manyhot.models.weight_standardization import (
    ChannelEpsBatchNorm2d,
    WeightStandardizedConv2d,
    fold_weights,
    output_difference,
    standardize_weights,
)

EXACT = ("alpha", "channel-eps", "gain", "exact-mean")


def alexnet() -> nn.Module:
    model = models.alexnet()
    model.classifier = nn.Flatten()  # its 58 million weights are no convolution's
    return model


# Convolutions, and how many of them a BatchNorm reads alone: squeeze-excitations, pre-activation blocks, LayerNorm and
# networks without norms have none; BiT's are standardised by timm, but for the classifier's.
NETWORKS = {
    "resnet18": (models.resnet18, 20, 20),
    "resnet50": (models.resnet50, 53, 53),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 52, 34),
    "densenet121": (models.densenet121, 120, 59),
    "googlenet": (lambda: models.googlenet(init_weights=False), 59, 59),
    "regnet_y_400mf": (models.regnet_y_400mf, 85, 53),
    "squeezenet1_0": (models.squeezenet1_0, 26, 0),
    "alexnet": (alexnet, 5, 0),
    "timm/convnext_atto": (lambda: timm.create_model("convnext_atto"), 40, 0),
    "timm/resnetv2_50": (lambda: timm.create_model("resnetv2_50"), 54, 32),
    "timm/resnetv2_50x1_bit": (lambda: timm.create_model("resnetv2_50x1_bit"), 54, 0),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, trained):
    """Name, the network in float64 and in float32, pictures for it, its convolutions and those with a BatchNorm."""
    make, convs, with_norm = NETWORKS[request.param]
    torch.manual_seed(0)
    model, picture = make().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    trained(model)
    return request.param, model, copy.deepcopy(model).float(), picture, convs, with_norm


def trained_on(model, picture):
    """Outputs and input gradient in train mode."""
    x = picture.clone().requires_grad_()
    outputs = model.train()(x)
    (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).square().sum().backward()
    return outputs, x.grad


@pytest.fixture(scope="module")
def in_training(network):
    return trained_on(copy.deepcopy(network[1]), network[3])


@pytest.mark.parametrize("mode", EXACT)
def test_the_function_is_kept(network, mode, apart, request):
    name, model, small, picture, convs, with_norm = network
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    converted, report = standardize_weights(model, mode, picture)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert report.untraced is None
    assert len(report.convs) == convs
    left = 53 if name.endswith("_bit") else 0
    modes = [row.mode for row in report.convs]
    assert modes.count("left") == left
    assert modes.count(mode) == (with_norm if mode in ("alpha", "channel-eps") else convs - left)
    assert sum(isinstance(layer, WeightStandardizedConv2d) for layer in converted.modules()) == convs - left
    assert report.difference is not None
    assert report.difference.relative <= 1e-12
    if mode in ("alpha", "channel-eps"):
        assert output_difference(converted, fold_weights(converted), picture).relative <= 1e-12
    assert standardize_weights(small, mode, picture.float())[1].difference.relative <= 1e-5

    if mode in ("channel-eps", "gain"):  # in training too
        source, found = request.getfixturevalue("in_training"), trained_on(converted, picture)
        for one, other in zip(source, found, strict=True):
            assert apart(one, other) <= 1e-10
    if mode == "channel-eps":
        norms = sum(isinstance(layer, ChannelEpsBatchNorm2d) for layer in converted.modules())
        assert norms == with_norm


def test_naive_is_another_function_where_channels_are_dead(network):
    _, _, model, picture, _, with_norm = network
    if with_norm:
        difference = standardize_weights(model, "naive", picture.float())[1].difference
        assert difference.relative > 1e-3


def test_fifty_layers_are_converted_in_five_seconds():
    model = models.resnet50()
    start = time.perf_counter()
    _, report = standardize_weights(model)
    assert time.perf_counter() - start < 5
    assert report.difference.relative <= 1e-5
