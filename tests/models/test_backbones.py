import copy
import pickle

import pytest
import torch

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone, torchvision_names
from manyhot.models.backbones.torchvision import families

FAMILIES = {
    "alexnet": "torchvision/alexnet",
    "squeezenet1_1": "torchvision/squeezenet1_1",
    "resnet18": "torchvision/resnet18",
    "mobilenet_v3_small": "torchvision/mobilenet_v3_small",
    "densenet121": "torchvision/densenet121",
    "regnet_x_400mf": "torchvision/regnet_x_400mf",
    "shufflenet_v2_x0_5": "torchvision/shufflenet_v2_x0_5",
    "swin_t": "torchvision/swin_t",
    "timm/resnet18": "timm/resnet18",
    "resnet10t": "timm/resnet10t",
    "test_resnet": "timm/test_resnet",
    "convnext_atto": "timm/convnext_atto",
    "test_vit": "timm/test_vit",
    "mobilenetv3_small_050": "timm/mobilenetv3_small_050",
    "test_efficientnet.r160_in1k": "timm/test_efficientnet.r160_in1k",
}


@pytest.mark.parametrize(("name", "resolved"), FAMILIES.items())
def test_every_family_gives_a_map_and_uses_every_weight(name, resolved):
    backbone = create_backbone(name, "none")
    assert backbone.name == resolved
    maps = backbone(torch.rand(2, 3, 96, 64))
    assert maps.shape[:2] == (2, backbone.channels)
    stride = backbone.geometry.stride if backbone._geometry else 32
    assert abs(maps.shape[2] - 96 / stride) <= 1.1
    assert abs(maps.shape[3] - 64 / stride) <= 1.1
    maps.square().sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []
    assert len(backbone.mean) == len(backbone.std) == 3


def test_a_torchvision_map_is_what_the_library_pools():
    from torchvision import models

    library = models.resnet18(weights=None).eval()
    backbone = create_backbone("resnet18", "none").eval()
    backbone.body.load_state_dict(
        {key: value for key, value in library.state_dict().items() if not key.startswith("fc.")}
    )
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(library.fc(backbone(images).mean(dim=(-2, -1))), library(images))


def test_a_vit_map_is_its_tokens_row_by_row():
    backbone = create_backbone("test_vit", "none").eval()
    images = torch.rand(1, 3, 64, 96)
    tokens = backbone.body.forward_features(images)[:, backbone.body.num_prefix_tokens :]
    maps = backbone(images)
    assert maps.shape == (1, 64, 4, 6)
    torch.testing.assert_close(maps[0, :, 2, 5], tokens[0, 2 * 6 + 5])


def test_a_channels_last_network_gives_channels_first():
    backbone = create_backbone("timm/swin_tiny_patch4_window7_224", "none")
    assert backbone(torch.rand(1, 3, 64, 96)).shape == (1, 768, 2, 3)


def test_timm_mean_and_std_are_those_of_its_weights():
    backbone = create_backbone("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "none")
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["resnet18", "test_resnet"])
def test_frozen_is_frozen(name):
    backbone = create_backbone(name, "none")
    backbone.freeze()
    head = torch.nn.Linear(backbone.channels, 2)
    model = torch.nn.Sequential(backbone, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head).train()
    assert not any(layer.training for layer in backbone.modules())
    before = {key: value.numpy().tobytes() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        loss = model(torch.rand(2, 3, 64, 64)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert {key: value.numpy().tobytes() for key, value in backbone.state_dict().items()} == before
    assert not backbone(torch.rand(1, 3, 64, 64)).requires_grad


def test_unfreezing_restores_gradients_and_the_mode_last_asked_for():
    backbone = create_backbone("resnet18", "none")
    backbone.body.conv1.weight.requires_grad_(requires_grad=False)  # was so before, and stays so
    backbone.freeze()
    backbone.freeze()
    backbone.train()
    backbone.unfreeze()
    assert all(layer.training for layer in backbone.modules())
    assert {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad} == {
        "body.conv1.weight"
    }
    means = backbone.body.bn1.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64)).sum().backward()
    assert not torch.equal(means, backbone.body.bn1.running_mean)
    backbone.freeze()
    backbone.eval()
    backbone.unfreeze()
    assert not backbone.training


def test_backbones_copy_and_pickle():
    backbone = create_backbone("squeezenet1_1", "none").eval()
    images = torch.rand(1, 3, 64, 64)
    expected = backbone(images)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):  # noqa: S301 - written a moment ago
        assert torch.equal(other(images), expected)
        next(other.parameters()).data.zero_()
        assert torch.equal(backbone(images), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "Did you mean 'resnet18'"),
        ("torchvision/resnet10t", "unknown network"),
        ("timm/mobilenetv3_smal_050", "Did you mean 'mobilenetv3_small_050'"),
        ("keras/resnet18", "unknown library 'keras'"),
        ("vit_b_16", "no feature map"),
        ("qqqqqqq", "unknown network"),
    ],
)
def test_unknown_names_are_named(name, message):
    with pytest.raises(UserError, match=message):
        create_backbone(name, "none")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet50", "imagenet:IMAGENET1K_V3", "Did you mean 'IMAGENET1K_V"),
        ("resnet10t", "imagenet:c3_in1kk", "Did you mean 'c3_in1k'"),
        ("resnet18", "imagenet:", "no weights after the colon"),
    ],
)
def test_unknown_tags_are_named(name, weights, message):
    with pytest.raises(UserError, match=message):
        create_backbone(name, weights)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/levit_128s"])
def test_a_size_or_a_network_without_a_map_is_named(name):
    backbone = create_backbone(name, "none")
    size = 70 if name == "timm/test_vit" else 224
    with pytest.raises(UserError, match=r"cannot take pictures of 70×70|no feature map"):
        backbone(torch.rand(1, 3, size, size))


def test_no_network_is_covered_by_two_families():
    from fnmatch import fnmatchcase

    for name in torchvision_names():
        assert sum(fnmatchcase(name, pattern) for pattern in families) == 1


def test_output_stride_trades_strides_for_dilation() -> None:
    backbone = create_backbone("timm/test_resnet", "none", 8).eval()
    assert backbone(torch.zeros(1, 3, 64, 64)).shape[-2:] == (8, 8)
    assert backbone.geometry.stride == 8
    with pytest.raises(UserError, match="output stride"):
        create_backbone("torchvision/resnet18", "none", 8)
    with pytest.raises(UserError, match="output stride of 8"):
        create_backbone("timm/test_vit", "none", 8)
