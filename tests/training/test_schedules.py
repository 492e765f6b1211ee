"""Schedules against torch's own, step by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from manyhot.errors import UserError
from manyhot.training.schedules import schedules

NAMES = [name for name, _ in schedules]
per_epoch, many_epochs = st.integers(1, 30), st.integers(1, 12)


def build(name, **settings):
    return schedules.build({"name": name, **settings})


def factors(schedule, steps_per_epoch: int, epochs: int) -> list[float]:
    return [schedule.factor(step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


def rates_of_torch(make, count: int, peak: float = 1.0) -> list[float]:
    """The rate of each step under one of torch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < count:
            scheduler.step()
    return rates


@settings(deadline=None, max_examples=30)
@given(per_epoch, many_epochs, st.integers(1, 5), st.floats(0.05, 1))
def test_step_equals_torch(steps, epochs, every, gamma):
    found = factors(build("step", epochs=every, gamma=gamma), steps, epochs)
    wanted = rates_of_torch(lambda optimizer: lr_scheduler.StepLR(optimizer, every * steps, gamma), steps * epochs)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(per_epoch, many_epochs, st.floats(0, 1))
def test_cosine_equals_torch(steps, epochs, final):
    total = steps * epochs
    found = factors(build("cosine", final=final), steps, epochs)
    wanted = rates_of_torch(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=final), total)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(2, 12), st.floats(0.05, 0.9), st.floats(0.01, 1), st.floats(1e-6, 1))
def test_one_cycle_equals_torch(steps, epochs, rise, start, final):
    total = steps * epochs
    found = factors(build("one_cycle", rise=rise, start=start, final=final * start), steps, epochs)

    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=1.0,
            total_steps=total,
            # torch's peak lies at step share * total - 1, ours at rise * (total - 1)
            pct_start=(rise * (total - 1) + 1) / total,
            div_factor=1 / start,
            final_div_factor=1 / final,
            cycle_momentum=False,
        )

    assert found == pytest.approx(rates_of_torch(make, total), rel=1e-6, abs=1e-9)


def test_one_cycle_by_default_starts_and_ends_as_torch_does_by_default():
    found = factors(build("one_cycle"), 10, 10)
    wanted = rates_of_torch(
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=100, cycle_momentum=False), 100
    )
    assert (found[0], found[-1]) == pytest.approx((wanted[0], wanted[-1]))
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) < 0.05


def test_constant_is_one():
    assert set(factors(build("constant"), 7, 3)) == {1.0}


@settings(deadline=None)
@given(st.sampled_from(NAMES), per_epoch, many_epochs, st.floats(0, 15))
def test_a_factor_is_never_above_the_peak_nor_below_zero(name, steps, epochs, warmup):
    found = factors(build(name, warmup_epochs=warmup), steps, epochs)
    assert all(0 <= factor <= 1 + 1e-12 for factor in found)


@settings(deadline=None)
@given(st.sampled_from(NAMES), per_epoch, many_epochs, st.floats(0, 15))
def test_warm_up_grows_in_equal_steps_to_the_schedule_proper(name, steps, epochs, warmup):
    found = factors(build(name, warmup_epochs=warmup), steps, epochs)
    count = round(warmup * steps)
    rising = found[:count]
    assert all(factor > 0 for factor in rising)
    assert rising == pytest.approx([(step + 1) / (count + 1) for step in range(len(rising))])
    if name != "one_cycle" and count < len(found):
        assert found[count] == 1.0  # the peak, one more equal step up


@settings(deadline=None)
@given(st.sampled_from(NAMES), per_epoch, st.integers(2, 12))
def test_after_warm_up_the_schedule_runs_its_whole_course(name, steps, epochs):
    warm = factors(build(name, warmup_epochs=1), steps, epochs)[steps:]
    assert warm == pytest.approx(factors(build(name), steps, epochs - 1), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(per_epoch, many_epochs, st.sets(st.integers(1, 12), min_size=1), st.floats(0.05, 1))
def test_multi_step_equals_torch(steps, epochs, milestones, gamma):
    ordered = sorted(milestones)
    found = factors(build("multi_step", milestones=ordered, gamma=gamma), steps, epochs)
    at = [epoch * steps for epoch in ordered]
    wanted = rates_of_torch(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, at, gamma), steps * epochs)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(per_epoch, many_epochs, st.integers(1, 5), st.floats(0, 1))
