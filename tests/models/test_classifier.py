import copy
import io

import numpy as np
import pytest
import torch

from manyhot.errors import UserError
from manyhot.models.classifier import Classifier, create_classifier
from manyhot.models.pooling import poolings
from manyhot.recipe import Model


def build(n_classes=5, **settings) -> Classifier:
    return create_classifier(Model(backbone="squeezenet1_1", weights="none", **settings), n_classes)


@pytest.mark.parametrize("pooling", [name for name, _ in poolings])
def test_logits_are_the_head_of_the_features(pooling):
    model = build(pooling=pooling, feature_norm=True, dropout=0.5).eval()
    images = torch.rand(3, 3, 64, 80)
    features = model.features(images)
    assert features.shape == (3, 1, 1024 if pooling == "average+max" else 512)
    logits = model(images)
    assert logits.shape == (3, 5)
    assert torch.equal(logits, model.head(features))


def test_pooling_settings_reach_the_model():
    model = build(pooling={"name": "topk", "k": 2}).eval()
    maps = model.backbone(torch.rand(2, 3, 96, 96))
    assert torch.equal(model.pooling.pool(maps), maps.flatten(2).topk(2).values.mean(-1))


def test_the_parameter_groups_are_all_parameters():
    model = build()
    groups = [*model.backbone_parameters(), *model.head_parameters()]
    assert {id(parameter) for parameter in groups} == {id(parameter) for parameter in model.parameters()}
    assert len(groups) == len(list(model.parameters()))


def test_the_head_starts_small_and_without_bias():
    model = build(n_classes=200)
    assert torch.equal(model.head.linear.bias, torch.zeros(200))
    assert float(model.head.linear.weight.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_the_same_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build().state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_features_are_standardised_by_the_batch_and_by_running_statistics():
    model = build(feature_norm=True)
    features = 5 + 3 * torch.randn(64, 512)
    model.head.norm.momentum = 1.0
    normed = model.head.norm(features)
    torch.testing.assert_close(normed.mean(0), torch.zeros(512), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed.std(0, unbiased=False), torch.ones(512), atol=1e-3, rtol=0)
    model.eval()
    expected = (features - features.mean(0)) / (features.var(0) + 1e-5).sqrt()
    torch.testing.assert_close(model.head.norm(features), expected, atol=1e-4, rtol=1e-4)
    assert sum(parameter.numel() for parameter in model.head.norm.parameters()) == 0


def test_a_last_batch_of_one_picture_trains():
    model = build(feature_norm=True).train()
    before = model.head.norm.running_mean.clone()
    assert torch.isfinite(model(torch.rand(1, 3, 64, 64))).all()
    assert torch.equal(model.head.norm.running_mean, before)


def test_a_frozen_backbone_stays_while_the_head_learns():
    model = create_classifier(Model(backbone="resnet18", weights="none", frozen=True), 4)
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"head.linear.weight", "head.linear.bias"}


def test_a_state_dict_makes_the_same_classifier_again():
    first, second = (build(pooling="average+max", feature_norm=True).eval() for _ in range(2))
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second.load_state_dict(torch.load(stream, weights_only=True))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(first(images), second(images))


def test_unknown_parts_are_named():
    with pytest.raises(UserError, match=r"unknown pooling 'maxx' in model.pooling. Did you mean 'max'"):
        build(pooling="maxx")
    with pytest.raises(UserError, match="unknown network"):
        create_classifier(Model(backbone="squeezenet1_9", weights="none"), 2)


@pytest.mark.parametrize("softmax", [False, True])
def test_the_first_scores_are_the_shares_of_the_classes(softmax: bool) -> None:
    torch.manual_seed(0)
    model = create_classifier(Model(backbone="timm/test_resnet", weights="none"), 3).eval()
    labels = np.array([[1, 0, 0]] * 30 + [[0, 1, 0]] * 60 + [[0, 0, 1]] * 8 + [[-1, 0, 0]] * 100, np.int8)
    model.start_at_prior(labels, softmax=softmax)
    logits = model.head(torch.zeros(1, model.head.linear.in_features))
    scores = logits.softmax(1) if softmax else logits.sigmoid()
    known = (labels >= 0).sum(0)
    expected = ((labels == 1).sum(0) + 1) / (known + 2)
    expected = expected / expected.sum() if softmax else expected
    np.testing.assert_allclose(scores[0].detach().numpy(), expected, atol=1e-6)


def test_weighted_positives_raise_the_odds_of_the_first_scores() -> None:
    model = create_classifier(Model(backbone="timm/test_resnet", weights="none"), 2)
    labels = np.array([[1, 0], [0, 1], [0, -1], [0, 1]], np.int8)
    model.start_at_prior(labels, positive_weights=torch.tensor([2.0, 1.0]))
    odds = model.head.linear.bias.detach().exp()
    np.testing.assert_allclose(odds.numpy(), [2 * 2 / 4, 3 / 2], rtol=1e-6)


def test_a_class_without_positives_starts_finite() -> None:
    model = create_classifier(Model(backbone="timm/test_resnet", weights="none"), 2)
    model.start_at_prior(np.array([[0, 1]] * 5, np.int8))
    assert torch.isfinite(model.head.linear.bias).all()
