"""Heat maps on the cells: by torchcam and captum, by the logit they decompose, and by painting pictures over."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from manyhot import recipe
from manyhot.localization.heatmaps import heat_maps
from manyhot.localization.views import Views
from manyhot.models.classifier import create_classifier
from manyhot.models.geometry import Geometry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchcam.methods
    from captum.attr import LayerGradCam
    from captum.attr import Saliency as CaptumSaliency

BACKBONES = ["squeezenet1_1", "resnet18", "convnext_atto"]
SIDE = 160


def classifier(backbone="squeezenet1_1", n_classes=5, crops=1, **settings):
    """With random weights, a head that says something, and the statistics of a trained standardisation."""
    torch.manual_seed(3)
    model = create_classifier(recipe.Model(backbone=backbone, weights="none", **settings), n_classes, crops)
    model.head.linear.weight.data.normal_(std=0.5)
    model.head.linear.bias.data.normal_()
    norm = getattr(model.head, "norm", None)
    if norm is not None:
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
    return model.eval()


def pictures(*shape):
    return torch.randn(*shape, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


class Plain(nn.Module):
    """The same network as a chain that other libraries can hook into: map, pooling, one linear layer."""

    def __init__(self, model) -> None:
        super().__init__()
        self.map, self.fc = copy.deepcopy(model.backbone), copy.deepcopy(model.head.linear)

    def forward(self, x):
        return self.fc(self.map(x).mean(dim=(-2, -1)))


def ours(name, model, images, classes):
    (heat,) = heat_maps.build({"name": name}).cells(Views(model, [images.unsqueeze(1)]), classes)
    return heat[:, 0].numpy()


def theirs_by_hooks(method, model, images, classes, **settings):
    plain = Plain(model)
    found = []
    for image in images:
        row = []
        for class_ in classes:
            with method(plain, "map", input_shape=(3, SIDE, SIDE), **settings) as extractor:
                scores = plain(image[None])
                (heat,) = extractor(class_, scores, normalized=False)
                row.append(heat[0].detach().numpy())
        found.append(row)
    return np.array(found)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_cam_is_torchcams(backbone):
    model, images = classifier(backbone), pictures(2)
    heat = ours("cam", model, images, [0, 3])
    wanted = theirs_by_hooks(torchcam.methods.CAM, model, images, [0, 3], fc_layer="fc")
    bias = model.head.linear.bias[[0, 3]].detach().numpy()
    np.testing.assert_allclose(heat - bias[:, None, None], wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradcam_is_captums(backbone):
    model, images = classifier(backbone), pictures(2)
    plain = Plain(model)
    method = LayerGradCam(plain, plain.map)
    for k, class_ in enumerate([0, 3]):
        wanted = method.attribute(images, target=class_, relu_attributions=True)[:, 0].detach().numpy()
        heat = ours("gradcam", model, images, [0, 3])[:, k]
        np.testing.assert_allclose(heat, wanted, atol=1e-5 * wanted.max())


def test_layercam_is_torchcams():
    model, images = classifier(), pictures(2)
    wanted = theirs_by_hooks(torchcam.methods.LayerCAM, model, images, [1])
    heat = ours("layercam", model, images, [1])
    np.testing.assert_allclose(heat, wanted, atol=1e-5 * wanted.max())


POOLINGS = [{"name": name} for name in ("average", "max", "average+max", "lse", "topk")]


@pytest.mark.parametrize("feature_norm", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda one: one["name"])
def test_contributions_add_up_to_the_logit_whatever_the_pooling(pooling, feature_norm):
    model, images = classifier(pooling=pooling, feature_norm=feature_norm), pictures(2)
    logits = model(images).detach().numpy()
    heat = ours("contributions", model, images, range(5))
    np.testing.assert_allclose(heat.mean(axis=(-2, -1)), logits, atol=1e-4 * np.abs(logits).max())
    if pooling["name"] == "average":
        cam = ours("cam", model, images, range(5))
        np.testing.assert_allclose(heat, cam, atol=1e-4 * np.abs(cam).max())


@pytest.mark.parametrize("feature_norm", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda one: one["name"])
def test_cam_is_what_the_head_says_of_a_cell_alone(pooling, feature_norm):
    model, images = classifier(pooling=pooling, feature_norm=feature_norm), pictures(1)
    heat = ours("cam", model, images, range(5))
    with torch.no_grad():
        cells = model.backbone(images)
        for y, x in [(0, 0), (2, 5), (8, 8)]:
            alone = model.head(model.pool(cells[..., y : y + 1, x : x + 1]))
            np.testing.assert_allclose(heat[0, :, y, x], alone[0], atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("way", ["max", "mean", "lse"])
def test_every_view_is_explained_by_itself(way):
    model = classifier(crop_pooling={"name": way}, pooling={"name": "average+max"}, feature_norm=True)
    stacks = [pictures(2, 2), torch.nn.functional.avg_pool2d(pictures(2, 1).flatten(0, 1), 2).unsqueeze(1)]
    views = Views(model, stacks)
    torch.testing.assert_close(views.logits(), model(stacks))
    heats = heat_maps.build({"name": "contributions"}).cells(views, range(5))
    assert [tuple(heat.shape[:3]) for heat in heats] == [(2, 2, 5), (2, 1, 5)]
    for heat, stack in zip(heats, stacks, strict=True):
        for v in range(stack.shape[1]):
            torch.testing.assert_close(heat[:, v].mean(dim=(-2, -1)), model(stack[:, v]), atol=1e-3, rtol=1e-3)


def test_joined_views_explain_one_logit_together():
    model = classifier(crops=3, crop_pooling={"name": "concat"}, pooling={"name": "average+max"}, feature_norm=True)
    stacks = [pictures(2, 2), torch.nn.functional.avg_pool2d(pictures(2, 1).flatten(0, 1), 2).unsqueeze(1)]
    views = Views(model, stacks)
    logits = model(stacks)
    torch.testing.assert_close(views.logits(), logits)
    heats = heat_maps.build({"name": "contributions"}).cells(views, range(5))
    means = torch.cat([heat.mean(dim=(-2, -1)) for heat in heats], dim=1)
    torch.testing.assert_close(means.mean(dim=1), logits, atol=1e-3, rtol=1e-3)
    cams = heat_maps.build({"name": "cam"}).cells(views, [4, 1])
    with torch.no_grad():
        vectors = views.vectors(views.maps)
        vectors[0][1, 1, 0] = model.pool(views.maps[0][1, 1:, :, 3:4, 2:3])[0, 0]  # the second picture's second view
        said = model.head(torch.cat(vectors, dim=1).flatten(1, 2))[1, [4, 1]]
    torch.testing.assert_close(cams[0][1, 1, :, 3, 2], said, atol=1e-3, rtol=1e-3)


def test_windows_of_the_map_are_explained_through_their_pooling():
    model = classifier(crop_pooling={"name": "mean"})
    views = Views(model, [pictures(1, 1)], window=(96, 32))
    (heat,) = heat_maps.build({"name": "contributions"}).cells(views, range(5))
    torch.testing.assert_close(heat[:, 0].mean(dim=(-2, -1)), model([pictures(1, 1)], (96, 32)), atol=1e-3, rtol=1e-3)


def test_occlusion_is_the_fall_of_the_logit():
    model, images = classifier(n_classes=2), pictures(2)
    part = heat_maps.build({"name": "occlusion", "step": 40, "reach": 0, "batch": 5})
    (heat,) = part.cells(Views(model, [images.unsqueeze(1)]), [1])
    assert heat.shape == (2, 1, 1, 4, 4)
    for y, x in [(0, 0), (1, 2), (3, 3)]:
        painted = images.clone()
        painted[..., 40 * y : 40 * y + 40, 40 * x : 40 * x + 40] = 0
        fall = (model(images) - model(painted))[:, 1]
        torch.testing.assert_close(heat[:, 0, 0, y, x], fall, atol=1e-4, rtol=1e-4)
    assert part.geometry(Geometry(16, 15)) == Geometry(40, 19.5)


def test_a_square_that_reaches_beyond_its_own_stays_centred():
    class Sum(nn.Module):
        def forward(self, x):
            return x.abs().sum(dim=1, keepdim=True)

    model = classifier(n_classes=1)
    model.backbone.forward = Sum().forward
    model.backbone.channels = 1
    model.head.linear = nn.Linear(1, 1)
    nn.init.ones_(model.head.linear.weight)
    images = torch.zeros(1, 3, 64, 64)
    images[..., 24:32, 40:48] = 1
    part = heat_maps.build({"name": "occlusion", "step": 8, "reach": 1})
    (heat,) = part.cells(Views(model.eval(), [images.unsqueeze(1)]), [0])
    touched = heat[0, 0, 0] > 0
    assert touched[2:5, 4:7].all()
    assert touched.sum() == 9


@pytest.mark.parametrize("name", ["cam", "contributions", "gradcam", "layercam"])
def test_a_head_that_reads_one_channel_is_hot_where_that_is(name):
    model = classifier(n_classes=1, pooling={"name": "average+max"})
    model.head.linear.weight.data.zero_()
    model.head.linear.weight.data[0, [7, 512 + 7]] = 1.0
    images = pictures(1)
    channel = model.backbone(images)[0, 7].detach()
    heat = torch.from_numpy(ours(name, model, images, [0]))[0, 0]
    assert heat.argmax() == channel.argmax()


def test_maps_of_a_frozen_backbone_and_no_gradient_left_behind():
    model = classifier(frozen=True)
    for name in ("cam", "contributions", "gradcam", "layercam"):
        assert np.isfinite(ours(name, model, pictures(1), [0])).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_saliency_is_captums_blurred_as_scipy_does():
    model, images = classifier("resnet18", pooling={"name": "average+max"}), pictures(2)
    inputs = images.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = CaptumSaliency(model).attribute(inputs, target=3).amax(dim=1).detach().numpy()
    (plain,) = heat_maps.build({"name": "saliency", "sigma": 0}).cells(Views(model, [images.unsqueeze(1)]), [3])
    np.testing.assert_allclose(plain[:, 0, 0], theirs, atol=1e-5 * theirs.max())
    (blurred,) = heat_maps.build({"name": "saliency", "sigma": 1.5}).cells(Views(model, [images.unsqueeze(1)]), [3])
    for ours_HW, theirs_HW in zip(blurred[:, 0, 0].numpy(), theirs, strict=True):
        expected = gaussian_filter(theirs_HW, 1.5, mode="nearest", truncate=4)
        np.testing.assert_allclose(ours_HW, expected, atol=1e-5 * theirs.max())


def test_saliency_of_several_views_of_a_frozen_network():
    model = classifier("squeezenet1_1", frozen=True, crops=3)
    stacks = [pictures(2, 2), pictures(2, 1)]
    saliency = heat_maps.build({"name": "saliency"})
    found = saliency.cells(Views(model, stacks), [1, 4])
    assert [one.shape for one in found] == [(2, 2, 2, SIDE, SIDE), (2, 1, 2, SIDE, SIDE)]
    (alone,) = saliency.cells(Views(model, [stacks[0][:1, 1:]]), [4])
    assert torch.allclose(found[0][0, 1, 1], alone[0, 0, 0], atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert saliency.geometry(model.geometry) == Geometry()
    joined = classifier("squeezenet1_1", crops=2, crop_pooling={"name": "concat"})
    (maps,) = saliency.cells(Views(joined, [pictures(1, 2)]), [0])
    assert float(maps.amin(dim=(-2, -1)).max()) >= 0
    assert bool((maps.amax(dim=(-2, -1)) > 0).all())
