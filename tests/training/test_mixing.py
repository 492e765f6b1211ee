"""Mixup and cutmix for many-hot labels: slow loops, properties, and a run that is stopped and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import manyhot
from manyhot.atomic import sha256_file
from manyhot.errors import Interrupted, UserError
from manyhot.recipe import load_recipe
from manyhot.runs import Run
from manyhot.training.mixing import mix_labels, mixes
from manyhot.training.tracking import Tracker
from manyhot.training.train import train

NAMES = [name for name, _ in mixes]
SEEDS = st.integers(0, 2**31)


def build(name, **settings):
    return mixes.build({"name": name, **settings})


@st.composite
def labels(draw, n=None, values=(-1, 0, 1)):
    shape = (n or draw(st.integers(1, 6)), draw(st.integers(1, 4)))
    return torch.from_numpy(draw(hnp.arrays(np.int8, shape, elements=st.sampled_from(values))))


def flat(n, height, width):
    """Pictures of one colour each: picture i is all i, so that a mixture shows what it is made of."""
    return torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 3, height, width).contiguous()


@settings(deadline=None)
@given(st.data(), labels(), st.floats(0.01, 0.99))
def test_mixed_labels_equal_a_slow_loop(data, own, share):
    other = own[torch.tensor(data.draw(st.permutations(range(len(own)))))]
    mixed = mix_labels(own, other, share)
    assert mixed.dtype == torch.float32
    for row in range(own.shape[0]):
        for column in range(own.shape[1]):
            a, b, found = own[row, column].item(), other[row, column].item(), mixed[row, column].item()
            if a < 0 or b < 0:
                assert found == -1
            elif a == b:
                assert found == a  # exactly: what both show is not less present in the mixture
            else:
                assert found == pytest.approx(share * a + (1 - share) * b, abs=1e-6)


@given(labels())
def test_a_picture_without_a_share_has_no_say(own):
    other = own.flip(0)
    assert mix_labels(own, other, 1.0) is own
    assert mix_labels(own, other, 0.0) is other


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(SEEDS, labels(values=(0, 1)), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.2, 1.0, 5.0]))
def test_targets_are_mixed_as_the_pixels_are(name, seed, marks, height, width, alpha):
    """The mean over the pixels of a picture's own labels is its target, whatever the way of mixing."""
    n = len(marks)
    images, targets = build(name, alpha=alpha).apply(flat(n, height, width), marks, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    rng.random()
    partner = rng.permutation(n)
    for i, j in enumerate(partner.tolist()):
        share_of_other = 0.0 if i == j else ((images[i] - i) / (j - i)).mean().item()
        wanted = marks[i].float() * (1 - share_of_other) + marks[j].float() * share_of_other
        torch.testing.assert_close(targets[i].float(), wanted, rtol=0, atol=1e-5)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 12))
def test_cutmix_pastes_one_rectangle_from_the_same_place(seed, height, width):
    images = torch.arange(2.0 * 3 * height * width).view(2, 3, height, width)
    mixed, _ = build("cutmix").apply(images, torch.zeros(2, 1, dtype=torch.int8), np.random.default_rng(seed))
    for own, found, other in zip(images, mixed, images.flip(0), strict=True):
        pasted = (found != own).any(0)
        assert torch.equal(found, torch.where(pasted, other, own))
        rows, columns = pasted.any(1).nonzero().flatten().tolist(), pasted.any(0).nonzero().flatten().tolist()
        if rows:
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert pasted.sum() == (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])


def test_shares_follow_the_distribution_of_the_papers():
    """Mixup: Beta(alpha, alpha). CutMix: at most the area 1 - share is pasted, and all of it away from the edges."""
    rng = np.random.default_rng(0)
    own, other = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    shares = np.array([build("mixup", alpha=0.4).blend(own, other, rng)[1] for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)
    seed = np.random.default_rng(1)
    for _ in range(300):
        state = int(seed.integers(2**31))
        drawn = np.random.default_rng(state).beta(1, 1)
        mixed, share = build("cutmix").blend(own, other, np.random.default_rng(state))
        assert share >= drawn - 1e-9
        assert mixed.mean().item() == pytest.approx(1 - share, abs=1e-6)
        pasted = mixed[0, 0].bool()
        if not (pasted[0] | pasted[-1] | pasted[:, 0] | pasted[:, -1]).any():
            side = int(64 * np.sqrt(1 - drawn))
            assert pasted.sum() == side * side


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(SEEDS, labels(), st.data())
def test_mixing_is_a_function_of_the_generator_and_treats_classes_alike(name, seed, marks, data):
    images, kept = flat(len(marks), 5, 4), marks.clone()
    first = build(name).apply(images, marks, np.random.default_rng(seed))
    order = data.draw(st.permutations(range(marks.shape[1])))
    second = build(name).apply(images, marks[:, order], np.random.default_rng(seed))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1][:, order], second[1])
    assert torch.equal(images, flat(len(marks), 5, 4))  # what was given is as it was
    assert torch.equal(marks, kept)


