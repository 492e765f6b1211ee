"""The conversion: every geometry and BatchNorm, planted faults, and what the report says."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from manyhot.errors import UserError
from manyhot.models.weight_standardization import (
    ChannelEpsBatchNorm2d,
    WeightStandardizedConv2d,
    fold_weights,
    output_difference,
    standardizations,
    standardize_weights,
)

ADAPTING = ("alpha", "channel-eps", "var", "naive")


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers everywhere, in float64 and eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(generator=generator)
            if name.endswith("running_var"):
                tensor.data.abs_()
    return model.double().eval()


def modes_of(report) -> dict[str, str]:
    return {row.name: row.mode for row in report.convs}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=1000, deadline=None)
@given(
    mode=st.sampled_from(["alpha", "channel-eps", "gain", "exact-mean"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (2, 0), "valid", "same"]),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    filters=st.lists(st.sampled_from(["zero", "constant", "tiny", "huge", "random"]), min_size=4, max_size=4),
    log_var=st.floats(-14, 3),
    mean=st.floats(-5, 5),
    eps=st.sampled_from([1e-5, 1e-3, 1e-12]),
    ws_eps=st.sampled_from([1e-6, 1e-10, 1e-2]),
    unbiased=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_convolution_and_any_batch_norm(
    mode, kernel, stride, dilation, padding, padding_mode, groups, bias, filters, log_var, mean, eps, ws_eps, unbiased,
    seed,
):  # fmt: skip
    conv = nn.Conv2d(
        4, 4, kernel, 1 if padding == "same" else stride, padding, dilation, groups, bias, padding_mode
    )  # fmt: skip
    model = fill(nn.Sequential(conv, nn.BatchNorm2d(4, eps)), seed)
    norm = model[1]
    with torch.no_grad():
        norm.running_var.mul_(10**log_var)
        norm.running_mean.add_(mean)
        for one, kind in zip(conv.weight, filters, strict=True):
            one.mul_({"zero": 0, "constant": 0, "tiny": 1e-6, "huge": 1e4, "random": 1}[kind])
            if kind == "constant":
                one.fill_(0.37)
    x = torch.randn(3, 4, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    converted, report = standardize_weights(model, {"name": mode, "eps": ws_eps, "unbiased": unbiased}, x)
    assert modes_of(report) == {"0": mode}
    assert report.difference.relative <= 1e-12
    assert output_difference(model, fold_weights(converted), x).relative <= 1e-12
    if mode in ("channel-eps", "gain", "exact-mean"):
        wanted, found = copy.deepcopy(model).train()(x), converted.train()(x)
        # A constant output has a variance of rounding errors alone, which an eps of 1e-12 does not hide.
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 if eps > 1e-12 else 1e-5)


def test_the_modes_change_what_they_say():
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    conv, norm = model
    s = (conv.weight.detach().flatten(1).var(1) + 1e-6).sqrt()
    v, a, eps = norm.running_var, norm.weight.detach(), norm.eps
    wanted = {
        "alpha": (v / s**2, a * ((v + eps * s**2) / (v + eps)).sqrt()),
        "channel-eps": (v / s**2, a),
        "var": ((v + eps) / s**2 - eps, a),
        "naive": (v / s**2, a),
        "gain": (v, a),
        "exact-mean": (v, a),
        "unadapted": (v, a),
    }
    assert set(wanted) == {name for name, _ in standardizations}
    for mode, (variance, weight) in wanted.items():
        converted, report = standardize_weights(model, mode)
        adapted = mode in ADAPTING
        torch.testing.assert_close(converted[1].running_var, variance)
        torch.testing.assert_close(converted[1].weight.detach(), weight)
        torch.testing.assert_close(converted[1].running_mean, norm.running_mean / (s if adapted else 1))
        torch.testing.assert_close(converted[0].bias.detach(), conv.bias.detach() / (s if adapted else 1))
        assert torch.equal(converted[0].weight, conv.weight)
        assert converted[0].subtract_mean is (mode in ("exact-mean", "unadapted"))
        (row,) = report.convs
        assert (row.name, row.mode, row.norm) == ("0", mode, "1" if adapted else None)
        torch.testing.assert_close(torch.tensor(row.std).double(), torch.stack([s.min(), s.median(), s.max()]))
    torch.testing.assert_close(standardize_weights(model, "channel-eps")[0][1].channel_eps, eps / s**2)
    assert standardize_weights(model, "naive")[1].difference.relative > 1e-7
    assert standardize_weights(model, "unadapted")[1].difference.relative > 0.1


class Block(nn.Module):
    """A convolution and a BatchNorm, wired in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        if way == "tied":
            self.bn2.weight = self.bn.weight

    def forward(self, x):
        way = self.way
        y = self.conv(x)
        if way == "two readers":
            return self.bn(y) + self.bn2(y)
        if way == "shared norm":
            return self.bn(y) + self.bn(self.other(x))
        if way == "added elsewhere":
            return self.bn(y) + y
        if way == "called twice":
            return self.bn(y) + self.bn2(self.conv(-x))
        if way == "used in training":
            return self.bn(y) + (y.mean() if self.training else 0)
        if way == "another norm in training":
            return self.bn2(y) if self.training else self.bn(y)
        if way == "numbers used elsewhere":
            return self.bn(y) + self.bn.weight.sum()
        if way == "no graph":
            return self.bn(y) if x.sum() > 0 else self.bn(2 * y)
        if way == "returned":
            return self.bn(y), y
        if way == "an operation between":
            return self.bn(F.relu(y))
        if way == "tied":
            return self.bn(y) + self.bn2(self.other(x))
        if way == "keyword":
            return self.bn(input=y)
        return self.bn(y)


