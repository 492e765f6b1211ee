"""The search for a learning rate: an exponential sweep of real training steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyhot import load_recipe, open_source
from manyhot.errors import UserError
from manyhot.training.finder import DIVERGED, SMOOTHING, RateSearch, find_lr, summarize
from manyhot.training.loop import train_step
from manyhot.training.setup import assign_splits, build_parts, make_session
from manyhot.training.state import State


def test_rates_rise_by_equal_ratios_and_the_loss_is_that_of_training(tiny_recipe, tiny_table):
    """The same steps by hand, each at its own constant rate."""
    recipe, manifest = load_recipe(str(tiny_recipe), ["training.freeze_epochs=0"]), open_source(str(tiny_table))
    found = find_lr(recipe, manifest, lowest=1e-5, highest=1e-2, steps=16)
    assert not found.diverged
    np.testing.assert_allclose(found.rates, np.geomspace(1e-5, 1e-2, 16))
    parts = build_parts(recipe.model_copy(update={"schedule": {"name": "constant"}}))
    session = make_session(recipe, parts, assign_splits(manifest, recipe))
    session.trained.train()
    loader, _ = session.loaders(lambda: None)
    state, losses = State(), []
    for epoch in range(3):
        session.batches.start(epoch, skip=0)
        for batch in loader:
            if len(losses) == 16:
                break
            for group in session.optimizer.param_groups:  # the backbone's share of the head's rate is kept
                group["peak_lr"] = found.rates[len(losses)] * (1 if group["name"] == "head" else 2 / 3)
            losses.append(train_step(session, state, batch))
            state.add_step(losses[-1], len(batch.indices), 0.0)
    assert list(found.losses) == losses
    weights = np.array([SMOOTHING**k for k in range(16)])
    for s in range(16):
        assert found.smooth[s] == pytest.approx(np.average(losses[: s + 1][::-1], weights=weights[: s + 1]), rel=1e-6)


def test_the_sweep_ends_where_the_loss_runs_away(tiny_recipe, tiny_table):
    changes = ["optimizer={name: sgd, lr: 0.1}", "training.grad_clip=null", "model.feature_norm=false"]
    recipe = load_recipe(str(tiny_recipe), changes)
    found = find_lr(recipe, open_source(str(tiny_table)), lowest=1e-3, highest=1e9, steps=60)
    assert found.diverged
    assert len(found.losses) < 60
    assert np.isfinite(found.losses).all()
    assert all(smooth <= DIVERGED * min(found.smooth[: i + 1]) for i, smooth in enumerate(found.smooth[:-1]))
    assert "ran away" in summarize(found)


def test_nothing_is_written_and_it_can_be_repeated(tiny_recipe, tiny_table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe, manifest = load_recipe(str(tiny_recipe)), open_source(str(tiny_table))
    first = find_lr(recipe, manifest, steps=10)
    torch.manual_seed(1)
    assert find_lr(recipe, manifest, steps=10) == first
    assert list(tmp_path.iterdir()) == []


def test_a_suggestion_is_a_tenth_of_the_rate_at_the_lowest_loss():
    found = RateSearch((1e-3, 1e-2, 1e-1, 1.0), (1, 0.5, 0.2, 9), (1, 0.7, 0.4, 2), diverged=True)
    assert found.lowest == 0.1
    assert found.suggestion == pytest.approx(0.01)
    assert "optimizer.lr=1.0e-02" in summarize(found)
    flat = RateSearch((1e-3, 1e-2), (1, 1), (1, 0.995), diverged=False)
    assert flat.suggestion is None
    assert "no rate lowered the loss" in summarize(flat)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ({"lowest": 0.0}, [], "a sweep goes from a rate above 0"),
        ({"lowest": 1.0, "highest": 0.1}, [], "a sweep goes from a rate above 0"),
        ({"steps": 9}, [], "in 10 steps or more"),
        (
            {},
            ["training.solver=lbfgs", "model.frozen=true", "input.augment=[]", "training.ema=null", "model.dropout=0"],
            "training.solver needs no learning rate",
        ),
        ({"lowest": 1e30, "highest": 1e36}, ["optimizer={name: sgd}", "training.grad_clip=null"], "at the lowest rate"),
    ],
)
def test_what_cannot_be_swept_is_refused(tiny_recipe, tiny_table, arguments, changes, message):
    recipe = load_recipe(str(tiny_recipe), changes)
    with pytest.raises(UserError, match=message):
        find_lr(recipe, open_source(str(tiny_table)), **arguments)


def test_a_head_on_stored_features_is_swept_too(tiny_recipe, tiny_table):
    changes = ["model.frozen=true", "input.augment=[]", "training.freeze_epochs=0"]
    found = find_lr(load_recipe(str(tiny_recipe), changes), open_source(str(tiny_table)), steps=20)
    assert len(found.losses) == 20 or found.diverged
