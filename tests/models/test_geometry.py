import pytest
import torch
from torch import nn

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone
from manyhot.models.geometry import Geometry
from manyhot.models.receptive import compose, measure_geometry

# Known by hand: name, height and width of the strip to measure on, stride, offset.
KNOWN = [
    ("alexnet", 320, 64, 16, 15.0),
    ("squeezenet1_0", 320, 64, 16, 17.0),
    ("squeezenet1_1", 320, 64, 16, 15.0),
    ("vgg16", 256, 32, 16, 7.5),
    ("resnet18", 512, 32, 32, 0.0),
    ("resnet50", 512, 32, 32, 0.0),
    ("mobilenet_v2", 512, 32, 32, 0.0),
    ("mobilenet_v3_small", 640, 32, 32, 0.0),
    ("efficientnet_b0", 640, 32, 32, 0.0),
    ("densenet121", 640, 32, 32, 14.0),
    ("regnet_y_400mf", 640, 32, 32, 0.0),
    ("shufflenet_v2_x0_5", 512, 32, 32, 0.0),
    ("timm/resnet18", 512, 32, 32, 0.0),
    ("convnext_atto", 512, 32, 32, 15.5),
    ("test_vit", 160, 160, 16, 7.5),
    ("test_efficientnet", 512, 32, 32, 0.0),
    ("mobilenetv3_small_050", 640, 32, 32, 0.0),
]


@pytest.mark.parametrize(("name", "height", "width", "stride", "offset"), KNOWN)
def test_declared_and_measured_geometry_agree(name, height, width, stride, offset):
    backbone = create_backbone(name, "none")
    declared = backbone.geometry
    assert (declared.stride, declared.offset) == (stride, offset)
    measured = measure_geometry(backbone, height, width)
    assert measured.stride == declared.stride
    assert measured.offset == pytest.approx(declared.offset, abs=0.5)


def test_swin_merges_patches_into_cells_that_cover_their_stride():
    assert create_backbone("swin_t", "none").geometry == Geometry(32, 15.5)


def test_the_measurement_is_exact_for_any_chain():
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(4, 4, 3, padding=0, dilation=2),
        nn.BatchNorm2d(4),
        nn.AvgPool2d(2),
    )
    # By hand: 2-1=1, then +2·1=3, then +4·2=11 (dilated 3 reaches 2 cells), then +4·0.5=13 at stride 8.
    assert compose(chain) == Geometry(8, 13)
    assert measure_geometry(chain, 160) == Geometry(8, 13)


def test_then_follows_the_definition_of_a_convolution():
    # Cell i of a convolution reads pixels s·i - p + d·t for t in 0…k-1; its centre is their mean.
    for kernel, stride, padding, dilation in [(3, 1, 1, 1), (7, 2, 3, 1), (2, 2, 0, 1), (3, 4, 0, 2)]:
        geometry = Geometry(16, 15).then(kernel, stride, padding, dilation)
        for cell in (0, 3):
            cells = [stride * cell - padding + dilation * tap for tap in range(kernel)]
            assert geometry.centre(cell) == 15 + 16 * sum(cells) / kernel
            assert geometry.cell(geometry.centre(cell)) == cell


def test_an_undeclared_geometry_is_measured_once_and_kept():
    backbone = create_backbone("test_resnet", "none")
    geometry = backbone.geometry
    # ResNet-D: convolutions keep offset 0, averaged shortcuts add half a cell at each of three stages (2 + 4 + 8).
    assert geometry.stride == 32
    assert 0 < geometry.offset < 14
    assert backbone.geometry is geometry


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_geometry_can_be_asked_for_while_predicting(mode):
    backbone = create_backbone("test_resnet", "none").eval()
    with mode():
        backbone(torch.rand(1, 3, 64, 64))
        assert backbone.geometry.stride == 32


def test_measuring_changes_nothing():
    backbone = create_backbone("resnet18", "none").train()
    backbone.freeze()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    measure_geometry(backbone, 256, 32)
    assert backbone.frozen
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_what_cannot_be_measured_is_refused():
    # Swin's windows show a cell more of one side than of the other; its declared geometry is not asked here.
    backbone = create_backbone("swin_t", "none")
    with pytest.raises(ValueError, match="no fixed places"):
        measure_geometry(backbone, 320, 32)
    backbone._geometry = None
    backbone._measured_on = (320, 32)
    with pytest.raises(UserError, match=r"torchvision/swin_t .* is not known"):
        _ = backbone.geometry


def test_too_small_a_picture_is_named():
    with pytest.raises(ValueError, match="too small"):
        measure_geometry(create_backbone("squeezenet1_1", "none"), 48)
