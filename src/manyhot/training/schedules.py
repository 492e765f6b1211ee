"""Learning-rate schedules as functions of step and history: nothing to save, nothing to resume wrongly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from manyhot.registry import Part, Registry

History = Sequence[Mapping[str, Any]]
"""The lines of history.jsonl of the epochs done, oldest first."""


class Schedule(Part):
    """A factor on every group's peak learning rate."""

    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear growth from zero, before the schedule proper")

    def factor(self, step: int, steps_per_epoch: int, epochs: int, history: History = ()) -> float:
        """The factor at optimizer step `step`, counted from 0.

        Arguments:
            step: of the whole run.
            steps_per_epoch: at least 1.
            epochs: of the whole run.
            history: of the epochs done before this step; few schedules ask for it.
        """
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        total = max(1, epochs * steps_per_epoch - warmup)
        proper = history[math.ceil(warmup / steps_per_epoch) :]
        return self.after_warmup(step - warmup, total, steps_per_epoch) * self.reduction(proper)

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:
        """The factor at step `step` of `total`."""
        raise NotImplementedError

    def reduction(self, history: History) -> float:  # noqa: ARG002
        """A further factor, by what the epochs after warm-up gave."""
        return 1.0

    @property
    def watches(self) -> str | None:
        """The key of the history that it reads, where it reads one."""
        return None


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


@schedules.register("multi_step")
class MultiStep(Schedule):
    """Multiply by gamma after each of the epochs named."""

    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = Field(
        (30, 60, 90), description="epochs done at each step, ascending"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each step")

    @field_validator("milestones")
    @classmethod
    def _ascend(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
            raise ValueError("each milestone comes after the one before")
        return milestones

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """Gamma to the power of milestones passed."""
        return float(self.gamma ** sum(epoch * steps_per_epoch <= step for epoch in self.milestones))


@schedules.register("cosine")
class Cosine(Schedule):
    """Half a cosine from the peak rate down to a share of it (Loshchilov and Hutter, ICLR 2017, equation 5)."""

    final: float = Field(0.0, ge=0, le=1, description="rate at the end, share of the peak")

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """From 1 to `final`."""
        return _cosine(1.0, self.final, step / total)


@schedules.register("cosine_cycles")
class CosineCycles(Schedule):
    """Half a cosine down, over and over: each from the peak again, or back up along the same cosine.

    With `restart` Loshchilov and Hutter's warm restarts (ICLR 2017, equation 5, T_mult 1), without it the closed form
    of torch's CosineAnnealingLR, which goes on after T_max.
    """

    epochs: int = Field(10, ge=1, description="epochs of one way down")
    final: float = Field(0.0, ge=0, le=1, description="rate at the bottom, share of the peak")
    restart: bool = Field(default=True, description="jump to the peak after each way down; false: rise as it fell")
    later_from: int | None = Field(
        None, ge=1, description="epochs done, from which on `later_final` takes the place of `final`"
    )
    later_final: float | None = Field(
        None, ge=0, le=1, description="rate at the bottom from then on, share of the peak"
    )

    @model_validator(mode="after")
    def _later_is_whole(self) -> Self:
        if (self.later_from is None) != (self.later_final is None):
            raise ValueError("later_from and later_final go together")
        return self

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """Between 1 and the bottom by the place in the cycle."""
        final = self.final
        if self.later_from is not None and self.later_final is not None and step >= self.later_from * steps_per_epoch:
            final = self.later_final
        way = self.epochs * steps_per_epoch
        return _cosine(1.0, final, (step % way if self.restart else step % (2 * way)) / way)


@schedules.register("plateau")
class Plateau(Schedule):
    """Multiply by gamma when a number of the history stops getting better (torch's ReduceLROnPlateau).

    It is derived from the whole history at every step: a resumed run cannot be out of step with it. Epochs of warm-up
    do not count.
    """

    metric: Literal["val_map", "val_top1", "val_loss", "train_loss", "train_top1"] = Field(
        "val_map", description="key of history.jsonl; of a loss less is better, of the others more"
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="factor of each reduction")
    patience: int = Field(10, ge=0, description="epochs without a better value that are put up with")
    threshold: float = Field(1e-4, ge=0, lt=1, description="better means by more than this share of the best value")
    cooldown: int = Field(0, ge=0, description="epochs after a reduction in which none is counted as bad")
    final: float = Field(0.0, ge=0, le=1, description="lowest rate, share of the peak")

    @property
    def watches(self) -> str:
        """`metric`."""
        return self.metric

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """One."""
        return 1.0

    def reduction(self, history: History) -> float:
        """Gamma to the power of reductions so far, not below `final`; an undefined value is not a better one."""
        less = self.metric.endswith("loss")
        best, bad, rest, factor = math.inf if less else -math.inf, 0, 0, 1.0
        for line in history:
            value = math.nan if line[self.metric] is None else line[self.metric]
            if value < best * (1 - self.threshold) if less else value > best * (1 + self.threshold):
                best, bad = value, 0
            else:
                bad += 1
            if rest > 0:
                rest, bad = rest - 1, 0
            if bad > self.patience:
                factor, bad, rest = max(self.final, factor * self.gamma), 0, self.cooldown
        return factor


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
