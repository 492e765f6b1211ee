"""`train`: from a recipe and a Manifest to a run folder."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import yaml

from manyhot import processes
from manyhot.atomic import sha256_bytes, write_text
from manyhot.card import write_card
from manyhot.data.image_checks import sound_rows
from manyhot.data.manifest import Manifest
from manyhot.data.proposals import Proposals
from manyhot.errors import UserError
from manyhot.recipe import Recipe, dump_recipe, load_recipe
from manyhot.runs import Run, record_environment
from manyhot.training.detection import make_detector_session, read_proposals
from manyhot.training.keeping import Keeper, judge
from manyhot.training.loop import run_loop
from manyhot.training.setup import Session, assign_splits, build_parts, make_session
from manyhot.training.state import State
from manyhot.training.tracking import log_file, write_history

log = logging.getLogger("manyhot")

# These may change between a run's start and its resumption: they do not change its outcome.
_FREE_KEYS = {"description", "training.workers", "training.checkpoint_steps", "training.checkpoint_epochs"}
_FREE_SECTION = "tracking."


def train(
    recipe: Recipe,
    manifest: Manifest,
    out: str | Path,
    *,
    resume: bool = True,
    proposals: Proposals | str | Path | None = None,
) -> Run:
    """Train a classifier or a detector and leave its run folder, with the bundle of the best epoch.

    Arguments:
        recipe: the experiment.
        manifest: images and labels; without the recipe's val split, a share of the train split becomes it.
        out: the run folder. If it holds this run already, the run goes on from its last checkpoint, bit for bit as if
            it had never stopped; one that is complete stays as it is.
        resume: False refuses a folder that holds a run.
        proposals: of a detector, or their file (.parquet); None: those that the run has, or else selective search.

    Raises:
        UserError: a fault in recipe, data or weights (found before anything is written), a folder that holds something
            else or another run, a run already being written, a loss that is not finite.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    with processes.joined():
        return _train_together(recipe, manifest, Run(Path(out)), resume=resume, proposals=proposals)


def _train_together(
    recipe: Recipe, manifest: Manifest, run: Run, *, resume: bool, proposals: Proposals | str | Path | None
) -> Run:
    """`train`, in one of the processes or in the only one: process 0 alone writes."""
    writes = processes.is_main()
    if writes:
        _refuse_folder(run, resume=resume)
    parts = build_parts(recipe)
    manifest = assign_splits(manifest, recipe)
    processes.require_same(sha256_bytes(dump_recipe(recipe).encode()), "another recipe")
    processes.require_same(_digest(manifest), "other data")
    # Of all labels of the split, damaged pictures included: `evaluate` must find the same loss in the run's manifest.
    parts = replace(parts, loss=parts.loss.fitted(manifest.split(recipe.data.train_split).labels))
    used = manifest.table["split"].is_in([recipe.data.train_split, recipe.data.val_split])
    with processes.first_on_machine():
        sound, damaged = sound_rows(manifest.rows(used), on_error=recipe.data.on_error)
    if proposals is not None and recipe.model.detector is None:
        raise UserError("proposals are of detectors, and the recipe trains a classifier.")
    boxes = None
    if recipe.model.detector is None:
        with processes.first_on_machine() if recipe.model.weights.startswith("imagenet") else nullcontext():
            session = make_session(recipe, parts, sound)
    else:
        boxes = read_proposals(recipe, sound, run.proposals if run.proposals.exists() else proposals)
        session = make_detector_session(recipe, parts, sound, boxes)
    if not writes:
        _train(run, session)
        return run
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
            _train(run, session)
    return run


def _digest(manifest: Manifest) -> str:
    """Of what decides the training: the pictures in their order, their splits and their labels."""
    splits = manifest.table["split"].to_list()
    parts = [*manifest.classes, *manifest.ids, *splits, sha256_bytes(manifest.labels.tobytes())]
    return sha256_bytes("\0".join(parts).encode())


def _train(run: Run, session: Session) -> None:
    keeper = Keeper(run)
    state = keeper.resume(session)
    if state is None:
        state = State()
        if processes.is_main():
            write_history(run, [])
        log.info("%s\n%s", session.recipe.name, session.describe_network())
    log.info(
        "training on %d pictures, validating on %d, %d classes, %s, %s%s",
        len(session.train),
        len(session.val),
        len(session.train.classes),
        session.train.label_rule,
        session.accelerator.device,
        f", {processes.place().count} processes" if processes.place().count > 1 else "",
    )
    run_loop(run, session, state, keeper)
    if processes.is_main():
        write_card(run.model, run)
    log.info("best epoch %d, %s", state.best_epoch, judge(session.recipe, state.history[state.best_epoch - 1])[1])


def _refuse_folder(run: Run, *, resume: bool) -> None:
    if run.recipe.exists():
        if not resume:
            raise UserError(
                "this folder holds a run already.",
                file=run.path,
                remedy="Continue it without --no-resume, or give another --out.",
            )
        if run.model.exists() and not run.last.exists():
            raise UserError(
                "this folder holds a model that was not trained in it.", file=run.path, remedy="Give another --out."
            )
    elif run.path.exists() and not run.path.is_dir():
        raise UserError("this is a file, not a folder.", file=run.path, remedy="Give another --out.")
    elif run.path.exists() and any(entry.name != ".lock" for entry in run.path.iterdir()):
        raise UserError("this folder is not empty and holds no run.", file=run.path, remedy="Give another --out.")


def _refuse_other_run(run: Run, recipe: Recipe, manifest: Manifest) -> None:
    """Refuse to resume with another recipe or other data than the run was started with."""
    former = _flatten(yaml.safe_load(dump_recipe(load_recipe(str(run.recipe)))))  # with the keys that are newer than it
    now = _flatten(yaml.safe_load(dump_recipe(recipe)))
    changed = sorted(key for key in former.keys() | now.keys() if former.get(key) != now.get(key))
    changed = [key for key in changed if key not in _FREE_KEYS and not key.startswith(_FREE_SECTION)]
    if changed:
        detail = "; ".join(f"{key} was {former.get(key)}, is {now.get(key)}" for key in changed)
        raise UserError(f"the run was started with another recipe: {detail}.", file=run.recipe, remedy=_ANOTHER)
    started = Manifest.load(run.manifest)
    if started.classes != manifest.classes or not started.table.equals(manifest.table):
        raise UserError("the run was started with other data.", file=run.manifest, remedy=_ANOTHER)


_ANOTHER = "Continue it with what it was started with, or train into another --out."


def _flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
