"""`localize`: a run and a split in; heat maps turned into points and boxes, and measured."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from manyhot.atomic import atomic_path, write_text
from manyhot.data.manifest import Manifest
from manyhot.detections import Detections
from manyhot.errors import UserError
from manyhot.inference.logits import activate
from manyhot.localization.boxes import BoxRule, Extreme, box_rules
from manyhot.localization.choosing import Choice, Chooser
from manyhot.localization.finding import MIN_SCORE, Finder, Refiner, positive_pairs
from manyhot.localization.fitting import axes_key, fit_axes, read_axes, write_axes
from manyhot.localization.grabcut import GrabCut
from manyhot.localization.heatmaps import GradCAM, HeatMap, heat_maps
from manyhot.localization.looking import Look
from manyhot.localization.proposals import Snapping, read_proposals
from manyhot.localization.transforming import DescriptorTransform
from manyhot.metrics.localization import TOLERANCE
from manyhot.models.bundle import Bundle, load_bundle
from manyhot.models.bundle_config import PlaceRule, digest_ids, write_config
from manyhot.models.geometry import Geometry
from manyhot.recipe import Recipe, parse_recipe
from manyhot.registry import Part, Registry
from manyhot.report.places import write_places_report
from manyhot.runs import Run, open_run

log = logging.getLogger("manyhot")
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Localization:
    """What `localize` found, and where it lies.

    Arguments:
        metrics: the content of metrics.json (docs/localization.md).
        detections: the boxes.
        folder: of metrics.json, detections.parquet and places.parquet.
        report: the page of the best and worst placed pictures.
    """

    metrics: dict[str, Any]
    detections: Detections
    folder: Path
    report: Path


def localize(
    path: str | Path,
    split: str | None = None,
    *,
    manifest: Manifest | None = None,
    heatmap: str | None = None,
    boxes: str | None = None,
    threshold: float | None = None,
    crops: str | None = None,
    flip: bool = False,
    proposals: str | Path | None = None,
    grabcut: bool = False,
    min_score: float = MIN_SCORE,
    tolerance: float = TOLERANCE,
    on_error: str | None = None,
) -> Localization:
    """Say where in the pictures of a split a run's best model sees its classes, and measure it by the true boxes.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's val split.
        manifest: other data than the run was trained on; its classes must be the model's.
        heatmap: a heat map, by name or as `{name: occlusion, step: 32}`; None: what `choose_places` stored with the
            model, with its boxes and views, else gradcam.
        boxes: a box rule, likewise; None: the stored one where the heat map is too, else extreme.
        threshold: of the box rule; None is the rule's own.
        crops: other views than in training, as a recipe's `input.crops`: `{name: scales, sizes: [320, 448]}`.
        flip: average the maps with those of the mirrored views.
        proposals: Parquet table of boxes (id, x0, y0, x1, y1) that those found are snapped to; the best of them is
            measured as an oracle.
        grabcut: draw every box anew by GrabCut, before it is snapped.
        min_score: classes scored below give no detections.
        tolerance: pixels by which the hottest point may miss a true box.
        on_error: "stop" or "skip" at damaged pictures; None is the recipe's.

    Raises:
        UserError: no run or no trained model there, an empty split, other classes, an unknown part, damaged pictures,
            a table of proposals that is none, or GrabCut without OpenCV.
    """
    if not 0 <= min_score < 1:
        raise UserError(f"--min-score {min_score:g} is out of range.", remedy="Give 0 or more, under 1.")
    if not 0 <= tolerance < float("inf"):
        raise UserError(f"--tolerance {tolerance:g} is out of range.", remedy="Give pixels, 0 or more.")
    task = _open(path, split, manifest, heatmap, boxes, threshold, crops, flip=flip)
    part, bundle, look, rule = task.part, task.bundle, task.look, task.rule
    stored = bundle.config.places
    grabcut = grabcut or (task.stored and stored is not None and stored.grabcut)
    refiners: list[Refiner] = [GrabCut(part.paths)] if grabcut else []
    proposed = None if proposals is None else read_proposals(Path(proposals), part.ids)
    if proposed is not None:
        refiners.append(Snapping(proposed))
    finder = Finder(part, rule, min_score=min_score, tolerance=tolerance, refiners=refiners, proposals=proposed)
    for sight in look.at(part.paths, finder.wanted):
        finder.take(sight)
    _report_damaged(part, look.damaged, on_error or task.on_error)
    settings = {"heatmap": look.heat_map.model_dump(mode="json"), "boxes": rule.model_dump(mode="json")}
    method = {
        "heatmap": heat_maps.name_of(look.heat_map),
        "boxes": box_rules.name_of(rule),
        "threshold": settings["boxes"].get("threshold", settings["boxes"].get("thresholds")),
        "settings": settings,
        "flip": look.flip,
        "grabcut": grabcut,
        "proposals": None if proposals is None else Path(proposals).name,
        "min_score": min_score,
    }
    source = {
        "split": part.splits[0],
        "label_rule": part.label_rule,
        "bundle_sha256": bundle.sha256,
        "crops": bundle.config.describe_input(look.preprocessing),
    }
    detections = finder.detections({**source, **{key: str(value) for key, value in method.items()}})
    metrics = {
        **finder.measures(detections),
        "method": method,
        "chosen_here": task.stored and stored is not None and stored.ids_sha256 == digest_ids(part.ids),
        **source,
        "damaged": [part.ids[row] for row, _ in look.damaged],
    }
    folder = task.run.localization(part.splits[0])
    detections.save(folder / "detections.parquet")
    with atomic_path(folder / "places.parquet") as temporary:
        finder.places_table().write_parquet(temporary)
    write_text(folder / "metrics.json", json.dumps(metrics, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    report = write_places_report(
        folder, part, metrics, finder.extremes, title=f"{task.name}: places in {part.splits[0]}"
    )
    return Localization(metrics, detections, folder, report)


def choose_places(
    path: str | Path,
    split: str | None = None,
    *,
    manifest: Manifest | None = None,
    heatmap: str | None = None,
    boxes: str | None = None,
    crops: str | None = None,
    flip: bool = False,
    grabcut: bool = False,
    on_error: str | None = None,
) -> list[Choice]:
    """Choose box rule and threshold on a split whose true boxes are known, and store them with the model.

    `localize` takes them from there, unless it is told otherwise. True boxes are used for these two choices alone; the
    network has seen none.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's train split.
        manifest: other data than the run was trained on.
        heatmap: a heat map; None: gradcam.
        boxes: the box rule whose threshold is chosen; None: the rule too.
        crops: other views than in training.
        flip: average the maps with those of the mirrored views.
        grabcut: draw every box anew by GrabCut, at every threshold: slow, name a rule.
        on_error: as `localize`.

    Returns:
        Every rule at every threshold that was tried; the best is stored.

    Raises:
        UserError: as `localize`; no positive picture with true boxes.
    """
    task = _open(path, split, manifest, heatmap or "gradcam", boxes, None, crops, flip=flip, default="train")
    part, look = task.part, task.look
    rules = [task.rule] if boxes is not None else [kind() for _, kind in box_rules]
    pairs = positive_pairs(part)
    if not pairs:
        raise UserError(f"no picture of split '{part.splits[0]}' has a true box to choose by.", file=part.root)
    chooser = Chooser(rules, pairs, [GrabCut(part.paths)] if grabcut else [])
    for sight in look.at(part.paths, lambda row, scores: [c for c in range(len(scores)) if (row, c) in pairs]):
        chooser.take(sight)
    _report_damaged(part, look.damaged, on_error or task.on_error)
    best = chooser.best()
    assert best is not None, "pairs were seen"
    stored = PlaceRule(
        heatmap=_setting(heat_maps, look.heat_map),
        boxes=_setting(box_rules, best.rule),
        crops=task.crops,
        flip=flip,
        grabcut=grabcut,
        split=part.splits[0],
        n_pairs=len(pairs),
        corloc=best.corloc,
        ids_sha256=digest_ids(part.ids),
    )
    with task.run.locked():
        write_config(task.run.model, task.bundle.config.model_copy(update={"places": stored}))
    return chooser.table


@dataclass(frozen=True)
class _Task:
    """What both verbs work with."""

    run: Run
    part: Manifest
    bundle: Bundle
    look: Look
    rule: BoxRule
    crops: dict[str, Any] | None
    on_error: str
    name: str
    stored: bool


def _open(
    path: str | Path,
    split: str | None,
    manifest: Manifest | None,
    heatmap: str | None,
    boxes: str | None,
    threshold: float | None,
    crops: str | None,
    *,
    flip: bool,
    default: Literal["train", "val"] = "val",
) -> _Task:
    """Read the run, and settle what is left open by what is stored with its model."""
    named_map = None if heatmap is None else read_part(heat_maps, heatmap)
    named_rule = None if boxes is None else read_part(box_rules, boxes)
    if threshold is not None and not 0 < threshold <= 1:
        raise UserError(f"--threshold {threshold:g} is out of range.", remedy="Give a share above 0, up to 1.")
    run = open_run(Path(path))
    recipe = parse_recipe(
        run.recipe.read_text(encoding="utf-8"), str(run.recipe), [] if crops is None else [f"evaluation.crops={crops}"]
    )
    split = split or (recipe.data.val_split if default == "val" else recipe.data.train_split)
    part = (manifest or Manifest.load(run.manifest)).split(split)
    bundle = load_bundle(run.model)
    if part.classes != bundle.config.classes:
        raise UserError("the data's classes are not the model's.", file=part.root)
    stored = bundle.config.places if heatmap is None else None
    if stored is not None:
        named_map = heat_maps.build(stored.heatmap)
        flip = flip or stored.flip
    from_store = stored is not None and named_rule is None
    rule = named_rule or (box_rules.build(stored.boxes) if stored is not None else Extreme())
    views = stored.crops if stored is not None and crops is None else recipe.evaluation.crops
    look = look_with(bundle, named_map or GradCAM(), views, flip=flip, workers=recipe.training.workers)
    look = with_axes(look, run, bundle, recipe)
    return _Task(
        run=run,
        part=part,
        bundle=bundle,
        look=look,
        rule=rule if threshold is None else rule.at(threshold),
        crops=views,
        on_error=recipe.data.on_error,
        name=recipe.name,
        stored=from_store,
    )


def _setting(registry: Registry[P], part: P) -> dict[str, Any]:
    return {"name": registry.name_of(part), **part.model_dump(mode="json")}


def look_with(
    bundle: Bundle,
    heat_map: HeatMap | str,
    crops: dict[str, Any] | None = None,
    *,
    flip: bool = False,
    workers: int | None = None,
) -> Look:
    """A trained model and a heat map, ready to look at pictures.

    Raises:
        UserError: an unknown heat map, or crops that do not fit the head.
    """
    config = bundle.config
    preprocessing = config.preprocessing.with_crops(crops)
    count, trained = preprocessing.cropping.count, config.preprocessing.cropping.count
    if bundle.model.head.crop_pooling.joins and count != trained:
        raise UserError(f"the model takes {trained} crops of a picture, together; other crops do not fit it.")

    def to_scores(logits_NC: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = activate(logits_NC, config.activation)
        calibrated = config.calibrate(scores)
        return scores if calibrated is None else calibrated

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Look(
        model=bundle.model.to(device).to(memory_format=torch.channels_last),
        geometry=Geometry(config.stride, config.offset),
        preprocessing=preprocessing,
        heat_map=read_part(heat_maps, heat_map) if isinstance(heat_map, str) else heat_map,
        to_scores=to_scores,
        flip=flip,
        workers=workers,
    )


def with_axes(look: Look, run: Run, bundle: Bundle, recipe: Recipe) -> Look:
    """The same look, where its heat map is `ddt` with axes fitted to the train split of the run.

    They are kept in the bundle's folder, and fitted anew where weights, views or pictures are others.

    Raises:
        UserError: no train split, or damaged pictures in it.
    """
    heat_map = look.heat_map
    if not isinstance(heat_map, DescriptorTransform):
        return look
    part = Manifest.load(run.manifest).split(recipe.data.train_split)
    part = part.rows((part.labels == 1).any(axis=1).tolist())
    key = axes_key(look, heat_map, part, bundle.sha256)
    axes = read_axes(run.model, key)
    if axes is None:
        fitting = replace(look, damaged=[])
        axes = fit_axes(fitting, heat_map, part)
        _report_damaged(part, fitting.damaged, recipe.data.on_error)
        write_axes(run.model, key, axes)
    return replace(look, heat_map=heat_map.fitted(axes))


def read_part(registry: Registry[P], text: str) -> P:
    """The part that a name, or a YAML mapping with `name`, describes.

    Raises:
        UserError: neither, or an unknown name or setting.
    """
    try:
        setting = yaml.safe_load(text)
    except yaml.YAMLError:
        setting = None
    if isinstance(setting, str):
        setting = {"name": setting}
    if not (isinstance(setting, dict) and isinstance(setting.get("name"), str)):
        known = ", ".join(name for name, _ in registry)
        raise UserError(f"{registry.where} '{text}' is no {registry.kind}.", remedy=f"Give one of {known}.")
    return registry.build(setting)


def _report_damaged(part: Manifest, damaged: list[tuple[int, str]], on_error: str) -> None:
    if not damaged:
        return
    paths = part.paths
    listing = "\n".join(f"  {paths[row]}: {reason}" for row, reason in damaged)
    if on_error == "stop" or len(damaged) == len(part):
        raise UserError(
            f"{len(damaged)} of {len(part)} pictures cannot be read:\n{listing}\n"
            "Mend or remove them, or leave them out with --on-error skip."
        )
    log.warning("left out %d of %d pictures that cannot be read:\n%s", len(damaged), len(part), listing)
