"""`train`: from a recipe and a Manifest to a run folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import yaml

from manyhot.atomic import write_text
from manyhot.data.images import sound_rows
from manyhot.data.manifest import Manifest
from manyhot.data.proposals import Proposals
from manyhot.errors import UserError
from manyhot.recipe import Recipe, dump_recipe
from manyhot.runs import Run, record_environment
from manyhot.training.detection import make_detector_session, read_proposals
from manyhot.training.keeping import Keeper
from manyhot.training.loop import run_loop
from manyhot.training.setup import Session, assign_splits, build_parts, make_session
from manyhot.training.state import State
from manyhot.training.tracking import log_file, write_history

log = logging.getLogger("manyhot")

# These may change between a run's start and its resumption: they do not change its outcome.
_FREE_KEYS = {"description", "training.workers", "training.checkpoint_steps"}


def train(
    recipe: Recipe,
    manifest: Manifest,
    out: str | Path,
    *,
    resume: bool = False,
    proposals: Proposals | str | Path | None = None,
) -> Run:
    """Train a classifier or a detector and leave its run folder, with the bundle of the best epoch.

    Arguments:
        recipe: the experiment.
        manifest: images and labels; without the recipe's val split, a share of the train split becomes it.
        out: the run folder; made anew unless `resume`.
        resume: continue the run in `out`, from its last checkpoint; bit for bit as if it had never stopped.
        proposals: of a detector, or their file (.parquet); None: those that the run has, or else selective search.

    Raises:
        UserError: a fault in recipe, data or weights (found before anything is written), a folder that holds something
            else, a run already being written, a loss that is not finite.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    run = Run(Path(out))
    _refuse_folder(run, resume=resume)
    parts = build_parts(recipe)
    manifest = assign_splits(manifest, recipe)
    # Of all labels of the split, damaged pictures included: `evaluate` must find the same loss in the run's manifest.
    parts = replace(parts, loss=parts.loss.fitted(manifest.split(recipe.data.train_split).labels))
    used = manifest.table["split"].is_in([recipe.data.train_split, recipe.data.val_split])
    sound, damaged = sound_rows(manifest.rows(used), on_error=recipe.data.on_error)
    if proposals is not None and recipe.model.detector is None:
        raise UserError("proposals are of detectors, and the recipe trains a classifier.")
    if recipe.model.detector is None:
        session, boxes = make_session(recipe, parts, sound), None
    else:
        boxes = read_proposals(recipe, sound, run.proposals if run.proposals.exists() else proposals)
        session = make_detector_session(recipe, parts, sound, boxes)
    with run.locked():
        if run.recipe.exists():
            _refuse_other_run(run, recipe, manifest)
        else:
            write_text(run.recipe, dump_recipe(recipe))
            manifest.save(run.manifest)
        if boxes is not None and not run.proposals.exists():
            boxes.save(run.proposals)
        record_environment(run, str(session.accelerator.device))
        with log_file(run):
            if damaged:
                listing = "\n".join(f"  {one}" for one in damaged)
                log.warning("left out %d pictures that cannot be read:\n%s", len(damaged), listing)
            _train(run, session, resume=resume)
    return run


def _train(run: Run, session: Session, *, resume: bool) -> None:
    keeper = Keeper(run)
    if resume:
        state = keeper.resume(session)
    else:
        state = State()
        write_history(run, [])
        log.info("%s\n%s", session.recipe.name, session.describe_network())
    log.info(
        "training on %d pictures, validating on %d, %d classes, %s, %s",
        len(session.train),
        len(session.val),
        len(session.train.classes),
        session.train.label_rule,
        session.accelerator.device,
    )
    run_loop(run, session, state, keeper)
    log.info("best epoch %d, val %s %.4f", state.best_epoch, *_best(state))


def _best(state: State) -> tuple[str, float]:
    has_map = state.history[state.best_epoch - 1]["val_map"] is not None
    return ("mAP", state.best_value) if has_map else ("loss", -state.best_value)


def _refuse_folder(run: Run, *, resume: bool) -> None:
    if run.recipe.exists():
        if not resume:
            raise UserError(
                "this folder holds another run.",
                file=run.path,
                remedy="Continue it with --resume, or give another --out.",
            )
    elif run.path.exists() and not run.path.is_dir():
        raise UserError("this is a file, not a folder.", file=run.path, remedy="Give another --out.")
    elif run.path.exists() and any(entry.name != ".lock" for entry in run.path.iterdir()):
        raise UserError("this folder is not empty and holds no run.", file=run.path, remedy="Give another --out.")


def _refuse_other_run(run: Run, recipe: Recipe, manifest: Manifest) -> None:
    """Refuse to resume with another recipe or other data than the run was started with."""
    former = _flatten(yaml.safe_load(run.recipe.read_text(encoding="utf-8")))
    now = _flatten(yaml.safe_load(dump_recipe(recipe)))
    changed = sorted(key for key in former.keys() | now.keys() if former.get(key) != now.get(key))
    changed = [key for key in changed if key not in _FREE_KEYS]
    if changed:
        detail = "; ".join(f"{key} was {former.get(key)}, is {now.get(key)}" for key in changed)
        raise UserError(f"the run was started with another recipe: {detail}.", file=run.recipe, remedy=_ANOTHER)
    started = Manifest.load(run.manifest)
    if started.classes != manifest.classes or not started.table.equals(manifest.table):
        raise UserError("the run was started with other data.", file=run.manifest, remedy=_ANOTHER)


_ANOTHER = "Resume with what it was started with, or train into another --out."


def _flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
