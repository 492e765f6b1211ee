"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyhot import processes
from manyhot.data.loading import Batch
from manyhot.errors import Interrupted, UserError
from manyhot.inference.features import FeatureLoader
from manyhot.inference.logits import Logits, activate, compute_logits
from manyhot.metrics.ranking import average_precision, mean_ap
from manyhot.metrics.topk import top_k_accuracy
from manyhot.models.classifier import Classifier
from manyhot.models.head import Head
from manyhot.progress import progress
from manyhot.runs import Run
from manyhot.training.display import Display
from manyhot.training.gradients import Outcome, compute_gradients
from manyhot.training.interruption import SignalWatch
from manyhot.training.keeping import Keeper
from manyhot.training.setup import Session
from manyhot.training.solvers import Solver
from manyhot.training.state import State
from manyhot.training.tracking import Tracker

log = logging.getLogger("manyhot")


class NonFiniteLossError(UserError):
    """The loss is infinite or not a number; the weights are still those before the step."""


def run_loop(run: Run, session: Session, state: State, keeper: Keeper) -> None:
    """Train from where `state` stands to the recipe's last epoch.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the step was finished and everything saved.
        UserError: a loss that is not finite, or a picture that cannot be read any more.
    """
    tracker = Tracker(run, state.total_steps)
    display = Display(run, tracker, session)
    display.graph(state)
    try:
        with SignalWatch() as watch:
            epochs = session.recipe.training.epochs if session.parts.solver is None else 1
            if state.epoch < epochs:
                loaders = session.loaders(watch.stop_if_asked)
            while state.epoch < epochs and not _is_stuck(session, state):
                try:
                    if isinstance(loaders[0], FeatureLoader) and session.parts.solver is not None:
                        solve_head(session, loaders[0], session.parts.solver, state, watch)
                    else:
                        train_epoch(session, loaders[0], state, keeper, tracker, display, watch)
                    line = evaluate_epoch(session, loaders[1], state, watch)
                except Interrupted:
                    keeper.save_last(session, state)
                    raise
                display.heat(state)
                display.boxes(state)
                tracker.epoch(state.total_steps - 1, line)
                state.end_epoch(line)
                keeper.save_epoch(session, state)
                log.info("%s", describe(line))
    finally:
        keeper.save_best_bundle(session, state)
        tracker.close()


def train_epoch(
    session: Session,
    loader: Iterable[Batch],
    state: State,
    keeper: Keeper,
    tracker: Tracker,
    display: Display,
    watch: SignalWatch,
) -> None:
    """The steps of one epoch, from `state.step` on."""
    recipe, epoch = session.recipe, state.epoch
    if not recipe.model.frozen and recipe.training.freeze_epochs:
        if epoch < recipe.training.freeze_epochs:
            session.model.backbone.freeze()
        else:
            session.model.backbone.unfreeze()
    session.trained.train()
    session.batches.start(epoch, skip=state.step)
    left = max(0, len(session.train) - state.images)
    asked = started = time.perf_counter()
    with progress(left, f"epoch {epoch + 1}/{recipe.training.epochs}") as bar:
        for batch in loader if left else ():
            waited = time.perf_counter() - asked
            display.inputs(state, batch)
            size = session.batches.size(state.step)
            loss = train_step(session, state, batch, display.step)
            tracker.step(state.total_steps, loss)
            now = time.perf_counter()
            state.add_step(loss, size, now - started, waited)
            started = now
            bar.advance(size, note=f"loss {state.loss_sum / state.step:.4f}")
            watch.stop_together()
            # The last step needs none: the epoch's own checkpoint follows, and TensorBoard resumes cleanly only there.
            every = recipe.training.checkpoint_steps
            if every and state.total_steps % every == 0 and state.step < len(session.batches):
                tracker.flush()
                keeper.save_last(session, state)
            asked = time.perf_counter()


def solve_head(session: Session, loader: FeatureLoader, solver: Solver, state: State, watch: SignalWatch) -> None:
    """The head at the optimum, in one step; process 0 looks for it, and the others wait."""
    started = time.perf_counter()
    assert isinstance(session.model, Classifier)
    head, loss, seed = session.model.head, session.parts.loss, session.recipe.seed
    assert isinstance(head, Head), "a solver trains a linear head"
    found, weights = processes.by_main(
        lambda: (solver.fit(head, loader.views, loader.labels, loss, seed, watch.stop_if_asked), head.state_dict())
    )
    head.load_state_dict(weights)
    state.add_step(found, len(session.train), time.perf_counter() - started)