@pytest.mark.parametrize("mode", ["alpha", "channel-eps"])
@pytest.mark.parametrize(
    ("way", "remark"),
    [
        ("two readers", "2 layers read it"),
        ("shared norm", "its BatchNorm reads other layers too"),
        ("added elsewhere", "2 layers read it"),
        ("called twice", "it is called 2 times"),
        ("used in training", "2 layers read it"),
        ("another norm in training", "other readers in training"),
        ("numbers used elsewhere", "used elsewhere too"),
        ("no graph", "cannot be traced"),
        ("returned", "2 layers read it"),
        ("an operation between", "the operation relu reads it"),
        ("tied", "belong to another layer too"),
    ],
)
def test_planted_faults_fall_back_to_gain(way, remark, mode):
    model = fill(Block(way))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    converted, report = standardize_weights(model, mode, x)
    row = report.convs[0]
    assert (row.name, row.mode, row.norm) == ("conv", "gain", None)
    assert remark in row.remark
    assert remark in report.render()
    for training in (False, True):
        one, other = copy.deepcopy(model).train(training), copy.deepcopy(converted).train(training)
        torch.testing.assert_close(other(x), one(x), rtol=1e-9, atol=1e-9)
    assert (report.untraced is not None) == (way == "no graph")
    if way == "no graph":
        assert "TraceError" in report.untraced
        assert "each convolution was standardised by itself" in report.render()


@pytest.mark.parametrize("way", ["plain", "keyword"])
def test_what_is_no_fault_is_adapted(way):
    converted, report = standardize_weights(fill(Block(way)), "alpha")
    assert modes_of(report) == {"conv": "alpha", "other": "gain"}
    assert report.convs[1].remark == "it is not in the traced graph"
    assert report.difference.relative < 1e-12
    assert type(converted.bn) is nn.BatchNorm2d


def test_batch_norms_without_weight_or_statistics():
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    remarks = {"no weight": {"affine": False}, "no running statistics": {"track_running_stats": False}}
    for remark, setting in remarks.items():
        model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **setting)))
        for mode in ("alpha", "var", "channel-eps"):
            _, report = standardize_weights(model, mode, x)
            fallen = mode == "alpha" or (mode == "var" and remark == "no running statistics")
            assert modes_of(report) == {"0": "gain" if fallen else mode}
            assert (remark in report.convs[0].remark) == fallen
            assert report.difference.relative < 1e-12


