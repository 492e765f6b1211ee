"""The head over several crops, and the classifier in front of it: the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import functional as tv

from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.loading import Pictures
from manyhot.data.preprocessing import Preprocessing
from manyhot.errors import UserError
from manyhot.models.classifier import create_classifier
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.head import Head
from manyhot.recipe import Input, Model, load_recipe

CPU = torch.device("cpu")


def test_five_crops_are_the_formula_of_the_recipe(realistic_pictures, tmp_path):
    """voc-resnet50-fivecrop: scores = sigmoid(max over crops of fc(avgpool(resnet50(crop))))."""
    recipe = load_recipe("voc-resnet50-fivecrop")
    torch.manual_seed(0)
    published = models.resnet50(weights=None)
    published.fc = torch.nn.Linear(2048, 20)
    torch.save(
        {name: value for name, value in published.state_dict().items() if not name.startswith("fc.")},
        tmp_path / "w.pth",
    )
    ours = (
        create_classifier(recipe.model.model_copy(update={"weights": str(tmp_path / "w.pth")}), 20, 5).eval().double()
    )
    ours.head.linear.load_state_dict(published.fc.state_dict())
    published.eval().double()
    rules = Preprocessing.from_recipe(recipe.input, ours.backbone.mean, ours.backbone.std)
    labels = torch.zeros(len(realistic_pictures), 20, dtype=torch.int8).numpy()
    (batch,) = Loader(Pictures(realistic_pictures, labels, rules), EvaluationBatches(len(labels), 8), 0)
    with torch.no_grad():
        scores = batch.logits(lambda stacks, window: ours([x.double() for x in stacks], window), CPU).sigmoid()
        for path, found in zip(realistic_pictures, scores, strict=True):
            with Image.open(path) as image:
                scale = 400 / min(image.size)  # shortest edge 400
                size = [round(side * scale) for side in image.size]
                resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            logits = []
            for crop in tv.five_crop(resized, 224):
                x = tv.normalize(tv.to_tensor(crop), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
                logits.append(published(x[None].double())[0])
            wanted = 1 / (1 + (-torch.stack(logits).max(dim=0).values).exp())
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_crop_poolings_are_their_formulas():
    logits = torch.randn(3, 4, 2, dtype=torch.float64)
    r = 2.5
    lse = torch.zeros(3, 2, dtype=torch.float64)
    for n in range(3):
        for c in range(2):
            lse[n, c] = math.log(sum(math.exp(r * logits[n, i, c]) for i in range(4)) / 4) / r
    wanted = {"max": logits.max(dim=1).values, "mean": logits.mean(dim=1), "lse": lse}
    for name, value in wanted.items():
        part = crop_poolings.build({"name": name, **({"r": r} if name == "lse" else {})})
        torch.testing.assert_close(part.pool(logits), value)
    assert (wanted["mean"] - 1e-12 <= lse).all()
    assert (lse <= wanted["max"] + 1e-12).all()


@pytest.mark.parametrize("pooling", [name for name, _ in crop_poolings])
def test_a_head_of_one_crop_is_the_same_whatever_the_pooling(pooling):
    torch.manual_seed(0)
    head = Head(6, 3, crop_poolings.build({"name": pooling}), feature_norm=True).eval()
    features = torch.randn(5, 6)
    torch.testing.assert_close(head(features), head.linear(head.norm(features)))
    torch.testing.assert_close(head(features[:, None]), head(features))


def test_joined_crops_have_weights_of_their_own():
    torch.manual_seed(0)
    head = Head(6, 3, crop_poolings.build({"name": "concat"}), crops=4).eval()
    features = torch.randn(5, 4, 6)
    assert head.linear.in_features == 24
    wanted = sum(features[:, i] @ head.linear.weight[:, 6 * i : 6 * i + 6].T for i in range(4)) + head.linear.bias
    torch.testing.assert_close(head(features), wanted)


def test_joined_crops_need_a_fixed_number():
    model = Model(backbone="squeezenet1_1", weights="none", crop_pooling="concat")
    with pytest.raises(UserError, match="needs the same number of crops of every picture"):
        create_classifier(model, 2, None)


def test_windows_cover_the_map_and_are_pooled_one_by_one():
    torch.manual_seed(0)
    model = create_classifier(Model(backbone="squeezenet1_1", weights="none", pooling="max"), 2).eval()
    images = torch.rand(2, 3, 150, 200)
    stride = model.backbone.geometry.stride
    with torch.no_grad():
        cells = model.backbone(images)
        found = model.features(images, (round(4 * stride), round(3 * stride)))
        whole = model.features(images)
        assert torch.equal(model.features([images[:, None], images[:, None]]), torch.cat([whole, whole], dim=1))
    assert cells.shape[-2:] == (9, 12)
    rows, columns = [0, 2, 5], [0, 3, 5, 8]  # at most three cells apart, the last at the edge
    wanted = [cells[..., y : y + 4, x : x + 4].amax(dim=(2, 3)) for y in rows for x in columns]
    assert torch.equal(found, torch.stack(wanted, dim=1))
    assert torch.equal(found.amax(dim=1), whole[:, 0])  # nothing of the map is left out
    assert torch.equal(model.features(images, (10_000, 64)), whole)


def test_pictures_of_different_shapes_keep_their_places(tmp_path):
    paths = []
    for i, size in enumerate([(60, 40), (40, 60), (60, 40), (50, 50), (40, 60)]):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", size, (40 * i, 90, 200 - 30 * i)).save(paths[-1])
    torch.manual_seed(0)
    model = create_classifier(Model(backbone="squeezenet1_1", weights="none", crop_pooling="mean"), 3, 2).eval()
    rules = Preprocessing.from_recipe(
        Input(crops={"name": "scales", "sizes": [32, 48]}), model.backbone.mean, model.backbone.std
    )
    pictures = Pictures(paths, torch.zeros(5, 3, dtype=torch.int8).numpy(), rules)
    (batch,) = Loader(pictures, EvaluationBatches(5, 5), 2)
    assert sorted(len(group.places) for group in batch.groups) == [1, 2, 2]
    with torch.no_grad():
        together = batch.logits(model, CPU)
        alone = [one.logits(model, CPU) for one in Loader(pictures, EvaluationBatches(5, 1), 0)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)
