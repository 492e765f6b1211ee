"""The pre-activation ResNet against one written with plain functions, the published table, and its geometry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone
from manyhot.models.bundle_config import BundleConfig
from manyhot.models.classifier import create_classifier
from manyhot.models.geometry import Geometry
from manyhot.models.layers import summarize
from manyhot.models.preact_resnet import PreActResNet, depth
from manyhot.models.receptive import measure_geometry
from manyhot.recipe import Model

FIFTY = ((256, 3), (512, 4), (1024, 6), (2048, 3))
SMALL = ((16, 2), (32, 1), (64, 1))


def written_again(weights: dict[str, Tensor], stages: tuple[tuple[int, int], ...], x: Tensor) -> Tensor:
    """The forward pass in eval mode from a state dict alone."""

    def activated(y: Tensor, name: str) -> Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        scale = weights[f"{name}.weight"] / (var + 1e-5).sqrt()
        shift = weights[f"{name}.bias"] - mean * scale
        return (y * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    x = F.conv2d(x, weights["conv.weight"], stride=2, padding=3)
    x = F.max_pool2d(x, 3, 2, 1)
    width = 64
    for i, (channels, blocks) in enumerate(stages):
        for j in range(blocks):
            at = f"stages.{i}.{j}"
            stride = 2 if i > 0 and j == 0 else 1
            a = activated(x, f"{at}.norm1")
            b = F.conv2d(a, weights[f"{at}.conv1.weight"])
            b = F.conv2d(activated(b, f"{at}.norm2"), weights[f"{at}.conv2.weight"], stride=stride, padding=1)
            b = F.conv2d(activated(b, f"{at}.norm3"), weights[f"{at}.conv3.weight"])
            if width != channels or stride != 1:
                x = F.conv2d(a, weights[f"{at}.projection.weight"], stride=stride)
            x = x + b
            width = channels
    return activated(x, "norm")


def disturbed(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """BatchNorms of a network that has learned something."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    return network


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from([8, 16, 64]), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(32, 80),
    st.integers(32, 80),
)
def test_forward_equals_one_written_with_functions(stages, height, width):
    torch.manual_seed(1)
    network = disturbed(PreActResNet(stages)).double().eval()
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    wanted = written_again(network.state_dict(), tuple(stages), images)
    torch.testing.assert_close(network(images), wanted, rtol=1e-9, atol=1e-9)


def test_the_fifty_layers_have_the_sizes_of_the_published_table():
    model = create_classifier(Model(backbone="preact_resnet", weights="none", stages=FIFTY), 256)
    rows = summarize(model, 224)
    sizes = {row.name.removeprefix("backbone.body."): row.output for row in rows}
    assert sizes["conv"] == (1, 64, 112, 112)
    assert sizes["pool"] == (1, 64, 56, 56)
    for stage, (channels, blocks) in enumerate(FIFTY):
        for block in range(blocks):
            assert sizes[f"stages.{stage}.{block}.conv3"] == (1, channels, 56 >> stage, 56 >> stage)
    main = [row for row in rows if row.kind in ("Conv2d", "Linear") and "projection" not in row.name]
    assert len(main) == depth(FIFTY) == 50
    assert sum("projection" in row.name for row in rows) == 4  # one a stage
    # torchvision's ResNet-50 has these convolutions too (25,557,032 numbers with its BatchNorms and 1,000 classes).
    from torchvision.models import resnet50

    def numbers(network):
        return sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))

    assert numbers(model) == numbers(resnet50())


@pytest.mark.parametrize(
    ("stages", "layers"),
    [
        (((128, 2), (256, 2), (512, 2), (1024, 2)), 26),
        (((128, 1), (256, 2), (512, 2), (1024, 1)), 20),
        (FIFTY, 50),
    ],
)
def test_depth_counts_the_main_path(stages, layers):
    assert depth(stages) == layers


def test_weights_are_xaviers():
    torch.manual_seed(0)
    network = PreActResNet(FIFTY)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.bias is None
            area = layer.kernel_size[0] * layer.kernel_size[1]
            wanted = (2 / (area * (layer.in_channels + layer.out_channels))) ** 0.5
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.05)
            assert abs(layer.weight.mean().item()) < 5 * wanted / layer.weight.numel() ** 0.5


def test_every_weight_is_used():
    network = PreActResNet(SMALL)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_an_identity_is_kept_where_nothing_changes():
    network = PreActResNet(((64, 2), (128, 2)))
    blocks = [block for stage in network.stages for block in stage]
    assert [block.projection is None for block in blocks] == [True, True, False, True]
    block = blocks[0].eval()
    torch.nn.init.zeros_(block.conv3.weight)
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("stages", [SMALL, ((16, 1), (16, 2), (16, 1), (32, 1))])
def test_declared_geometry_is_the_measured_one(stages):
    backbone = create_backbone("preact_resnet", "none", stages=stages)
    assert backbone.name == "manyhot/preact_resnet"
    assert backbone.geometry == Geometry(stride=4.0 * 2 ** (len(stages) - 1), offset=0.0)
    assert measure_geometry(backbone, 640, 64) == backbone.geometry


def test_a_state_dict_goes_round_by_file_and_by_bundle(tmp_path):
    backbone = create_backbone("manyhot/preact_resnet", "none", stages=SMALL)
    torch.save(backbone.body.state_dict(), tmp_path / "weights.pt")
    again = create_backbone("preact_resnet", str(tmp_path / "weights.pt"), stages=SMALL)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.eval()(images), backbone.eval()(images))
    with pytest.raises(UserError, match="of 14 layers"):
        create_backbone("preact_resnet", str(tmp_path / "weights.pt"), stages=[*SMALL[:2], (128, 1)])
    model = Model(backbone=backbone.name, weights="none", stages=SMALL)
    field = BundleConfig.model_fields["model"].annotation
    assert field.model_validate_json(model.model_dump_json()) == model


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("preact_resnet", {"weights": "none"}, "needs model.stages"),
        ("preact_resnet", {"stages": SMALL}, "no ImageNet weights"),
        ("preact_resnet", {"weights": "none", "stages": SMALL, "output_stride": 8}, "no model.output_stride"),
        ("resnet18", {"weights": "none", "stages": SMALL}, "model.stages are of preact_resnet"),
        ("timm/preact_resnet", {"weights": "none"}, "unknown network"),
        ("manyhot/resnet18", {"weights": "none"}, "manyhot has no network 'resnet18'"),
        ("preact_resnett", {"weights": "none"}, "preact_resnet"),
    ],
)
def test_faults_are_named(name, arguments, message):
    with pytest.raises(UserError, match=message):
        create_backbone(name, **arguments)
