"""Which learning rate to start from: a sweep over rates, a few minutes before hours of training."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

from manyhot.data.image_checks import sound_rows
from manyhot.data.loading import Batch
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.progress import progress
from manyhot.recipe import Recipe
from manyhot.training.loop import NonFiniteLossError, train_step
from manyhot.training.schedules import Schedule
from manyhot.training.setup import Session, assign_splits, build_parts, make_session
from manyhot.training.state import State

log = logging.getLogger("manyhot")

SMOOTHING = 0.95
"""Weight of the past in the smoothed loss."""

DIVERGED = 4.0
"""The sweep ends where the smoothed loss is this many times its lowest value."""


class Sweep(Schedule):
    """From `lowest` to `highest`, both relative to the peak rate, in equal ratios: step s of n is at s / (n - 1)."""

    lowest: float
    highest: float
    steps: int

    def after_warmup(self, step: int, total: int, steps_per_epoch: int) -> float:  # noqa: ARG002
        """lowest · (highest / lowest)^(step / (steps - 1))."""
        return float(self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1)))


@dataclass(frozen=True)
class RateSearch:
    """What a sweep found.

    Arguments:
        rates: of the head, one a step, rising; the backbone's rose in proportion.
        losses: of those steps, before the update at that rate.
        smooth: their moving average, corrected for its start.
        diverged: the loss left the range or was not finite, so that the sweep ended early.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    diverged: bool

    @property
    def lowest(self) -> float:
        """The rate at the lowest smoothed loss."""
        return self.rates[self.smooth.index(min(self.smooth))]

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at the lowest smoothed loss; None where no rate lowered it by a hundredth."""
        return self.lowest / 10 if min(self.smooth) < 0.99 * self.smooth[0] else None


def find_lr(
    recipe: Recipe, manifest: Manifest, *, lowest: float = 1e-6, highest: float = 10.0, steps: int = 100
) -> RateSearch:
    """Train for some steps at rates that rise from `lowest` to `highest`, and see where the loss falls.

    Everything is as in training by the recipe (data, augmentation, losses, the proportion of the two rates) but for
    the schedule. Nothing is written. A backbone that is frozen for the first epochs only is trained here.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017, section 3.3, with an exponential
    sweep in place of the linear one.

    Arguments:
        recipe: the experiment.
        manifest: images and labels.
        lowest: rate of the head at the first step.
        highest: rate of the head at the last step.
        steps: of the optimizer, 10 or more; epochs follow each other until they are done.

    Raises:
        UserError: a fault in recipe, data or weights, a range that is none, or a recipe whose head is solved for.
    """
    if not 0 < lowest < highest < math.inf or steps < 10:
        raise UserError("a sweep goes from a rate above 0 to a higher one, in 10 steps or more.")
    if recipe.model.detector is not None:
        raise UserError("the search for a learning rate is of classifiers, and the recipe trains a detector.")
    parts = build_parts(recipe)
    if parts.solver is not None:
        raise UserError("training.solver needs no learning rate.", remedy="Set training.solver=null.")
    manifest = assign_splits(manifest, recipe)
    train = manifest.split(recipe.data.train_split)
    parts = replace(parts, loss=parts.loss.fitted(train.labels))
    used = manifest.table["split"].is_in([recipe.data.train_split, recipe.data.val_split])
    sound, damaged = sound_rows(manifest.rows(used), on_error=recipe.data.on_error)
    if damaged:
        log.warning("left out %d pictures that cannot be read", len(damaged))
    peak = parts.optimizer.lr
    sweep = Sweep(lowest=lowest / peak, highest=highest / peak, steps=steps)
    return _sweep(make_session(recipe, replace(parts, schedule=sweep), sound), sweep)


def summarize(found: RateSearch) -> str:
    """The finding in two lines."""
    end = f"the loss ran away at {found.rates[-1]:.2g}" if found.diverged else "it did not run away"
    lines = [f"{len(found.rates)} steps; smoothed loss lowest, {min(found.smooth):.4f}, at {found.lowest:.2g}; {end}"]
    if found.suggestion is None:
        lines.append("no rate lowered the loss by a hundredth: try more --steps, or another range")
    else:
        lines.append(f"try optimizer.lr={found.suggestion:.1e}, a tenth of that")
    return "\n".join(lines)


def _sweep(session: Session, sweep: Sweep) -> RateSearch:
    state, peak = State(), session.parts.optimizer.lr
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    diverged, average = False, 0.0
    session.trained.train()
    with progress(sweep.steps, "looking for a learning rate", "steps") as bar, closing(_endless(session)) as batches:
        for batch in batches:
            try:
                loss = train_step(session, state, batch)
            except NonFiniteLossError:
                diverged = True
                break
            rates.append(peak * sweep.factor(state.total_steps, len(session.batches), 1))
            state.add_step(loss, len(batch.indices), 0.0)
            losses.append(loss)
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smooth.append(average / (1 - SMOOTHING ** len(losses)))
            bar.advance(1, note=f"rate {rates[-1]:.1e}, loss {loss:.4f}")
            diverged = smooth[-1] > DIVERGED * min(smooth)
            if diverged or len(losses) == sweep.steps:
                break
    if len(losses) < 2:
        raise UserError(f"the loss is not finite at the lowest rate, {peak * sweep.lowest:.3g}.", remedy="Lower it.")
    return RateSearch(tuple(rates), tuple(losses), tuple(smooth), diverged)


def _endless(session: Session) -> Generator[Batch]:
    """The batches of one epoch after the other."""
    loader, _ = session.loaders(lambda: None)
    epoch = 0
    while True:
        session.batches.start(epoch, skip=0)
        yield from loader
        epoch += 1
