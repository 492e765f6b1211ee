"""`evaluate`: a run and a split in; measures, predictions and report out."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from manyhot import processes
from manyhot.atomic import write_text
from manyhot.card import write_card
from manyhot.data.manifest import Manifest
from manyhot.errors import UserError
from manyhot.inference.logits import Logits
from manyhot.inference.predict import Predictor
from manyhot.metrics.summary import measure
from manyhot.models.bundle_config import BundleConfig, digest_ids
from manyhot.predictions import Predictions
from manyhot.recipe import Recipe, parse_recipe
from manyhot.report.page import write_report
from manyhot.report.ranked import remove_rankings, require_export, write_rankings
from manyhot.runs import Run, open_run
from manyhot.training.losses import losses

log = logging.getLogger("manyhot")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where it lies.

    Arguments:
        metrics: the content of metrics.json (docs/metrics.md).
        predictions: the scores behind it.
        folder: of metrics.json, predictions.parquet and plots.
        report: the page.
    """

    metrics: dict[str, Any]
    predictions: Predictions
    folder: Path
    report: Path


def evaluate(
    path: str | Path,
    split: str | None = None,
    *,
    manifest: Manifest | None = None,
    overrides: list[str] | None = None,
    on_error: str | None = None,
    export: str | None = None,
) -> Evaluation:
    """Score a split with a run's best model, each image once, and write measures and report into the run.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's val split.
        manifest: other data than the run was trained on; its classes must be the model's.
        overrides: `evaluation.key=value` changes to the run's recipe.
        on_error: "stop" or "skip" at damaged pictures; None is the recipe's.
        export: "npy" or "csv" also writes scores and files of each class, highest first, into the folder `export`.

    Raises:
        UserError: no run or no trained model there, an empty split, other classes, damaged pictures.
    """
    require_export(export)
    with processes.joined():
        return _evaluate_together(open_run(Path(path)), split, manifest, overrides or [], on_error, export)


def _evaluate_together(
    run: Run,
    split: str | None,
    manifest: Manifest | None,
    overrides: list[str],
    on_error: str | None,
    export: str | None,
) -> Evaluation:
    """`evaluate`, in one of the processes or in the only one: all of them score, process 0 measures and writes."""
    recipe = _evaluation_recipe(run, overrides)
    split = split or recipe.data.val_split
    trained_on = Manifest.load(run.manifest)
    part = (manifest or trained_on).split(split)
    settings = recipe.evaluation
    predictor = Predictor.load(
        run.path,
        batch_size=settings.batch_size,
        workers=recipe.training.workers,
        crops=settings.crops,
        backend="torch",  # measures are of the numbers that everybody gets
    )
    predictions, logits = predictor.predict_manifest(part, on_error=on_error or recipe.data.on_error)
    return processes.by_main(
        lambda: _measure(run, recipe, split, part, predictor, predictions, logits, trained_on, overrides, export)
    )


