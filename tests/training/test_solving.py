"""The solver's optimum is scikit-learn's; where there is no peer, the gradient there is zero."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from manyhot.errors import UserError
from manyhot.models.head import FeatureNorm
from manyhot.training import solving
from manyhot.training.losses import losses
from manyhot.training.solving import assign_folds, choose_penalty, set_statistics, solve

N, D, C = 120, 6, 3


def make_head(*, norm: bool = True, width: int = D, classes: int = C) -> nn.Sequential:
    torch.manual_seed(0)
    head = nn.Sequential()
    if norm:
        head.add_module("norm", FeatureNorm(width))
    head.add_module("dropout", nn.Dropout(0.5))
    head.add_module("linear", nn.Linear(width, classes))
    return head


def make_data(seed: int = 0, n: int = N, *, ignored: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of different means and sizes, and labels that follow them with much noise."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(n, D))
    labels = (plain @ rng.normal(size=(D, C)) + 2 * rng.normal(size=(n, C)) > 0.7).astype(np.int8)
    labels[rng.random(labels.shape) < ignored] = -1
    features = plain * rng.uniform(0.3, 3, D) + rng.normal(size=D)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def build(name: str = "bce", **settings_):
    return losses.build({"name": name, **settings_})


SUM = build(reduction="sum")


def gradient_at(head, features, labels, loss, penalty) -> float:
    """Largest entry of the objective's gradient in double precision, by another path than the solver's."""
    head = head.double().eval()
    features = features.double()
    objective = loss.compute(head(features), labels) + penalty / 2 * head.linear.weight.square().sum()
    gradients = torch.autograd.grad(objective, list(head.parameters()))
    return max(one.abs().max().item() for one in gradients)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("penalty", [0.003, 0.1])
def test_bce_is_the_logistic_regression_of_scikit_learn(norm, ignored, penalty):
    features, labels = make_data(ignored=ignored)
    head = make_head(norm=norm)
    set_statistics(head, features)
    solution = solve(head, features, labels, SUM, penalty, tolerance=1e-7)
    assert solution.converged
    plain = features.double().numpy()
    if norm:
        plain = (plain - plain.mean(0)) / np.sqrt(plain.var(0) + head.norm.eps)
    for place in range(C):
        known = labels[:, place].numpy() >= 0
        peer = LogisticRegression(C=1 / (penalty * N), tol=1e-10, max_iter=10000, solver="newton-cholesky")
        peer.fit(plain[known], labels[known, place].numpy())
        np.testing.assert_allclose(head.linear.weight[place].detach(), peer.coef_[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(head.linear.bias[place].item(), peer.intercept_[0], rtol=1e-4, atol=1e-5)


def test_softmax_is_the_multinomial_regression_of_scikit_learn():
    features, labels = make_data()
    target = labels.float().add(torch.arange(C) / 10).argmax(1)
    labels = torch.nn.functional.one_hot(target, C).to(torch.int8)
    head = make_head(norm=False)
    assert solve(head, features, labels, build("cross_entropy"), 0.01, tolerance=1e-7).converged
    peer = LogisticRegression(C=1 / (0.01 * N), tol=1e-10, max_iter=10000, solver="newton-cholesky")
    peer.fit(features.double().numpy(), target.numpy())
    np.testing.assert_allclose(head.linear.weight.detach(), peer.coef_, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        scores = head.eval()(features).softmax(1)
    np.testing.assert_allclose(scores, peer.predict_proba(features.double().numpy()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        build(),
        build(label_smoothing=0.2, reduction="sum"),
        build(class_weights="balanced").fitted(make_data()[1].numpy()),
        build("focal"),
        build("asymmetric", gamma_pos=1, gamma_neg=2),
        build("asymmetric", gamma_neg=2, margin=0.05, reduction="sum"),
    ],
    ids=str,
)
def test_the_gradient_at_the_solution_is_zero_and_a_warm_start_finds_the_same(loss):
    features, labels = make_data(ignored=0.1)
    cold = make_head()
    set_statistics(cold, features)
    nn.init.zeros_(cold.linear.weight)
    nn.init.zeros_(cold.linear.bias)
    solution = solve(cold, features, labels, loss, 0.02, tolerance=1e-7)
    assert solution.converged
    assert solution.gradient < 1e-7
    assert gradient_at(cold, features, labels, loss, 0.02) < 1e-6
    warm = make_head()
    set_statistics(warm, features)
    start = solve(warm, features, labels, loss, 0.2).parameters
    again = solve(warm, features, labels, loss, 0.02, start=start, tolerance=1e-7)
    np.testing.assert_allclose(again.parameters, solution.parameters, rtol=1e-3, atol=1e-4)
    at_once = solve(warm, features, labels, loss, 0.02, start=solution.parameters, tolerance=1e-7)
    assert at_once.steps == 0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), penalty=st.floats(1e-3, 10), ignored=st.floats(0, 0.9))
def test_no_step_away_from_the_solution_lowers_the_objective(seed, penalty, ignored):
    features, labels = make_data(seed, n=40, ignored=ignored)
    head = make_head()
    set_statistics(head, features)
    solution = solve(head, features, labels, SUM, penalty)
    head.double().eval()

    def objective() -> float:
        loss = SUM.compute(head(features.double()), labels)
        return (loss + penalty / 2 * head.linear.weight.square().sum()).item()

    lowest = objective()
    assert solution.objective == pytest.approx(lowest, rel=1e-5)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        former = [one.detach().clone() for one in head.parameters()]
        with torch.no_grad():
            for one in head.parameters():
                one.add_(0.1 * torch.randn(one.shape, generator=generator, dtype=torch.float64))
        assert objective() >= lowest - 1e-6
        with torch.no_grad():
            for one, before in zip(head.parameters(), former, strict=True):
                one.copy_(before)


def test_the_head_keeps_its_mode_dtype_statistics_and_frozen_parameters():
    features, labels = make_data()
    head = make_head().train()
    set_statistics(head, features)
    head.linear.bias.requires_grad_(False)
    bias, mean = head.linear.bias.clone(), head.norm.running_mean.clone()
    solution = solve(head, features, labels, SUM, 0.1)
    assert head.training
    assert isinstance(head.norm, FeatureNorm)
    assert head.linear.weight.dtype == torch.float32
    assert head.linear.weight.requires_grad
    assert torch.equal(head.linear.bias, bias)
    assert torch.equal(head.norm.running_mean, mean)
    np.testing.assert_allclose(head.linear.weight.detach().numpy().ravel(), solution.parameters, rtol=1e-6)
    same = make_head()
    same.load_state_dict(head.state_dict())
    kept = solution.parameters.copy()
    nn.init.zeros_(head.linear.weight)
    np.testing.assert_array_equal(solution.parameters, kept)


def test_statistics_are_those_of_scikit_learn_over_pictures_and_crops():
    features = torch.from_numpy(np.random.default_rng(0).normal(100, 3, (7, 4, D)).astype(np.float32))
    head = make_head()
    set_statistics(head, features)
    scaler = StandardScaler().fit(features.double().reshape(-1, D).numpy())
    np.testing.assert_allclose(head.norm.running_mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(head.norm.running_var, scaler.var_, rtol=1e-6)
    set_statistics(make_head(norm=False), features)


class MeanOfCrops(nn.Sequential):
    """Logits of a picture are the mean of those of its crops."""

    def forward(self, features):
        logits = super().forward(features.flatten(0, -2)).unflatten(0, features.shape[:-1])
        return logits.mean(1) if features.ndim == 3 else logits


def test_crops_of_a_linear_head_are_solved_for_as_their_mean():
    rng = np.random.default_rng(0)
    features, labels = make_data()
    crops = features[:, None] + torch.from_numpy(rng.normal(size=(N, 4, D)).astype(np.float32))
    found = []
    for given_ in (crops, crops.mean(1)):
        head = MeanOfCrops()
        head.add_module("norm", FeatureNorm(D))
        head.add_module("linear", nn.Linear(D, C))
        set_statistics(head, crops)
        found.append(solve(head, given_, labels, SUM, 0.05, tolerance=1e-7).parameters)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_a_class_without_known_labels_gets_no_weights():
    features, labels = make_data()
    labels[:, 1] = -1
    head = make_head()
    set_statistics(head, features)
    assert solve(head, features, labels, SUM, 0.1, tolerance=1e-7).converged
    assert head.linear.weight[1].abs().max() < 1e-5
    assert head.linear.weight[0].abs().max() > 1e-2


def test_an_optimum_that_is_not_reached_is_said(monkeypatch, caplog):
    features, labels = make_data()
    monkeypatch.setattr(solving, "_MAX_STEPS", 2)
    solution = solve(make_head(), features, labels, SUM, 0.01)
    assert not solution.converged
    assert "not quite at its optimum" in caplog.text


def test_features_that_are_no_numbers_are_an_error():
    features, labels = make_data()
    features[3, 2] = math.nan
    with pytest.raises(UserError, match="no usable numbers"):
        solve(make_head(), features, labels, SUM, 0.01)


@given(n=st.integers(2, 60), folds=st.integers(2, 12), seed=st.integers(0, 99))
def test_folds_are_of_equal_size_and_follow_the_seed(n, folds, seed):
    fold_n = assign_folds(n, folds, seed)
    sizes = np.bincount(fold_n)
    assert len(sizes) == min(n, folds)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold_n, assign_folds(n, folds, seed))


@pytest.mark.parametrize("norm", [False, True])
def test_cross_validation_is_that_of_a_slow_loop(norm, caplog):
    caplog.set_level(logging.INFO)
    features, labels = make_data(ignored=0.1)
    head = make_head(norm=norm)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    penalties = [0.01, 3.0, 0.1]
    penalty, tried = choose_penalty(head, features, labels, SUM, penalties, folds=4, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert [one.penalty for one in tried] == [3.0, 0.1, 0.01]
    assert penalty == min(tried, key=lambda one: one.loss).penalty
    assert f"{min(tried, key=lambda one: one.loss).loss:.4f}" in caplog.text
    by_map = choose_penalty(head, features, labels, SUM, penalties, folds=4, seed=1, by="map")[0]
    assert by_map == max(tried, key=lambda one: one.map).penalty
    fold_n = assign_folds(N, 4, 1)
    for one in tried:
        scores, entries = np.zeros((N, C)), 0.0
        for fold in range(4):
            inside, outside = fold_n != fold, fold_n == fold
            scaler = StandardScaler(with_mean=norm, with_std=norm).fit(features[inside].double().numpy())
            for place in range(C):
                known = inside & (labels[:, place].numpy() >= 0)
                peer = LogisticRegression(C=1 / (one.penalty * inside.sum()), tol=1e-8, max_iter=10000)
                peer.fit(scaler.transform(features[known].double().numpy()), labels[known, place].numpy())
                shaped = scaler.transform(features[outside].double().numpy())
                scores[outside, place] = peer.decision_function(shaped)
        aps = []
        for place in range(C):
            known = labels[:, place].numpy() >= 0
            truth = labels[known, place].numpy()
            signed = np.where(truth == 1, -1, 1) * scores[known, place]
            entries += np.logaddexp(0, signed).sum()
            aps.append(average_precision_score(truth, scores[known, place]))
        assert one.loss == pytest.approx(entries / N, rel=2e-2)
        assert one.map == pytest.approx(np.mean(aps), abs=5e-3)


def test_where_no_class_has_a_positive_the_loss_decides():
    features, labels = make_data()
    labels = labels.clamp(max=0)
    penalty, tried = choose_penalty(make_head(), features, labels, SUM, [1.0, 0.1], folds=3, by="map")
    assert all(math.isnan(one.map) for one in tried)
    assert penalty == min(tried, key=lambda one: one.loss).penalty


def test_rows_of_one_picture_share_a_fold():
    features, labels = make_data()
    twice, labels_twice = torch.cat([features, features]), torch.cat([labels, labels])
    names = np.random.default_rng(0).permutation(5 * N)[:N]  # in the order of the names, folds are those of N pictures
    order = names.argsort()
    once = choose_penalty(make_head(), features[order], labels[order], SUM, [0.1, 0.01])
    both = choose_penalty(make_head(), twice, labels_twice, SUM, [0.1, 0.01], pictures=np.tile(names, 2))
    for one, other in zip(once[1], both[1], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-2)
    leaking = choose_penalty(make_head(), twice, labels_twice, SUM, [0.1, 0.01])
    assert leaking[1][1].loss < both[1][1].loss - 0.02
