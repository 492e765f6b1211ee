"""Learning-rate schedules as functions of the step: nothing to save, nothing to resume wrongly."""

from __future__ import annotations

import math

from pydantic import Field

from manyhot.registry import Part, Registry


class Schedule(Part):
    """A factor on every group's peak learning rate."""

    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear growth from zero, before the schedule proper")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The factor at optimizer step `step`, counted from 0."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.after_warmup(step - warmup, max(1, epochs * steps_per_epoch - warmup), steps_per_epoch)

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:
        """The factor at step `step` of `total`."""
        raise NotImplementedError


schedules: Registry[Schedule] = Registry("schedule", "schedule")


@schedules.register("constant")
class Constant(Schedule):
    """The peak rate throughout."""

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """One."""
        return 1.0


@schedules.register("step")
class Step(Schedule):
    """Multiply by gamma every so many epochs."""

    epochs: int = Field(10, ge=1, description="epochs between two steps")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each step")

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """Gamma to the power of steps made."""
        return float(self.gamma ** (step // (self.epochs * steps_per_epoch)))


@schedules.register("cosine")
class Cosine(Schedule):
    """Half a cosine from the peak rate down to a share of it (Loshchilov and Hutter, ICLR 2017, equation 5)."""

    final: float = Field(0.0, ge=0, le=1, description="rate at the end, share of the peak")

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """From 1 to `final`."""
        return _cosine(1.0, self.final, step / total)


@schedules.register("one_cycle")
class OneCycle(Schedule):
    """Up to the peak and down again, both along a cosine (Smith and Topin, 2018)."""

    rise: float = Field(0.3, gt=0, lt=1, description="share of the steps spent going up")
    start: float = Field(0.04, ge=0, le=1, description="rate at the first step, share of the peak")
    final: float = Field(4e-6, ge=0, le=1, description="rate at the last step, share of the peak")

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """From `start` over 1 to `final`."""
        done = step / max(1, total - 1)
        if done < self.rise:
            return _cosine(self.start, 1.0, done / self.rise)
        return _cosine(1.0, self.final, (done - self.rise) / (1 - self.rise))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
