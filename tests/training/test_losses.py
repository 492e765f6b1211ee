"""Losses against slow loops, torch, torchvision and scikit-learn; ignored entries take no part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from manyhot.training.losses import losses

shapes = st.tuples(st.integers(1, 5), st.integers(1, 4))


@st.composite
def batches(draw, labels=(-1, 0, 1)):
    shape = draw(shapes)
    logits = draw(hnp.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32)))
    marks = draw(hnp.arrays(np.int8, shape, elements=st.sampled_from(labels)))
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(marks)


@st.composite
def soft_batches(draw, limit=30, *, known=False):
    """Logits, and targets in 0…1 or -1."""
    shape = draw(shapes)
    logits = draw(hnp.arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32)))
    shares = st.floats(0, 1, width=32)
    targets = draw(hnp.arrays(np.float32, shape, elements=shares if known else shares | st.just(-1.0)))
    return torch.from_numpy(logits).requires_grad_(), torch.from_numpy(targets)


def build(name, **settings):
    return losses.build({"name": name, **settings})


SIGMOID = [
    build("bce"),
    build("bce", reduction="sum", label_smoothing=0.2),
    build("bce", class_weights="balanced"),
    build("focal"),
    build("focal", gamma=0.5, alpha=None, reduction="sum"),
    build("asymmetric"),
    build("asymmetric", gamma_pos=1, gamma_neg=4, margin=0.05),
    build("asymmetric", gamma_neg=0.5, margin=0.3, reduction="sum"),
    build("asymmetric", gamma_neg=0, margin=0.9),
]
TRAIN = np.array([[1, 0, 0, 1], [0, 1, 0, -1], [0, 1, 0, 0]], np.int8)
sigmoid_losses = pytest.mark.parametrize("loss", SIGMOID, ids=str)


def slow_entry(loss, logit: float, target: float, place: int) -> float:
    """The loss of one entry from the formula in its paper, in double precision."""
    p, q = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
    match type(loss).__name__:
        case "BinaryCrossEntropy":
            target = target * (1 - loss.label_smoothing) + loss.label_smoothing / 2
            weight = 1 if loss.positive_weights is None else loss.positive_weights[place].item()
            present, absent = -weight * math.log(p), -math.log(q)
        case "Focal":
            present, absent = -(q**loss.gamma) * math.log(p), -(p**loss.gamma) * math.log(q)
            if loss.alpha is not None:
                present, absent = loss.alpha * present, (1 - loss.alpha) * absent
        case "Asymmetric":
            shifted = max(p - loss.margin, 0)
            present = -(q**loss.gamma_pos) * math.log(p)
            absent = -(shifted**loss.gamma_neg) * math.log(q if not loss.margin else 1 - shifted)
    return target * present + (1 - target) * absent


def slow_loss(loss, logits, targets) -> float:
    entries = [
        slow_entry(loss, logit, target, place)
        for row, marks in zip(logits.tolist(), targets.tolist(), strict=True)
        for place, (logit, target) in enumerate(zip(row, marks, strict=True))
        if target >= 0
    ]
    return sum(entries) / (len(logits) if loss.reduction == "sum" else max(1, len(entries)))


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


@pytest.mark.parametrize("loss", [*SIGMOID, build("cross_entropy")], ids=str)
def test_nothing_known_is_no_loss_and_no_gradient(loss):
    logits = torch.randn(3, 4, requires_grad=True)
    value = loss.fitted(TRAIN).compute(logits, torch.full((3, 4), -1, dtype=torch.int8))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))


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


@sigmoid_losses
@settings(deadline=None, max_examples=60)
@given(soft_batches())
def test_sigmoid_losses_equal_the_formula_of_their_paper(loss, batch):
    logits, targets = batch
    loss = loss.fitted(TRAIN[:, : logits.shape[1]])
    value = loss.compute(logits, targets)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow_loss(loss, logits.detach(), targets), rel=1e-4, abs=1e-5)


@sigmoid_losses
@settings(deadline=None, max_examples=60)
@given(soft_batches(limit=8), st.data())
def test_sigmoid_losses_have_the_gradient_of_their_formula_and_none_where_ignored(loss, batch, data):
    logits, targets = batch
    loss = loss.fitted(TRAIN[:, : logits.shape[1]])
    loss.compute(logits, targets).backward()
    assert (logits.grad[targets < 0] == 0).all()
    row = data.draw(st.integers(0, logits.shape[0] - 1))
    column = data.draw(st.integers(0, logits.shape[1] - 1))
    margin = getattr(loss, "margin", 0)
    assume(not margin or abs(logits[row, column].sigmoid().item() - margin) > 1e-3)  # the kink
    step, around = 1e-6, logits.detach().double()
    values = []
    for sign in (1, -1):
        moved = around.clone()
        moved[row, column] += sign * step
        values.append(slow_loss(loss, moved, targets))
    slope = (values[0] - values[1]) / (2 * step)
    assert logits.grad[row, column].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


@sigmoid_losses
@pytest.mark.parametrize("size", [90.0, 500.0, 1e4, 1e30])
def test_extreme_logits_have_finite_losses_and_gradients(loss, size):
    logits = torch.tensor([[size, size, size, size], [-size, -size, -size, -size]], requires_grad=True)
    value = loss.fitted(TRAIN).compute(logits, torch.tensor([[0.0, 1.0, 0.5, -1.0]] * 2))
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 3] == 0).all()


@sigmoid_losses
@settings(deadline=None, max_examples=30)
@given(batches(), st.randoms(use_true_random=False))
def test_whole_targets_are_the_labels_and_order_does_not_matter(loss, batch, rng):
    logits, labels = batch
    loss = loss.fitted(TRAIN[:, : logits.shape[1]])
    value = loss.compute(logits, labels)
    assert torch.equal(loss.compute(logits, labels.float()), value)
    rows, columns = list(range(len(logits))), list(range(logits.shape[1]))
    rng.shuffle(rows)
    torch.testing.assert_close(loss.compute(logits[rows], labels[rows]), value)
    if loss.positive_weights is None:  # these belong to columns
        rng.shuffle(columns)
        torch.testing.assert_close(loss.compute(logits[:, columns], labels[:, columns]), value)


@sigmoid_losses
@settings(deadline=None, max_examples=30)
@given(batches(labels=(0, 1)), st.floats(0, 1), st.integers(0, 1000))
def test_the_loss_of_mixed_targets_is_the_mixture_of_losses(loss, batch, share, seed):
    logits, labels = batch
    loss = loss.fitted(TRAIN[:, : logits.shape[1]])
    other = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, labels.shape).astype(np.int8))
    mixed = loss.compute(logits, share * labels.double() + (1 - share) * other.double())
    wanted = share * loss.compute(logits, labels) + (1 - share) * loss.compute(logits, other)
    torch.testing.assert_close(mixed, wanted.to(mixed), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [*SIGMOID, build("cross_entropy", label_smoothing=0.1)], ids=str)
def test_losses_are_float32_under_autocast(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator).bfloat16()
    targets = torch.eye(4)[[0, 1, 2, 3, 1, 2]]
    loss = loss.fitted(TRAIN)
    wanted = loss.compute(logits.float(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss.compute(logits, targets)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@settings(deadline=None)
@given(batches(labels=(0, 1)), st.floats(0, 5), st.none() | st.floats(0, 1))
def test_focal_equals_torchvision(batch, gamma, alpha):
    logits, labels = batch
    wanted = sigmoid_focal_loss(
        logits, labels.float(), alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean"
    )
    found = build("focal", gamma=gamma, alpha=alpha).compute(logits, labels)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@settings(deadline=None)
@given(soft_batches(), st.sampled_from(["mean", "sum"]), st.floats(0, 5))
def test_focal_and_asymmetric_contain_bce_and_each_other(batch, reduction, gamma):
    logits, targets = batch
    bce, asymmetric = (build(name, reduction=reduction) for name in ("bce", "asymmetric"))
    values = [loss.compute(logits, targets) for loss in (bce, asymmetric)]
    assert torch.equal(*values)
    assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in values))
    focal = build("focal", gamma=0, alpha=None, reduction=reduction).compute(logits, targets)
    # torch's own bce is x + log(1 + exp(-x)) for a negative, and rounds off up to 5e-7 of an entry where x is -9.
    torch.testing.assert_close(focal, values[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        build("focal", gamma=gamma, alpha=None).compute(logits, targets),
        build("asymmetric", gamma_pos=gamma, gamma_neg=gamma).compute(logits, targets),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_negative_at_the_margin_has_a_gradient_of_zero_and_not_of_no_number():
    logits = torch.zeros(1, 1, requires_grad=True)
    margin = F.logsigmoid(logits).exp().item()  # one half, as rounded on the way
    build("asymmetric", gamma_neg=0.5, margin=margin).compute(logits, torch.zeros(1, 1)).backward()
    assert logits.grad.item() == 0


def test_a_negative_below_the_margin_counts_nothing():
    logits = torch.tensor([[-3.0, -2.0]], requires_grad=True)  # scores .047 and .119
    value = build("asymmetric", margin=0.05).compute(logits, torch.zeros(1, 2, dtype=torch.int8))
    value.backward()
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1] > 0


@settings(deadline=None)
@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.sampled_from([-1, 0, 1])))
def test_balanced_weights_are_those_of_scikit_learn(labels):
    weights = build("bce", class_weights="balanced").fitted(labels).positive_weights
    assert weights.dtype == torch.float32
    for column, weight in zip(labels.T, weights.tolist(), strict=True):
        known = column[column >= 0]
        if len(set(known.tolist())) < 2:
            assert weight == 1
        else:
            of_absent, of_present = compute_class_weight("balanced", classes=np.array([0, 1]), y=known)
            assert weight == pytest.approx(of_present / of_absent)


def test_balanced_positives_and_negatives_weigh_the_same():
    labels = np.array([[1, 0], [0, 1], [0, 1], [0, 1], [-1, 0]], np.int8)
    loss = build("bce", class_weights="balanced").fitted(labels)
    logits = torch.zeros(5, 2, requires_grad=True)  # scores of one half
    loss.compute(logits, torch.from_numpy(labels)).backward()
    torch.testing.assert_close(logits.grad.sum(0), torch.zeros(2))
    assert logits.grad.abs().sum() > 0


def test_fitting_leaves_the_loss_as_it_was():
    labels = np.array([[1], [0], [0]], np.int8)
    for loss in (build("bce"), build("focal"), build("cross_entropy")):
        assert loss.fitted(labels) is loss
    balanced = build("bce", class_weights="balanced")
    assert balanced.fitted(labels).positive_weights.tolist() == [2]
    assert balanced.positive_weights is None
    with pytest.raises(AssertionError, match="fitted"):
        balanced.compute(torch.zeros(3, 1), torch.from_numpy(labels))


@settings(deadline=None)
@given(shapes, st.floats(0, 1), st.floats(0, 0.9), st.integers(0, 1000))
def test_cross_entropy_of_mixed_targets_equals_a_slow_loop(shape, share, smoothing, seed):
    rng = np.random.default_rng(seed)
    n, c = shape
    logits = rng.normal(size=shape).astype(np.float32) * 3
    shares = np.zeros(shape, np.float32)
    for row, (one, other) in enumerate(rng.integers(c, size=(n, 2))):
        shares[row, one] += share
        shares[row, other] += 1 - share
    value = build("cross_entropy", label_smoothing=smoothing).compute(
        torch.from_numpy(logits), torch.from_numpy(shares)
    )
    wanted = 0.0
    for row, target in zip(logits.astype(float), shares.astype(float), strict=True):
        logs = row - math.log(sum(math.exp(x) for x in row))
        wanted -= sum((1 - smoothing) * target * logs) + smoothing * sum(logs) / c
    assert value.item() == pytest.approx(wanted / n, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_picture_whose_shares_are_not_all_known_takes_no_part_in_cross_entropy(smoothing):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[0.3, 0.7, 0], [0.3, -1, 0], [-1, -1, -1], [1, 0, -1]])
    loss = build("cross_entropy", label_smoothing=smoothing)
    value = loss.compute(logits, targets)
    torch.testing.assert_close(value, loss.compute(logits[[0, 3]], targets[[0, 3]]))
    value.backward()
    assert torch.equal(logits.grad[1:3], torch.zeros(2, 3))
    whole = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.int8)
    torch.testing.assert_close(loss.compute(logits, whole.float()), loss.compute(logits, whole))


def test_activations_turn_logits_into_the_probabilities_that_the_loss_means():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(3, dtype=torch.int8)[[0, 2, 1, 1]]
    for name, part in losses:
        plain = {"gamma": 0, "alpha": None} if name == "focal" else {}
        scores = logits.softmax(1) if part.activation == "softmax" else logits.sigmoid()
        log_likelihood = scores.log() * labels
        if part.activation == "sigmoid":
            log_likelihood = log_likelihood + (1 - scores).log() * (1 - labels)
        count = 4 if part.activation == "softmax" else 12
        torch.testing.assert_close(build(name, **plain).compute(logits, labels), -log_likelihood.sum() / count)