def test_cosine_with_restarts_equals_torch(steps, epochs, every, final):
    found = factors(build("cosine_cycles", epochs=every, final=final), steps, epochs)

    def make(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, every * steps, eta_min=final)

    assert found == pytest.approx(rates_of_torch(make, steps * epochs), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(per_epoch, many_epochs, st.integers(1, 5), st.floats(0, 1))
def test_cosine_there_and_back_equals_torch(steps, epochs, every, final):
    found = factors(build("cosine_cycles", epochs=every, final=final, restart=False), steps, epochs)

    def make(optimizer):
        return lr_scheduler.CosineAnnealingLR(optimizer, every * steps, eta_min=final)

    assert found == pytest.approx(rates_of_torch(make, steps * epochs), rel=1e-5, abs=1e-6)


def test_the_schedule_of_twenty_layers_equals_torchs_with_its_later_minimum():
    """Adam .001, T_max 5, eta_min 1e-5, and 1e-7 after epoch 50: by epoch, as its authors stepped it."""
    schedule = build("cosine_cycles", epochs=5, final=1e-2, restart=False, later_from=50, later_final=1e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 5, eta_min=1e-5)
    for epoch in range(80):
        if epoch == 50:
            scheduler.eta_min = 1e-7
        assert 1e-3 * schedule.factor(epoch, 1, 80) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        scheduler.step()
    assert 1e-3 * schedule.factor(45, 1, 80) == pytest.approx(1e-5)
    assert 1e-3 * schedule.factor(55, 1, 80) == pytest.approx(1e-7)


values_by_epoch = st.lists(st.floats(0.01, 1) | st.sampled_from([0.5, 0.25]) | st.none(), max_size=30)


@settings(deadline=None, max_examples=100)
@given(
    values_by_epoch,
    st.sampled_from(["val_map", "val_top1", "val_loss"]),
    st.floats(0.1, 0.9),
    st.integers(0, 4),
    st.sampled_from([0.0, 1e-4, 0.1]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.2]),
)
def test_plateau_equals_torch_after_every_epoch(values, metric, gamma, patience, threshold, cooldown, final):
    schedule = build(
        "plateau", metric=metric, gamma=gamma, patience=patience, threshold=threshold, cooldown=cooldown, final=final
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    mode = "min" if metric == "val_loss" else "max"
    torchs = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, gamma, patience, threshold=threshold, cooldown=cooldown, min_lr=final, eps=0
    )
    history: list[dict[str, float | None]] = []
    for epoch, value in enumerate(values):
        assert schedule.factor(3 * epoch + 1, 3, 30, history) == pytest.approx(optimizer.param_groups[0]["lr"])
        history.append({metric: value})
        torchs.step(float("nan") if value is None else value)
    assert schedule.factor(3 * len(values), 3, 31, history) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_leaves_out_the_epochs_of_warm_up():
    schedule = build("plateau", metric="val_loss", patience=0, gamma=0.5, warmup_epochs=1.5)
    history = [{"val_loss": loss} for loss in (1, 2, 3, 3)]
    factors_of = [schedule.factor(10 * len(history[:n]), 10, 9, history[:n]) for n in range(5)]
    assert factors_of[2:] == [1.0, 1.0, 0.5]  # epochs 3 and 4 count: the second of them is no better
    assert schedule.watches == "val_loss"
    assert build("cosine").watches is None


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("multi_step", {"milestones": [3, 3]}, "each milestone comes after the one before"),
        ("multi_step", {"milestones": []}, "milestones"),
        ("multi_step", {"milestones": [0, 3]}, "milestones"),
        ("cosine_cycles", {"later_from": 5}, "later_from and later_final go together"),
        ("cosine_cycles", {"later_final": 0.5}, "later_from and later_final go together"),
        ("plateau", {"metric": "map"}, "metric"),
        ("plateau", {"gamma": 1}, "gamma"),
    ],
)
def test_settings_without_a_meaning_are_refused(name, wrong, message):
    with pytest.raises(UserError, match=message):
        build(name, **wrong)
