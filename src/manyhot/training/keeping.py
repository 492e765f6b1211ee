"""What is kept of a run: the last checkpoint, the best one, its bundle, the history."""

from __future__ import annotations

import logging
import shutil
from importlib.metadata import version
from typing import Any

from manyhot import processes
from manyhot.atomic import atomic_path, sha256_file
from manyhot.errors import UserError
from manyhot.models.bundle import save_bundle
from manyhot.models.bundle_config import WEIGHTS, BundleConfig, read_config
from manyhot.models.classifier import Classifier
from manyhot.recipe import Recipe
from manyhot.runs import Run
from manyhot.training.checkpoints import load_checkpoint, save_checkpoint
from manyhot.training.setup import Session
from manyhot.training.state import State
from manyhot.training.tracking import write_history

log = logging.getLogger("manyhot")


def judge(recipe: Recipe, line: dict[str, Any]) -> tuple[float, str]:
    """How good an epoch is by its line of the history, the more the better; and what that says."""
    name = recipe.training.best_by
    if name == "val_loss" or line[name] is None:
        return -line["val_loss"], f"val loss {line['val_loss']:.4f}"
    return line[name], f"val {'mAP' if name == 'val_map' else 'top-1'} {line[name]:.4f}"


class Keeper:
    """Writes a run's checkpoints so that a kill between any two writes loses nothing but time; process 0 does."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def save_last(self, session: Session, state: State) -> None:
        """Everything that a resumed run needs."""
        if processes.is_main():
            save_checkpoint(self.run.last, {"state": state.to_dict(), **session.state_dict()})

    def save_epoch(self, session: Session, state: State) -> None:
        """The end of an epoch: best weights and bundle if it is the best so far, then checkpoint, then history."""
        line = state.history[-1]
        value, _ = judge(session.recipe, line)
        if value > state.best_value:
            state.best_epoch, state.best_value = state.epoch, value
            if processes.is_main():
                best = {"weights": session.evaluated.state_dict(), "epoch": state.epoch, "val_map": line["val_map"]}
                save_checkpoint(self.run.best, best)
                if not session.on_features:  # where epochs take milliseconds, a backbone an epoch is much to write
                    self._save_bundle(session, best)
        self.save_last(session, state)
        if processes.is_main():
            every = session.recipe.training.checkpoint_epochs
            if every and state.epoch % every == 0:
                with atomic_path(self.run.numbered(state.epoch)) as temporary:
                    shutil.copyfile(self.run.last, temporary)
            write_history(self.run, state.history)

    def resume(self, session: Session) -> State | None:
        """Load the last checkpoint, if there is one, and mend what a kill may have left half done.

        Raises:
            UserError: a damaged checkpoint.
        """
        saved = processes.by_main(lambda: load_checkpoint(self.run.last) if self.run.last.exists() else None)
        if saved is None:
            return None
        state = State(**saved.pop("state"))
        session.load_state_dict(saved)
        if processes.is_main():
            write_history(self.run, state.history)
        self.save_best_bundle(session, state)
        log.info("resuming after %d epochs and %d steps of the next", state.epoch, state.step)
        return state

    def save_best_bundle(self, session: Session, state: State) -> None:
        """Write the bundle of the best epoch, unless it lies there whole.

        Raises:
            UserError: a damaged checkpoint, or one of another epoch.
        """
        if not state.best_epoch or not processes.is_main():
            return
        best = load_checkpoint(self.run.best)
        if best["epoch"] not in {state.best_epoch, state.epoch + 1}:
            raise UserError(
                f"best.pt is of epoch {best['epoch']}, but last.pt says {state.best_epoch}.", file=self.run.best
            )
        try:
            config = read_config(self.run.model)
            whole = config.epoch == best["epoch"] and config.weights_sha256 == sha256_file(self.run.model / WEIGHTS)
        except (UserError, OSError):
            whole = False
        if not whole:
            self._save_bundle(session, best)

    def _save_bundle(self, session: Session, best: dict[str, Any]) -> None:
        recipe, model, train = session.recipe, session.model, session.train
        geometry = model.geometry if isinstance(model, Classifier) else model.backbone.geometry
        config = BundleConfig(
            manyhot=version("manyhot"),
            recipe=recipe.name,
            model=recipe.model.model_copy(update={"weights": "none", "backbone": model.backbone.name}),
            classes=train.classes,
            task=train.task,
            label_rule=train.label_rule,
            activation=session.parts.loss.activation,
            preprocessing=session.preprocessing,
            stride=geometry.stride,
            offset=geometry.offset,
            thresholds=(recipe.evaluation.threshold,) * len(train.classes),
            epoch=best["epoch"],
            val_map=best["val_map"],
        )
        save_bundle(self.run.model, config, session.whole(best["weights"]))