def train_step(
    session: Session, state: State, batch: Batch, before_update: Callable[[State, Batch, Outcome], None] | None = None
) -> float:
    """One step of the optimizer; returns the loss of the global batch.

    `before_update` is called when all gradients are there.
    """
    recipe, accelerator = session.recipe, session.accelerator
    _refuse_damaged(session, batch)
    schedule, steps = session.parts.schedule, len(session.batches)
    factor = schedule.factor(state.total_steps, steps, recipe.training.epochs, state.history)
    for group in session.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    found = compute_gradients(session, batch, state.total_steps)
    if not math.isfinite(found.loss):
        _stop_at_non_finite(session, state, batch, found.loss)
    state.add_hits(found.hits, found.judged)
    if recipe.training.grad_clip is not None:
        accelerator.clip_grad_norm_(session.trained.parameters(), recipe.training.grad_clip)
    if before_update is not None:
        before_update(state, batch, found)
    session.optimizer.step()
    session.optimizer.zero_grad()
    if session.average is not None:
        session.average.update_parameters(session.trained)
    return found.loss


def evaluate_epoch(session: Session, loader: Iterable[Batch], state: State, watch: SignalWatch) -> dict[str, Any]:
    """Scores of the val split, each picture once, and the epoch's line of the history."""
    logits = compute_logits(
        session.evaluated,
        loader,
        len(session.val),
        session.accelerator.device,
        what="validating",
        after_batch=watch.stop_if_asked,
    ).of_all_processes()
    return processes.by_main(lambda: _measure_epoch(session, state, logits))


def _measure_epoch(session: Session, state: State, logits: Logits) -> dict[str, Any]:
    if logits.damaged:
        row, reason = logits.damaged[0]
        raise UserError(f"the picture cannot be read any more: {reason}.", file=session.val.paths[row])
    labels = session.val.labels
    loss = session.parts.loss.compute(torch.from_numpy(logits.values), torch.from_numpy(labels)).item()
    # A sigmoid keeps the order of the logits of a class, a softmax does not.
    softmax = session.parts.loss.activation == "softmax"
    ap = average_precision(activate(logits.values, "softmax") if softmax else logits.values, labels)
    mean, counted = mean_ap(ap)
    solved = session.parts.solver is not None
    rates = {} if solved else {group["name"]: group["lr"] for group in session.optimizer.param_groups}
    return {
        "epoch": state.epoch + 1,
        "step": state.total_steps,
        "train_loss": state.loss_sum / max(1, state.step),
        "val_loss": loss,
        "val_map": None if math.isnan(mean) else mean,
        "val_map_classes": counted,
        "train_top1": state.hits / state.judged if state.judged else None,
        "val_top1": _top1(logits.values, labels) if session.single_label else None,
        "val_ap": {
            name: None if math.isnan(value) else float(value)
            for name, value in zip(session.val.classes, ap, strict=True)
        },
        "lr": rates.get("head"),
        "lr_backbone": rates.get("backbone"),
        "seconds": round(state.seconds, 3),
        "images_per_second": round(state.images / state.seconds, 2) if state.seconds else None,
        "waited": round(state.waited / state.seconds, 4) if state.seconds else None,
    }


def describe(line: dict[str, Any]) -> str:
    """An epoch in one line for people."""
    mean = "undefined" if line["val_map"] is None else f"{line['val_map']:.4f}"
    top1 = "" if line["val_top1"] is None else f", top-1 {line['val_top1']:.4f}"
    rate = "" if line["lr"] is None else f"lr {line['lr']:.2e}, "
    return (
        f"epoch {line['epoch']}: train loss {line['train_loss']:.4f}, val loss {line['val_loss']:.4f}, "
        f"val mAP {mean} over {line['val_map_classes']} classes{top1}, {rate}"
        f"{line['images_per_second'] or 0:.1f} images/s, {line['waited'] or 0:.0%} of the time spent waiting for them"
    )


def _top1(logits_NC: NDArray[np.float32], labels_NC: NDArray[np.int8]) -> float | None:
    value = top_k_accuracy(logits_NC, labels_NC)
    return None if math.isnan(value) else value


def _is_stuck(session: Session, state: State) -> bool:
    patience = session.recipe.training.early_stopping
    if patience is None or state.epoch - state.best_epoch < patience:
        return False
    log.info("nothing better for %d epochs: stopping early after epoch %d", patience, state.epoch)
    return True


def _refuse_damaged(session: Session, batch: Batch) -> None:
    if batch.damaged:
        row, reason = batch.damaged[0]
        raise UserError(f"the picture cannot be read any more: {reason}.", file=session.train.paths[row])


def _stop_at_non_finite(session: Session, state: State, batch: Batch, value: float) -> None:
    rows = {row for rows in processes.gathered(batch.indices.tolist()) for row in rows}
    ids = [session.train.ids[row] for row in sorted(rows)]
    rates = {group["name"]: f"{group['lr']:.3g}" for group in session.optimizer.param_groups}
    raise NonFiniteLossError(
        f"the loss is {value} at step {state.total_steps} (epoch {state.epoch + 1}), "
        f"learning rate {', '.join(f'{rate} ({name})' for name, rate in rates.items())}, pictures {', '.join(ids)}.",
        remedy="Lower optimizer.lr or set training.grad_clip, and train into another --out.",
    )