def _measure(
    run: Run,
    recipe: Recipe,
    split: str,
    part: Manifest,
    predictor: Predictor,
    predictions: Predictions,
    logits: Logits,
    trained_on: Manifest,
    overrides: list[str],
    export: str | None,
) -> Evaluation:
    """Measures, tables and report of what was scored."""
    settings = recipe.evaluation
    changed = any(override.partition("=")[0].strip() == "evaluation.threshold" for override in overrides)
    config = predictor.bundle.config
    thresholds = settings.threshold if changed else config.thresholds
    if changed:
        predictions = replace(predictions, thresholds=(settings.threshold,) * len(predictions.classes))
    metrics = measure(
        predictions.scores,
        predictions.labels,
        predictions.classes,
        task=part.task,
        thresholds=thresholds,
        beta=settings.beta,
        average=settings.average,
        ranking=predictions.uncalibrated,
        resamples=settings.resamples,
    )
    loss = losses.build(recipe.loss).fitted(trained_on.split(recipe.data.train_split).labels)
    metrics |= {
        "loss": loss.compute(torch.from_numpy(logits.values), torch.from_numpy(predictions.labels)).item(),
        "split": split,
        "damaged": [part.ids[row] for row, _ in logits.damaged],
        **predictions.source,
        **_decisions(config, part, settings.threshold if changed else None),
    }
    folder = run.evaluation(split)
    remove_rankings(folder)
    predictions.save(folder / "predictions.parquet")
    write_text(folder / "metrics.json", json.dumps(metrics, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    write_card(run.model, run)
    if export:
        write_rankings(folder, predictions, part, export)
    report = write_report(
        folder,
        predictions=predictions,
        metrics=metrics,
        history=run.read_history(),
        manifest=part,
        title=f"{recipe.name}: {split}",
        facts=_facts(recipe, predictor),
    )
    return Evaluation(metrics, predictions, folder, report)


def _decisions(config: BundleConfig, part: Manifest, override: float | None) -> dict[str, Any]:
    """How scores became decisions, and which part of that was fitted on these very pictures."""
    origins = {"calibration": config.calibration_from, "thresholds": config.thresholds_from}
    if override is not None:
        rule, origins["thresholds"] = f"{override:g} for all classes, by --set evaluation.threshold", None
    elif config.thresholds_from is None:
        rule = f"{config.thresholds[0]:g} for all classes, by the recipe"
    else:
        rule = f"{config.thresholds_from.rule}, on split {config.thresholds_from.split}"
    ids = digest_ids(part.ids)
    return {
        "calibration": config.calibration["method"] if config.calibration else None,
        "threshold_rule": rule,
        "fitted_here": [name for name, origin in origins.items() if origin and origin.ids_sha256 == ids],
    }


def _evaluation_recipe(run: Run, overrides: list[str]) -> Recipe:
    for override in overrides:
        if not override.startswith("evaluation."):
            raise UserError(
                f"--set {override}: the run is trained already.", remedy="Only evaluation.* can be changed now."
            )
    return parse_recipe(run.recipe.read_text(encoding="utf-8"), str(run.recipe), overrides)


def _facts(recipe: Recipe, predictor: Predictor) -> list[tuple[str, str]]:
    """What the report says of the model, beside its measures."""
    config = predictor.bundle.config
    return [
        ("Backbone", config.model.backbone + (", frozen" if config.model.frozen else "")),
        ("Weights", recipe.model.weights),
        ("Pooling", str(config.model.pooling["name"])),
        ("Epoch", str(config.epoch)),
        ("Trained with", f"manyhot {config.manyhot}"),
    ]


def summarize(metrics: dict[str, Any]) -> str:
    """The measures in a table for a terminal: a line a class, then the means and the rules behind them."""
    width = max([len("class"), *(len(one["name"]) for one in metrics["classes"])])
    lines = [f"{'class':{width}}  positives      AP   95 % interval  AP(07)  AP(10)  tail acc.      F1     ECE"]
    for one in metrics["classes"]:
        values = (_cell(one[key], size) for key, size in _COLUMNS)
        lines.append(f"{one['name']:{width}}  {one['n_positive']:9}  " + "  ".join(values))
    f_beta = metrics["f_beta"]
    between = f", 95 % interval {_cell(metrics['map_interval'])}" if metrics["map_interval"] else ""
    before = metrics["mean_ece_uncalibrated"]
    counted = f"{metrics['n_classes_in_map']} of {len(metrics['classes'])}"
    lines += [
        "",
        f"mAP {_cell(metrics['map'])} (VOC07 {_cell(metrics['map_voc07'])}, VOC10 {_cell(metrics['map_voc10'])})",
        f"over {counted} classes, {metrics['n_images']} images{between}",
        f"split {metrics['split']}; labels: {metrics['label_rule']}; input: {metrics['crops']}",
        f"accuracy {_cell(metrics['accuracy'])}, F{f_beta['beta']:g} ({f_beta['average']}) {_cell(f_beta['value'])}",
        f"mean tail accuracy {_cell(metrics['mean_tail_accuracy'])}, loss {_cell(metrics['loss'])}",
        f"thresholds: {metrics['threshold_rule']}",
        f"calibration: {metrics['calibration'] or 'none'}, mean ECE {_cell(metrics['mean_ece'])}"
        + ("" if before is None else f" ({_cell(before)} before)"),
    ]
    if metrics["fitted_here"]:
        lines.append(f"optimistic: these very pictures gave the {' and '.join(metrics['fitted_here'])}")
    if "top1" in metrics:
        lines.append(f"top-1 {_cell(metrics['top1'])}, top-5 {_cell(metrics['top5'])}")
    if metrics["damaged"]:
        lines.append(f"left out as damaged: {', '.join(metrics['damaged'])}")
    return "\n".join(lines)


_COLUMNS = (
    ("ap", 6),
    ("ap_interval", 14),
    ("ap_voc07", 6),
    ("ap_voc10", 6),
    ("tail_accuracy", 9),
    ("f1", 6),
    ("ece", 6),
)


def _cell(value: float | list[float] | None, width: int = 0) -> str:
    if isinstance(value, list):
        return " … ".join(_cell(end) for end in value)
    return f"{'–' if value is None else format(value, '.4f'):>{width}}"
