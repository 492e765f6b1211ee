"""Localizers: the published architecture, its geometry by input gradients, poolings of scores, and maps that add up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from manyhot import recipe
from manyhot.errors import UserError
from manyhot.localization.heatmaps import heat_maps
from manyhot.localization.views import Views
from manyhot.models.classifier import create_classifier
from manyhot.models.folding import fold_batch_norms
from manyhot.models.geometry import Geometry
from manyhot.models.localizer import Localizer
from manyhot.models.pooling import poolings
from manyhot.models.receptive import measure_geometry


def localizer(
    backbone="alexnet", pooling="max", n_classes=3, width=8, weights="none", norm=False, **settings
) -> Localizer:
    torch.manual_seed(0)
    pooling = {"name": pooling} if isinstance(pooling, str) else pooling
    scoring = (
        {"name": "linear", "norm": norm} if width is None else {"name": "convolutions", "width": width, "norm": norm}
    )
    section = recipe.Model(backbone=backbone, weights=weights, pooling=pooling, localizer=scoring, **settings)
    model = create_classifier(section, n_classes)
    assert isinstance(model, Localizer)
    return model.eval()


def test_the_published_localizer_on_alexnet():
    model = localizer(n_classes=20, width=256)
    with torch.no_grad():
        assert model.maps(torch.zeros(1, 3, 512, 512)).shape == (1, 20, 29, 29)
    assert model.geometry == Geometry(16, 31)
    kinds = [type(layer).__name__ for layer in model.scoring]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    convolutions = [layer for layer in model.scoring if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.padding) for c in convolutions] == [
        (256, (3, 3), (0, 0)),
        (256, (1, 1), (0, 0)),
        (20, (1, 1), (0, 0)),
    ]
    for layer in convolutions:  # Xavier's uniform distribution reaches as far as its bound, and no further
        fan = layer.weight[0].numel() + layer.out_channels * layer.weight[0, 0].numel()
        bound = (6 / fan) ** 0.5
        assert 0.97 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.detach().any()
    model.start_at_prior(torch.ones(4, 20, dtype=torch.int8).numpy())
    assert not convolutions[-1].bias.detach().any()


def test_published_alexnet_weights_load(tmp_path):
    torch.manual_seed(1)
    published = models.alexnet(weights=None)
    torch.save(published.state_dict(), tmp_path / "alexnet.pth")
    model = localizer(weights=str(tmp_path / "alexnet.pth"))
    for name, tensor in model.backbone.body.state_dict().items():
        assert name.startswith("features.")
        assert torch.equal(tensor, published.state_dict()[name])


@pytest.mark.parametrize(
    ("backbone", "height", "width", "settings", "expected"),
    [
        ("alexnet", 320, 80, {}, Geometry(16, 31)),
        ("squeezenet1_0", 320, 80, {}, Geometry(16, 33)),
        ("resnet18", 416, 65, {}, Geometry(32, 32)),
        ("preact_resnet", 160, 17, {"stages": ((16, 1), (16, 1))}, Geometry(8, 8)),
    ],
)
def test_declared_and_measured_geometry_agree(backbone, height, width, settings, expected):
    model = localizer(backbone, **settings)

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.maps(images)

    measured = measure_geometry(Maps(), height, width)
    assert model.geometry == expected
    assert measured.stride == expected.stride
    assert measured.offset == pytest.approx(expected.offset, abs=0.5)


def test_the_centre_of_the_input_gradient_of_ten_cells_of_trained_like_weights():
    """With kernels that are even, the gradient of a cell is symmetric about its centre: no copy of the network here."""
    model = localizer().double()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            even = torch.rand(layer.weight.shape[:2], dtype=torch.float64)[..., None, None] + 0.1
            layer.weight.data = (even / (even.mean() * layer.weight[0].numel())).expand_as(layer.weight).clone()
    images = torch.ones(1, 3, 400, 80, dtype=torch.float64).requires_grad_()
    for layer in model.backbone.body.features:
        if isinstance(layer, nn.Conv2d):
            layer.bias.data.zero_()
    model.backbone.body.features = nn.Sequential(
        *(nn.AvgPool2d(3, 2) if isinstance(one, nn.MaxPool2d) else one for one in model.backbone.body.features)
    )
    scores = model.maps(images)
    pixels = torch.arange(400, dtype=torch.float64)
    for row in range(6, 16):
        (gradient,) = torch.autograd.grad(scores[0, :, row, 1].sum(), images, retain_graph=True)
        mass = gradient.abs().sum(dim=(0, 1, 3))
        assert float((mass * pixels).sum() / mass.sum()) == pytest.approx(31 + 16 * row, abs=0.5)


@pytest.mark.parametrize(
    "pooling", ["average", "max", {"name": "lse", "r": 2}, {"name": "topk", "k": 3}, "dropped_max"]
)
def test_logits_are_pooled_scores_and_cam_is_the_score_map(pooling):
    model = localizer("squeezenet1_1", pooling)
    images = torch.randn(2, 3, 96, 112)
    with torch.no_grad():
        scores = model.maps(images)
        logits = model(images)
    assert torch.allclose(logits, model.pooling.pool(scores))
    views = Views(model, [images.unsqueeze(1)])
    assert torch.allclose(views.logits(), logits)
    (cam,) = heat_maps.build({"name": "cam"}).cells(views, [2, 0])
    assert torch.equal(cam[:, 0], scores[:, [2, 0]])
    (added,) = heat_maps.build({"name": "contributions"}).cells(views, [1])
    assert torch.allclose(added[:, 0, 0].mean(dim=(-2, -1)), logits[:, 1], atol=1e-5)


def test_crops_are_pooled_after_the_cells():
    model = localizer("squeezenet1_1", crop_pooling={"name": "mean"})
    crops = torch.randn(2, 3, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(
            model([crops]), torch.stack([model(crops[:, i]) for i in range(3)]).mean(dim=0), atol=1e-6
        )


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="one number a class"):
        localizer(pooling="average+max")
    with pytest.raises(UserError, match="no features of crops"):
        localizer(crop_pooling={"name": "concat"})
    with pytest.raises(UserError, match=r"40×48 pixels is too small.* 3 cells a side"):
        localizer().maps(torch.zeros(1, 3, 48, 40))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("model.dropout=0.5", "a localizer pools scores"),
        ("model.feature_norm=true", "a localizer pools scores"),
        ("model.frozen=true", "set training.views 0"),
    ],
)
def test_settings_without_effect_are_refused(changes, said):
    text = "name: x\nmodel: {backbone: alexnet, weights: none, localizer: linear}"
    with pytest.raises(UserError, match=said):
        recipe.parse_recipe(text, "x", [changes])


def test_without_a_width_the_features_are_scored_as_they_are():
    model = localizer("squeezenet1_1", "average", width=None)
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        features = model.backbone(images)
        by_hand = model.scoring[0](features.mean(dim=(-2, -1), keepdim=True))[..., 0, 0]
        assert torch.allclose(model(images), by_hand, atol=1e-5)  # linear: pooling and scoring commute
    assert model.geometry == model.backbone.geometry


@pytest.mark.parametrize("width", [None, 8])
def test_a_map_is_standardised_channel_by_channel_where_that_is_asked_for(width):
    model, plain = (localizer("squeezenet1_1", width=width, norm=norm) for norm in (True, False))
    images = 30 * torch.randn(2, 3, 96, 112)
    with torch.no_grad():
        features = model.backbone(images)
        mean, var = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), correction=0)
        standardised = (features - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        wanted = plain.scoring(standardised)
        for _ in range(200):
            model.train()
            scores = model.maps(images)
    assert torch.allclose(scores, wanted, atol=1e-4)
    assert torch.allclose(model.scoring[0].running_mean, mean, atol=1e-3 * float(mean.max()))
    with torch.no_grad():
        assert torch.allclose(model.eval().maps(images), wanted, atol=0.05)
        assert torch.allclose(fold_batch_norms(model)(images), model(images), atol=1e-4)
    assert model.geometry == plain.geometry
    assert not list(model.scoring[0].parameters())
    assert len(model.head_parameters()) == len(plain.head_parameters())


@given(st.floats(0, 0.9), st.integers(0, 1000))
def test_dropped_max_is_the_maximum_of_some_cells(p, seed):
    maps = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(seed)) - 5
    part = poolings.build({"name": "dropped_max", "p": p})
    torch.manual_seed(seed)
    pooled = part.pool_in_training(maps)
    assert bool((pooled[..., None] == maps.flatten(-2)).any(dim=-1).all())  # one of the cells, never a stray 0
    assert bool((pooled <= maps.amax(dim=(-2, -1))).all())
    assert torch.equal(part.pool(maps), maps.amax(dim=(-2, -1)))


def test_dropped_max_drops_the_best_cell_as_often_as_it_says():
    torch.manual_seed(0)
    maps = torch.arange(20.0).view(1, 1, 4, 5).expand(2000, 1, 4, 5)
    kept = poolings.build({"name": "dropped_max", "p": 0.3}).pool_in_training(maps) == 19
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.04)
    zeros = poolings.build({"name": "dropped_max", "p": 0.3, "zeros": True}).pool_in_training(maps - 30)
    assert float((zeros == 0).float().mean()) > 0.99  # as torch's dropout: a dropped cell beats all below 0


def test_only_training_drops():
    model = localizer("squeezenet1_1", "dropped_max").train()
    images = torch.randn(1, 3, 96, 96)
    torch.manual_seed(0)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
