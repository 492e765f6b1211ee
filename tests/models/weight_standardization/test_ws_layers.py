"""The standardised convolution beside its definition in NumPy, and in every place where `nn.Conv2d` can stand."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from manyhot.models.weight_standardization import ChannelEpsBatchNorm2d, WeightStandardizedConv2d


def by_hand(weight: np.ndarray, *, subtract_mean: bool, unbiased: bool, eps: float) -> np.ndarray:
    """Filter by filter, with nothing but sums."""
    made = np.empty_like(weight)
    for o, one in enumerate(weight):
        n, mean = one.size, one.sum() / one.size
        squares = ((one - mean) ** 2).sum()
        variance = 0.0 if n == 1 else squares / (n - 1 if unbiased else n)
        made[o] = (one - mean if subtract_mean else one) / math.sqrt(variance + eps)
    return made


@pytest.mark.parametrize("subtract_mean", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kernel", [(3, 2), (1, 1)])
def test_the_weight_is_its_definition(subtract_mean, unbiased, kernel):
    conv = WeightStandardizedConv2d(
        4, 6, kernel, groups=4 // 2, subtract_mean=subtract_mean, unbiased=unbiased, eps=1e-4, dtype=torch.float64
    )
    with torch.no_grad():
        conv.weight[0] = 0
        conv.weight[1] = 0.3
    wanted = by_hand(conv.weight.detach().numpy(), subtract_mean=subtract_mean, unbiased=unbiased, eps=1e-4)
    found = conv.standardized_weight().detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert not found[0].any()
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv2d(x, torch.from_numpy(wanted), conv.bias, groups=2))


def test_gains_multiply_and_shift_each_filter():
    conv = WeightStandardizedConv2d(3, 5, 3, subtract_mean=True, gain=True, mean_gain=True)
    plain = WeightStandardizedConv2d(3, 5, 3, subtract_mean=True)
    plain.load_state_dict(conv.state_dict(), strict=False)
    assert torch.equal(conv.standardized_weight(), plain.standardized_weight())
    with torch.no_grad():
        conv.gain.copy_(torch.arange(5.0))
        conv.mean_gain.copy_(-torch.arange(5.0))
    steps = torch.arange(5.0).view(-1, 1, 1, 1)
    torch.testing.assert_close(conv.standardized_weight(), plain.standardized_weight() * steps - steps)
    conv(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in conv.parameters())


def test_zero_constant_and_single_weights_have_finite_gradients():
    for shape, groups in (((4, 3, 3, 3), 1), ((4, 1, 1, 1), 4)):
        for subtract_mean in (False, True):
            conv = WeightStandardizedConv2d(shape[1] * groups, 4, shape[2], groups=groups, subtract_mean=subtract_mean)
            with torch.no_grad():
                conv.weight[0], conv.weight[1] = 0, 0.7
            conv(torch.randn(2, shape[1] * groups, 6, 6)).square().sum().backward()
            assert conv.weight.grad.isfinite().all()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="goes with subtract_mean"):
        WeightStandardizedConv2d(3, 4, 3, mean_gain=True)
    with pytest.raises(ValueError, match="must not be negative"):
        WeightStandardizedConv2d(3, 4, 3, eps=-1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (2, 0), "valid", "same"]),
    padding_mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_it_takes_every_argument_of_conv2d(kernel, stride, dilation, padding, padding_mode, groups, bias, seed):
    torch.manual_seed(seed)
    arguments = {
        "kernel_size": kernel, "stride": 1 if padding == "same" else stride, "padding": padding, "dilation": dilation,
        "groups": groups, "bias": bias, "padding_mode": padding_mode, "dtype": torch.float64, "device": "cpu",
    }  # fmt: skip
    conv, peer = WeightStandardizedConv2d(4, 8, **arguments), nn.Conv2d(4, 8, **arguments)
    peer.load_state_dict(conv.state_dict())
    with torch.no_grad():
        peer.weight.copy_(conv.standardized_weight())
    x = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    assert torch.equal(conv(x), peer(x))
    assert torch.equal(conv.fold()(x), peer(x))
    assert type(conv.fold()) is nn.Conv2d


def test_a_plain_state_dict_fits_and_comes_back():
    plain, conv = nn.Conv2d(3, 4, 3), WeightStandardizedConv2d(3, 4, 3)
    assert list(conv.state_dict()) == list(plain.state_dict())
    conv.load_state_dict(plain.state_dict())
    buffer = io.BytesIO()
    torch.save(WeightStandardizedConv2d.from_conv(plain, gain=True).state_dict(), buffer)
    buffer.seek(0)
    again = WeightStandardizedConv2d(3, 4, 3, gain=True)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(again(x), plain(x))
    assert "subtract_mean=False, unbiased=True, eps=1e-06, gain=True" in repr(again)


@torch.no_grad()
def test_weights_are_standardised_once_in_eval_mode_and_again_when_they_change(monkeypatch):
    conv = WeightStandardizedConv2d(3, 4, 3, gain=True).eval()
    x = torch.randn(1, 3, 5, 5)
    calls = []
    plain = WeightStandardizedConv2d.standardized_weight
    monkeypatch.setattr(WeightStandardizedConv2d, "standardized_weight", lambda self: calls.append(1) or plain(self))
    for _ in range(3):
        first = conv(x)
    assert len(calls) == 1
    conv.gain.mul_(2)
    torch.testing.assert_close(conv(x) - conv.bias.view(-1, 1, 1), 2 * (first - conv.bias.view(-1, 1, 1)))
    conv.weight = nn.Parameter(torch.randn_like(conv.weight))
    assert torch.equal(conv(x), conv.fold()(x))
    before = len(calls)
    conv.load_state_dict(conv.state_dict())
    conv(x)
    assert len(calls) == before + 1
    conv.weight.data.mul_(0).add_(1)  # not seen by the version counter
    assert torch.equal(conv.eval()(x), conv.fold()(x))
    assert conv.double()(x.double()).dtype == torch.float64
    before = len(calls)
    conv.train()(x.double())
    conv(x.double())
    with torch.enable_grad():
        conv.eval()(x.double())
    assert len(calls) == before + 3
    assert copy.deepcopy(conv)._kept is None
    assert pickle.loads(pickle.dumps(conv))._kept is None  # noqa: S301 - its own
    with torch.inference_mode():
        kept = conv.eval()(x.double())
    assert torch.equal(conv(x.double()), kept)


def test_half_precision_and_autocast():
    plain = nn.Conv2d(8, 8, 3)
    x = torch.randn(2, 8, 9, 9)
    conv = WeightStandardizedConv2d.from_conv(plain)
    wanted = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.1, rtol=0.05)
    half = copy.deepcopy(conv).to(torch.bfloat16)
    assert half.std().dtype == torch.float32
    assert half(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(half(x.bfloat16()).float(), wanted, atol=0.1, rtol=0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_compiles_in_one_graph():
    conv = nn.Sequential(
        WeightStandardizedConv2d(3, 4, 3, gain=True),
        ChannelEpsBatchNorm2d.from_norm(nn.BatchNorm2d(4), torch.full((4,), 1e-4)),
    )
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), copy.deepcopy(conv)(x))
    compiled(x).sum().backward()
    conv.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), conv(x))
        conv[0].weight.mul_(-3)
        torch.testing.assert_close(compiled(x), conv(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_it_is_exported_to_onnx(tmp_path, dynamo):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    conv = nn.Sequential(
        WeightStandardizedConv2d(3, 4, 3, subtract_mean=True, gain=True, mean_gain=True, padding=1),
        ChannelEpsBatchNorm2d.from_norm(nn.BatchNorm2d(4), torch.full((4,), 1e-4)),
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = conv(x)
        torch.onnx.export(conv, (x,), tmp_path / "conv.onnx", dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "conv.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def batch_norm_by_hand(x, norm, eps_C):
    mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    y = (x - mean.view(-1, 1, 1)) / (var + eps_C).sqrt().view(-1, 1, 1)
    return y if norm.weight is None else y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_with_equal_epsilons_is_the_stock_one(affine, momentum):
    torch.manual_seed(0)
    stock = nn.BatchNorm2d(5, eps=1e-2, momentum=momentum, affine=affine, dtype=torch.float64)
    ours = ChannelEpsBatchNorm2d.from_norm(copy.deepcopy(stock), torch.full((5,), 1e-2, dtype=torch.float64))
    for _ in range(3):
        x = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
        twin = x.detach().clone().requires_grad_()
        one, other = stock(x), ours(twin)
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
        one.pow(3).sum().backward()
        other.pow(3).sum().backward()
        torch.testing.assert_close(twin.grad, x.grad, rtol=1e-10, atol=1e-10)
    for name, buffer in stock.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x))


def test_batch_norm_with_an_epsilon_of_each_channel_is_its_definition():
    eps_C = torch.tensor([1e-5, 0.1, 3.0])
    stock = nn.BatchNorm2d(3)
    nn.init.normal_(stock.weight)
    ours = ChannelEpsBatchNorm2d.from_norm(stock, eps_C)
    x = torch.randn(4, 3, 5, 5) * 0.1 + 2
    torch.testing.assert_close(ours(x), batch_norm_by_hand(x, stock, eps_C))
    ours.eval()
    mean, var = stock.running_mean.view(-1, 1, 1), stock.running_var.view(-1, 1, 1)
    wanted = (x - mean) / (var + eps_C.view(-1, 1, 1)).sqrt() * stock.weight.view(-1, 1, 1)
    torch.testing.assert_close(ours(x), wanted)
    assert type(ours.fold()) is nn.BatchNorm2d
    torch.testing.assert_close(ours.fold()(x), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.train()(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="more than 1 value"):
        ours(torch.randn(1, 3, 1, 1))


def test_batch_norm_without_running_statistics_uses_the_batch_in_eval_mode_too():
    stock = nn.BatchNorm2d(3, track_running_stats=False)
    ours = ChannelEpsBatchNorm2d.from_norm(stock, torch.full((3,), stock.eps)).eval()
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours(x), stock.eval()(x))
    assert ours.fold() is ours