@pytest.mark.parametrize("name", NAMES)
def test_p_is_the_share_of_batches_that_are_mixed(name):
    images, marks = flat(4, 8, 8), torch.eye(4, dtype=torch.int8)
    rng = np.random.default_rng(0)
    untouched = 0
    for _ in range(400):
        mixed, targets = build(name, p=0.25, alpha=50).apply(images, marks, rng)
        untouched += mixed is images and targets is marks
    assert untouched == pytest.approx(300, abs=30)
    mixed, targets = build(name, p=0).apply(images, marks, rng)
    assert mixed is images
    assert targets is marks


@pytest.mark.parametrize("name", NAMES)
def test_a_single_picture_is_mixed_with_itself(name):
    images, marks = torch.randn(1, 3, 8, 8), torch.tensor([[1, 0, -1]], dtype=torch.int8)
    mixed, targets = build(name).apply(images, marks, np.random.default_rng(3))
    assert torch.equal(mixed, images)
    assert torch.equal(targets.float(), marks.float())


@pytest.mark.parametrize(
    ("mix", "loss"),
    [
        ("mixup", "{name: bce, class_weights: balanced, label_smoothing: 0.1}"),
        ("{name: cutmix, p: 0.5}", "{name: asymmetric, gamma_neg: 1, margin: 0.05}"),
    ],
)
def test_a_mixed_run_that_is_stopped_and_resumed_is_the_same_to_the_bit(
    tiny_table: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str, loss: str
) -> None:
    manifest = manyhot.open_source(str(tiny_table))
    changes = ["training.epochs=2", "training.checkpoint_steps=null", f"training.mix={mix}", f"loss={loss}"]
    recipe = load_recipe(str(tiny_recipe), changes)
    whole = train(recipe, manifest, tmp_path / "whole")
    plain = train(load_recipe(str(tiny_recipe), [*changes[:2], f"loss={loss}"]), manifest, tmp_path / "plain")

    logged = Tracker.step

    def log_and_stop(self: Tracker, step: int, value: float) -> None:
        logged(self, step, value)
        if step == 9:  # in the second epoch
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Tracker, "step", log_and_stop)
    with pytest.raises(Interrupted):
        train(recipe, manifest, tmp_path / "stopped")
    monkeypatch.undo()
    stopped = train(recipe, manifest, tmp_path / "stopped", resume=True)

    weights = [sha256_file(run.path / "model" / "weights.safetensors") for run in (whole, stopped, plain)]
    assert weights[0] == weights[1] != weights[2]
    histories = [Run(run.path).read_history() for run in (whole, stopped)]
    assert [line["train_loss"] for line in histories[0]] == [line["train_loss"] for line in histories[1]]
    best = histories[0][manyhot.load(whole.path).bundle.config.epoch - 1]
    assert manyhot.evaluate(whole.path).metrics["loss"] == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_softmax_trains_on_mixed_pictures_of_one_class_each(
    name: str, tiny_table: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    manifest = manyhot.open_source(str(tiny_table))
    recipe = load_recipe(str(tiny_recipe), ["training.epochs=1", f"training.mix={name}", "loss=cross_entropy"])
    with pytest.raises(UserError, match="pictures to train on have several classes") as refused:
        train(recipe, manifest, tmp_path / "run")
    assert "loss=bce" in str(refused.value)
    assert not (tmp_path / "run").exists()
    single = manifest.rows([row.tolist().count(1) <= 1 for row in manifest.labels])
    run = train(recipe, single, tmp_path / "run")
    assert run.read_history()[0]["train_loss"] > 0
