"""Schedules against torch's own, step by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

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
