"""`localize`: a run and a split in; heat maps turned into points and boxes, and measured."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from manyhot.atomic import atomic_path, write_text
from manyhot.data.manifest import Manifest
from manyhot.detections import Detections
from manyhot.errors import UserError
from manyhot.inference.predict import activate
from manyhot.localization.boxes import box_rules
from manyhot.localization.finding import MIN_SCORE, Finder
from manyhot.localization.heatmaps import heat_maps
from manyhot.localization.looking import Look
from manyhot.metrics.localization import TOLERANCE
from manyhot.models.bundle import Bundle, load_bundle
from manyhot.models.geometry import Geometry
from manyhot.recipe import parse_recipe
from manyhot.registry import Part, Registry
from manyhot.runs import open_run

log = logging.getLogger("manyhot")
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Localization:
    """What `localize` found, and where it lies.

    Arguments:
        metrics: the content of metrics.json (docs/localization.md).
        detections: the boxes.
        folder: of metrics.json, detections.parquet and places.parquet.
    """

    metrics: dict[str, Any]
    detections: Detections
    folder: Path


def localize(
    path: str | Path,
    split: str | None = None,
    *,
    manifest: Manifest | None = None,
    heatmap: str = "gradcam",
    boxes: str = "extreme",
    threshold: float | None = None,
    crops: str | None = None,
    flip: bool = False,
    min_score: float = MIN_SCORE,
    tolerance: float = TOLERANCE,
    on_error: str | None = None,
) -> Localization:
    """Say where in the pictures of a split a run's best model sees its classes, and measure it by the true boxes.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's val split.
        manifest: other data than the run was trained on; its classes must be the model's.
        heatmap: a heat map, by name or as `{name: occlusion, step: 32}`.
        boxes: a box rule, likewise.
        threshold: share of the maximum above which a map is in a box; None is the rule's own.
        crops: other views than in training, as a recipe's `input.crops`: `{name: scales, sizes: [320, 448]}`.
        flip: average the maps with those of the mirrored views.
        min_score: classes scored below give no detections.
        tolerance: pixels by which the hottest point may miss a true box.
        on_error: "stop" or "skip" at damaged pictures; None is the recipe's.

    Raises:
        UserError: no run or no trained model there, an empty split, other classes, an unknown part, damaged pictures.
    """
    heat_map, rule = read_part(heat_maps, heatmap), read_part(box_rules, boxes)
    if threshold is not None:
        if not 0 < threshold <= 1:
            raise UserError(f"--threshold {threshold:g} is out of range.", remedy="Give a share above 0, up to 1.")
        rule = rule.at(threshold)
    if not 0 <= min_score < 1:
        raise UserError(f"--min-score {min_score:g} is out of range.", remedy="Give 0 or more, under 1.")
    if not 0 <= tolerance < float("inf"):
        raise UserError(f"--tolerance {tolerance:g} is out of range.", remedy="Give pixels, 0 or more.")
    run = open_run(Path(path))
    overrides = [] if crops is None else [f"evaluation.crops={crops}"]
    recipe = parse_recipe(run.recipe.read_text(encoding="utf-8"), str(run.recipe), overrides)
    split = split or recipe.data.val_split
    part = (manifest or Manifest.load(run.manifest)).split(split)
    bundle = load_bundle(run.model)
    if part.classes != bundle.config.classes:
        raise UserError("the data's classes are not the model's.", file=part.root)
    look = look_with(bundle, heatmap, recipe.evaluation.crops, flip=flip, workers=recipe.training.workers)
    finder = Finder(part, rule, min_score=min_score, tolerance=tolerance)
    for sight in look.at(part.paths, finder.wanted):
        finder.take(sight)
    _report_damaged(part, look.damaged, on_error or recipe.data.on_error)
    settings = {"heatmap": heat_map.model_dump(mode="json"), "boxes": rule.model_dump(mode="json")}
    method = {
        "heatmap": heat_maps.name_of(heat_map),
        "boxes": box_rules.name_of(rule),
        "threshold": settings["boxes"].get("threshold", settings["boxes"].get("thresholds")),
        "settings": settings,
        "flip": flip,
        "min_score": min_score,
    }
    source = {
        "split": split,
        "label_rule": part.label_rule,
        "bundle_sha256": bundle.sha256,
        "crops": bundle.config.describe_input(look.preprocessing),
    }
    detections = finder.detections({**source, **{key: str(value) for key, value in method.items()}})
    metrics = {
        **finder.measures(detections),
        "method": method,
        **source,
        "damaged": [part.ids[row] for row, _ in look.damaged],
    }
    folder = run.localization(split)
    detections.save(folder / "detections.parquet")
    with atomic_path(folder / "places.parquet") as temporary:
        finder.places_table().write_parquet(temporary)
    write_text(folder / "metrics.json", json.dumps(metrics, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return Localization(metrics, detections, folder)


def look_with(
    bundle: Bundle,
    heatmap: str,
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
        heat_map=read_part(heat_maps, heatmap),
        to_scores=to_scores,
        flip=flip,
        workers=workers,
    )


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


def summarize(metrics: dict[str, Any]) -> str:
    """The measures in a table for a terminal: a line a class, then the means beside their baselines."""
    width = max(len("class"), *(len(one["name"]) for one in metrics["classes"]))
    lines = [f"{'class':{width}}  pictures  objects  pointing  centre  point AP  CorLoc   AP50  AP50(07)"]
    for one in metrics["classes"]:
        cells = "  ".join(_cell(one[key], size) for key, size in _COLUMNS)
        lines.append(f"{one['name']:{width}}  {one['n_positive']:8}  {one['n_objects']:7}  {cells}")
    pointing, boxes, base = metrics["pointing"], metrics["detection"], metrics["baselines"]
    best = ", ".join(f"{_cell(value)} at IoU {least}" for least, value in metrics["max_box_acc"].items())
    proposal = base["best_proposal"]["corloc"]
    classes = f"over {boxes['n_classes_in_map']} classes, {boxes['n_boxes']} boxes"
    lines += [
        "",
        f"pointing {_cell(pointing['accuracy'])} of {metrics['n_pairs']} pairs, within {pointing['tolerance_px']:g} px",
        f"  the picture's centre: {_cell(base['centre_point']['pointing'])}",
        f"AP where a wrong place is a false positive {_cell(pointing['ap'])}",
        f"  the picture's centre: {_cell(base['centre_point']['ap'])}",
        f"CorLoc {_cell(metrics['corloc'])} over pairs, {_cell(metrics['mean_corloc'])} over classes",
        f"  centre box: {_cell(base['centre_box']['corloc'])}; whole picture: {_cell(base['whole_image']['corloc'])}"
        + ("" if proposal is None else f"; best proposal: {_cell(proposal)}"),
        f"MaxBoxAcc {best}",
        f"detection mAP50 {_cell(boxes['map_50'])} (VOC07 {_cell(boxes['map_50_voc07'])}) {classes}",
        f"split {metrics['split']}, {metrics['n_images']} images; labels: {metrics['label_rule']}",
        f"input: {metrics['crops']}; {_said(metrics['method'], 'heatmap')}; {_said(metrics['method'], 'boxes')}",
    ]
    if metrics["n_pairs_without_box"]:
        lines.append(f"{metrics['n_pairs_without_box']} positive pairs have no true box and are left out")
    if metrics["damaged"]:
        lines.append(f"left out as damaged: {', '.join(metrics['damaged'])}")
    return "\n".join(lines)


_COLUMNS = (
    ("pointing", 8),
    ("centre_point", 6),
    ("pointing_ap", 8),
    ("corloc", 6),
    ("ap_50", 5),
    ("ap_50_voc07", 8),
)


def _cell(value: float | None, width: int = 0) -> str:
    return f"{'–' if value is None else format(value, '.3f'):>{width}}"


def _said(method: dict[str, Any], part: str) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in method["settings"][part].items())
    return f"{method[part]} ({settings})" if settings else str(method[part])


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
