"""Every parameter lands in one group, with the rate and the decay that the recipe gave."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyhot.errors import UserError
from manyhot.training.optimizers import optimizers

OF_TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def network() -> tuple[nn.Sequential, nn.Linear]:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return backbone, nn.Linear(4, 2)


def groups_of(setting):
    backbone, head = network()
    part = optimizers.build(setting)
    return part, part.groups(head.parameters(), backbone.parameters()), backbone, head


def test_every_parameter_is_in_one_group():
    _, groups, backbone, head = groups_of({"name": "sgd"})
    found = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = [id(parameter) for module in (head, backbone) for parameter in module.parameters()]
    assert sorted(found) == sorted(wanted)
    heads = [id(parameter) for group in groups if group["name"] == "head" for parameter in group["params"]]
    assert sorted(heads) == sorted(id(parameter) for parameter in head.parameters())


@pytest.mark.parametrize(
    ("settings", "rates", "decays"),
    [
        ({"lr": 0.1}, (0.1, 0.1), (0.0, 0.0)),
        ({"lr": 0.1, "backbone_lr": 0.01}, (0.1, 0.01), (0.0, 0.0)),
        ({"lr": 0.1, "weight_decay": 0.5}, (0.1, 0.1), (0.5, 0.5)),
        ({"lr": 0.1, "weight_decay": 0.5, "backbone_weight_decay": 0}, (0.1, 0.1), (0.5, 0.0)),
        ({"lr": 0.1, "backbone_weight_decay": 0.2}, (0.1, 0.1), (0.0, 0.2)),
    ],
)
@pytest.mark.parametrize("name", [name for name, _ in optimizers])
def test_rates_and_decays_by_group(name, settings, rates, decays):
    part, groups, _, _ = groups_of({"name": name, **settings})
    for group in part.build(groups).param_groups:
        place = ("head", "backbone").index(group["name"])
        assert group["lr"] == group["peak_lr"] == rates[place]
        flat = {parameter.ndim <= 1 for parameter in group["params"]}
        assert len(flat) == 1
        assert group["weight_decay"] == (0.0 if flat == {True} else decays[place])


def test_a_frozen_backbone_leaves_the_head_alone():
    part = optimizers.build({"name": "adamw"})
    groups = part.groups(network()[1].parameters(), [])
    assert {group["name"] for group in groups} == {"head"}


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ({"name": "sgd", "momentum": 0.5}, {"momentum": 0.5}),
        ({"name": "sgd", "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
        ({"name": "adam", "beta1": 0.8, "beta2": 0.9}, {"betas": (0.8, 0.9)}),
        ({"name": "adamw"}, {"betas": (0.9, 0.999)}),
    ],
)
def test_five_steps_equal_those_of_torch(setting, options):
    mine, theirs = [nn.Sequential(*network()) for _ in range(2)]
    part = optimizers.build({**setting, "lr": 0.01, "weight_decay": 0.1})
    ours = part.build(part.groups(mine[1].parameters(), mine[0].parameters()))
    matrices, vectors = ([p for p in theirs.parameters() if (p.ndim > 1) is flag] for flag in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    oracle = OF_TORCH[setting["name"]](groups, lr=0.01, **options)
    images = torch.randn(5, 4, 3, 8, 8)
    for model, optimizer in ((mine, ours), (theirs, oracle)):
        for batch in images:
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_decay_shrinks_matrices_and_leaves_vectors():
    part, groups, backbone, head = groups_of({"name": "adamw", "lr": 0.1, "weight_decay": 0.5})
    before = [parameter.detach().clone() for parameter in (*backbone.parameters(), *head.parameters())]
    optimizer = part.build(groups)
    for parameter in (*backbone.parameters(), *head.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, (*backbone.parameters(), *head.parameters()), strict=True):
        torch.testing.assert_close(new.detach(), old * (0.95 if old.ndim > 1 else 1.0))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"name": "sgd", "lr": 0}, "lr"),
        ({"name": "sgd", "momentum": 1}, "momentum"),
        ({"name": "sgd", "momentum": 0, "nesterov": True}, "nesterov"),
        ({"name": "adam", "weight_decay": -1}, "weight_decay"),
        ({"name": "adam", "beta2": 1}, "beta2"),
        ({"name": "adamw", "backbone_lr": float("inf")}, "backbone_lr"),
    ],
)
def test_settings_that_torch_would_choke_on_are_refused_by_name(setting, key):
    with pytest.raises(UserError, match=f"optimizer '{setting['name']}': {key}: "):
        optimizers.build(setting)
