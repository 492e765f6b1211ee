"""Pictures under their heat: in training as in reports."""

import numpy as np
import pytest
import torch
from PIL import Image

from manyhot import recipe
from manyhot.data.loading import Batch, PictureGroup, Pictures
from manyhot.data.preprocessing import Preprocessing
from manyhot.localization.heat import overlay
from manyhot.localization.heatmaps import heat_maps
from manyhot.localization.overlays import FOUND, class_views, outline, view_name
from manyhot.models.classifier import create_classifier


def test_cold_pixels_stay_and_hot_ones_glow():
    picture = Image.new("RGB", (40, 20), (10, 120, 200))
    heat = np.zeros((10, 20), np.float32)
    heat[:, 10:] = 1
    shown = np.asarray(overlay(picture, heat))
    assert shown.shape == (20, 40, 3)
    assert (shown[:, :15] == (10, 120, 200)).all()
    expected = 0.25 * np.array((10, 120, 200)) + 0.75 * np.array((252, 255, 164))
    assert np.abs(shown[:, 30:] - expected).max() <= 1
    assert np.asarray(picture).reshape(-1, 3).max(axis=0).tolist() == [10, 120, 200]  # the picture itself is left


def test_outlines_lie_on_the_pixels_of_the_box_and_inside_the_picture():
    picture = Image.new("RGB", (40, 30))
    outline(picture, np.array([[5, 6, 25, 20], [-9, -9, 99, 99], [50, 50, 60, 60]]), FOUND)
    shown = np.asarray(picture)
    assert shown[6, 15].tolist() == list(FOUND)
    assert shown[19, 15].tolist() == list(FOUND)
    assert shown[12, 24].tolist() == list(FOUND)
    assert shown[13, 15].tolist() == [0, 0, 0]


def test_names_are_those_of_the_issue_and_of_any_file_system():
    assert view_name(3, 120, 7, 2, "cat") == "ep3_iter120_batch7_image2_cat"
    assert view_name(0, 0, 0, 0, "a b/<c>") == "ep0_iter0_batch0_image0_a-b-c"


def batch_of(rules, labels, sizes):
    rng = np.random.default_rng(0)
    items = []
    for index, (width, height) in enumerate(sizes):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
        items.append((index, [np.asarray(view) for view in rules.views(image)]))
    return Pictures([], np.array(labels, np.int8), rules).collate(items)


@pytest.mark.parametrize("crops", [{"name": "one"}, {"name": "five"}, {"name": "scales", "sizes": [64, 96]}])
@pytest.mark.parametrize("localizer", [None, {"name": "convolutions", "width": 8}])
def test_every_class_of_every_picture_is_shown_once(crops, localizer):
    torch.manual_seed(0)
    section = recipe.Model(backbone="squeezenet1_1", weights="none", localizer=localizer)
    model = create_classifier(section, 3, None).train()
    settings = recipe.Input(size=96, crops=crops)
    rules = Preprocessing.from_recipe(settings, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    batch = batch_of(rules, [[1, 0, 1], [0, -1, 0], [0, 1, 0]], [(120, 100), (120, 100), (100, 130)])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    shown = dict(class_views(model, batch, ("cat", "dog", "a/b"), epoch=2, iteration=11, number=5))
    assert sorted(shown) == [
        "ep2_iter11_batch5_image0_a-b",
        "ep2_iter11_batch5_image0_cat",
        "ep2_iter11_batch5_image2_dog",
    ]
    group = next(group for group in batch.groups if 0 in group.places.tolist())
    assert isinstance(group, PictureGroup)
    assert shown["ep2_iter11_batch5_image0_cat"].size == tuple(group.stacks[0].shape[-2:][::-1])
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_class_that_is_not_seen_stays_dark_and_one_that_is_glows():
    section = recipe.Model(backbone="squeezenet1_1", weights="none", localizer="linear")
    model = create_classifier(section, 2)
    model.scoring[0].weight.data.zero_()
    model.scoring[0].bias.data = torch.tensor([-20.0, 20.0])
    rules = Preprocessing.from_recipe(recipe.Input(size=64), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    batch = batch_of(rules, [[1, 1]], [(64, 64)])
    shown = dict(class_views(model, batch, ("no", "yes"), epoch=0, iteration=0))
    group = batch.groups[0]
    assert isinstance(group, PictureGroup)
    plain = group.stacks[0][0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(shown["ep0_iter0_batch0_image0_no"]), plain)
    assert np.abs(np.asarray(shown["ep0_iter0_batch0_image0_yes"]).astype(int) - plain).mean() > 50
    grad = heat_maps.build({"name": "saliency"})
    assert len(list(class_views(model, batch, ("no", "yes"), epoch=0, iteration=0, heat_map=grad))) == 2


def test_a_batch_without_classes_shows_nothing():
    model = create_classifier(recipe.Model(backbone="squeezenet1_1", weights="none"), 2)
    rules = Preprocessing.from_recipe(recipe.Input(size=64), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    batch = batch_of(rules, [[0, -1]], [(64, 64)])
    assert isinstance(batch, Batch)
    assert list(class_views(model, batch, ("a", "b"), epoch=0, iteration=0)) == []
