"""Losses against a slow loop and against torch; ignored labels take no part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyhot.training.losses import losses

shapes = st.tuples(st.integers(1, 5), st.integers(1, 4))


@st.composite
def batches(draw, labels=(-1, 0, 1)):
    shape = draw(shapes)
    logits = draw(hnp.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32)))
    marks = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from(labels)))
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(marks)


def build(name, **settings):
    return losses.build({"name": name, **settings})


def slow_entries(logits, labels) -> list[float]:
    """-log of the probability given to the known labels, one by one, in double precision."""
    found = []
    for row, marks in zip(logits.tolist(), labels.tolist(), strict=True):
        for logit, mark in zip(row, marks, strict=True):
            if mark >= 0:
                signed = logit if mark == 1 else -logit
                found.append(math.log1p(math.exp(-signed)) if signed > 0 else -signed + math.log1p(math.exp(signed)))
    return found


@settings(deadline=None)
@given(batches())
def test_bce_equals_a_slow_loop(batch):
    logits, labels = batch
    entries = slow_entries(logits, labels)
    mean = build("bce").compute(logits, labels)
    total = build("bce", reduction="sum").compute(logits, labels)
    assert mean.shape == total.shape == ()
    assert mean.item() == pytest.approx(sum(entries) / max(1, len(entries)), rel=1e-4, abs=1e-6)
    assert total.item() == pytest.approx(sum(entries) / len(logits), rel=1e-4, abs=1e-6)


@settings(deadline=None)
@given(batches(), st.sampled_from(["mean", "sum"]))
def test_bce_gradient_is_that_of_its_formula_and_zero_where_ignored(batch, reduction):
    logits, labels = batch
    build("bce", reduction=reduction).compute(logits, labels).backward()
    known = labels >= 0
    count = len(logits) if reduction == "sum" else max(1, int(known.sum()))
    wanted = torch.where(known, logits.detach().sigmoid() - labels, torch.zeros(())) / count
    torch.testing.assert_close(logits.grad, wanted, rtol=1e-4, atol=1e-6)
    assert (logits.grad[~known] == 0).all()


@settings(deadline=None)
@given(batches(labels=(0, 1)))
def test_bce_without_ignored_labels_equals_torch(batch):
    logits, labels = batch
    wanted = F.binary_cross_entropy_with_logits(logits, labels.float())
    torch.testing.assert_close(build("bce").compute(logits, labels), wanted)
    total = build("bce", reduction="sum").compute(logits, labels)
    torch.testing.assert_close(total, wanted * labels.shape[1])


def test_what_an_ignored_logit_says_does_not_matter():
    labels = torch.tensor([[1, -1], [0, -1]], dtype=torch.int8)
    found = [build("bce").compute(torch.tensor([[0.3, x], [0.1, -x]]), labels) for x in (0.0, 5.0, 1e4)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("loss", [build("bce"), build("bce", reduction="sum"), build("cross_entropy")], ids=str)
def test_nothing_known_is_no_loss_and_no_gradient(loss):
    logits = torch.randn(3, 2, requires_grad=True)
    value = loss.compute(logits, torch.full((3, 2), -1, dtype=torch.int8))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 2))


@pytest.mark.parametrize("logit", [-500.0, 500.0])
def test_sure_and_wrong_is_a_large_number_and_no_infinity(logit):
    logits = torch.full((1, 1), logit, requires_grad=True)
    value = build("bce").compute(logits, torch.tensor([[0 if logit > 0 else 1]], dtype=torch.int8))
    value.backward()
    assert value.item() == 500
    assert abs(logits.grad.item()) == 1


def test_half_precision_logits_are_summed_in_full():
    logits = torch.full((64, 64), 3.0, dtype=torch.float16)
    value = build("bce", reduction="sum").compute(logits, torch.zeros(64, 64, dtype=torch.int8))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(64 * math.log1p(math.exp(3)), rel=1e-5)


@settings(deadline=None)
@given(shapes, st.floats(0, 0.9), st.integers(0, 1000))
def test_cross_entropy_equals_a_slow_loop_and_torch(shape, smoothing, seed):
    rng = np.random.default_rng(seed)
    n, c = shape
    logits, targets = rng.normal(size=shape) * 3, rng.integers(c, size=n)
    labels = torch.from_numpy(np.eye(c, dtype=np.int8)[targets])
    value = build("cross_entropy", label_smoothing=smoothing).compute(torch.from_numpy(logits), labels).item()
    entries = []
    for row, target in zip(logits, targets, strict=True):
        logs = row - math.log(sum(math.exp(x) for x in row))
        entries.append(-(1 - smoothing) * logs[target] - smoothing * sum(logs) / c)
    assert value == pytest.approx(sum(entries) / n, rel=1e-5, abs=1e-6)
    torch_says = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets), label_smoothing=smoothing)
    assert value == pytest.approx(torch_says.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_picture_of_no_known_class_takes_no_part_in_cross_entropy(smoothing):
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[0, 1, 0, 0], [-1, -1, -1, -1], [0, -1, 0, 1]], dtype=torch.int8)
    loss = build("cross_entropy", label_smoothing=smoothing)
    value = loss.compute(logits, labels)
    torch.testing.assert_close(value, loss.compute(logits[[0, 2]], labels[[0, 2]]))
    value.backward()
    assert torch.equal(logits.grad[1], torch.zeros(4))
    assert (logits.grad[[0, 2]] != 0).all()


def test_activations_turn_logits_into_the_probabilities_that_the_loss_means():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(3, dtype=torch.int8)[[0, 2, 1, 1]]
    for name, part in losses:
        scores = logits.softmax(1) if part.activation == "softmax" else logits.sigmoid()
        log_likelihood = scores.log() * labels
        if part.activation == "sigmoid":
            log_likelihood = log_likelihood + (1 - scores).log() * (1 - labels)
        count = 4 if part.activation == "softmax" else 12
        torch.testing.assert_close(build(name).compute(logits, labels), -log_likelihood.sum() / count)