def test_other_norms_and_hooks_are_left_alone():
    class Halved(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) / 2

    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), Halved(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    model[3].register_forward_hook(lambda module, inputs, output: output + inputs[0].mean())
    _, report = standardize_weights(model, "alpha")
    assert modes_of(report) == {"0": "gain", "2": "gain"}
    assert report.difference.relative < 1e-12
    assert "a Halved reads it" in report.convs[0].remark


def test_convolutions_with_a_forward_of_their_own_stay():
    timm_layers = pytest.importorskip("timm.layers")
    hooked = nn.Conv2d(4, 4, 3)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    model = nn.Sequential(timm_layers.StdConv2d(3, 4, 3), hooked, parametrized, WeightStandardizedConv2d(4, 4, 1))
    converted, report = standardize_weights(model, "gain", torch.randn(1, 3, 12, 12))
    assert [row.mode for row in report.convs] == ["left"] * 4
    assert [row.remark.split()[2] for row in report.convs] == ["a", "hooks", "a", "weight-standardised"]
    assert [type(layer) for layer in converted] == [type(layer) for layer in model]
    assert report.difference.largest == 0
    assert "4 left" in report.summarize()


def test_a_layer_under_two_names_stays_one_layer():
    model = fill(Block("plain"))
    model.again, model.alias = model.bn, nn.ModuleList([model.conv])
    converted, report = standardize_weights(model, "channel-eps")
    assert modes_of(report) == {"conv": "channel-eps", "other": "gain"}
    assert converted.alias[0] is converted.conv
    assert converted.again is converted.bn
    assert report.difference.relative < 1e-12


def test_a_bare_convolution_and_a_network_without_one():
    conv = fill(nn.Conv2d(3, 4, 3))
    converted, report = standardize_weights(conv)
    assert type(converted) is WeightStandardizedConv2d
    assert type(conv) is nn.Conv2d
    assert report.difference.largest == 0
    _, report = standardize_weights(nn.Linear(3, 2))
    assert report.convs == ()
    assert "not checked" in report.render()


def test_inputs_that_cannot_be_guessed(caplog):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x, scale, shift=None):
            y = self.bn(self.conv(x)) * scale
            return {"y": y if shift is None else y + shift, "list": [y]}

    model = fill(Two())
    _, report = standardize_weights(model)
    assert report.difference is None
    assert modes_of(report) == {"conv": "alpha"}
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    assert standardize_weights(model, "alpha", (x, 2.0))[1].difference.relative < 1e-12
    with pytest.raises(TypeError):
        standardize_weights(model, "alpha", x)


def test_unknown_modes_and_settings_are_user_errors():
    with pytest.raises(UserError, match="Did you mean 'alpha'"):
        standardize_weights(nn.Conv2d(3, 4, 3), "alhpa")
    with pytest.raises(UserError, match="unknown key 'epsilon'"):
        standardize_weights(nn.Conv2d(3, 4, 3), {"name": "gain", "epsilon": 1})


def test_training_goes_on_and_frozen_parameters_stay_frozen():
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).requires_grad_(requires_grad=False)
    for mode in ("alpha", "channel-eps", "gain", "exact-mean"):
        converted, _ = standardize_weights(model, mode)
        assert not any(parameter.requires_grad for parameter in converted.parameters())
        assert not any(parameter.requires_grad for parameter in fold_weights(converted).parameters())
        learning = converted.requires_grad_().train()
        optimizer = torch.optim.SGD(learning.parameters(), 0.1)
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (learning(x) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        learning.eval()
        assert output_difference(learning, fold_weights(learning), x).relative < 1e-12


def test_an_activation_inside_a_batch_norm_follows():
    timm_layers = pytest.importorskip("timm.layers")
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), timm_layers.BatchNormAct2d(4)))
    converted, report = standardize_weights(model, "channel-eps")
    assert type(converted[1]) is ChannelEpsBatchNorm2d
    assert list(converted.state_dict()) == [*model.state_dict(), "1.channel_eps"]
    assert report.difference.relative < 1e-12
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    assert converted(x).detach().min() == 0
    assert output_difference(converted, fold_weights(converted), x).relative < 1e-12
