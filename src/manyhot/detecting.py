"""`detect`: a detector's run and a split in; boxes out, measured by the rules of VOC."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyhot.atomic import write_text
from manyhot.data.images import DamagedImage
from manyhot.data.manifest import Manifest
from manyhot.data.proposals import Proposals
from manyhot.data.selective_search import search_manifest
from manyhot.detections import Detections
from manyhot.errors import UserError
from manyhot.inference.detect import BoxScores, score_boxes, sizes_of
from manyhot.metrics.detection import detection_ap
from manyhot.metrics.localization import best_iou, centre_boxes, corloc
from manyhot.metrics.proposals import best_overlaps, recall
from manyhot.metrics.ranking import average_precision, mean_ap
from manyhot.models.bundle import load_detector
from manyhot.models.detectors import WSDDN, detectors
from manyhot.predictions import Predictions
from manyhot.recipe import parse_recipe
from manyhot.report.detection import write_detection_report
from manyhot.report.submission import write_coco, write_voc
from manyhot.runs import open_run

log = logging.getLogger("manyhot")


@dataclass(frozen=True)
class Detection:
    """What `detect` found, and where it lies.

    Arguments:
        metrics: the content of metrics.json (docs/detection.md).
        detections: the boxes.
        folder: of metrics.json, detections.parquet, the submission files and the report.
    """

    metrics: dict[str, Any]
    detections: Detections
    folder: Path


def detect(
    path: str | Path,
    split: str | None = None,
    *,
    manifest: Manifest | None = None,
    proposals: Proposals | str | Path | None = None,
    overrides: list[str] | None = None,
    on_error: str | None = None,
) -> Detection:
    """Look for boxes in the pictures of a split with a run's best detector, and measure them by the true ones.

    Arguments:
        path: the run folder.
        split: split name; None is the recipe's val split.
        manifest: other data than the run was trained on; its classes must be the model's.
        proposals: boxes of the pictures, or their file; None: the run's own, or else the recipe's selective search.
        overrides: changed keys of the recipe that say how boxes are found: `model.detector.test_scales=[480]`.
        on_error: "stop" or "skip" at damaged pictures; None is the recipe's.

    Raises:
        UserError: no run or no trained detector there, an empty split, other classes, proposals that do not fit,
            damaged pictures.
    """
    run = open_run(Path(path))
    recipe = parse_recipe(run.recipe.read_text(encoding="utf-8"), str(run.recipe), overrides)
    if recipe.model.detector is None:
        raise UserError("this run is of a classifier.", file=run.path, remedy="Use: manyhot localize RUN.")
    part = detectors.build(recipe.model.detector)
    assert isinstance(part, WSDDN)
    split = split or recipe.data.val_split
    pictures = (manifest or Manifest.load(run.manifest)).split(split)
    bundle = load_detector(run.model)
    if pictures.classes != bundle.config.classes:
        raise UserError("the data's classes are not the model's.", file=pictures.root)
    on_error = on_error or recipe.data.on_error
    boxes = _proposals(run.proposals, proposals, pictures, part, on_error)
    pictures = pictures.rows([id_ in set(boxes.ids) for id_ in pictures.ids])
    boxes = boxes.of(pictures)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = bundle.model.to(device).to(memory_format=torch.channels_last)
    damaged: list[DamagedImage] = []
    found = list(score_boxes(network, part, bundle.config.preprocessing, pictures.paths, boxes, damaged))
    if damaged and (on_error == "stop" or not found):
        listing = "\n".join(f"  {fault}" for fault in damaged)
        raise UserError(f"{len(damaged)} of {len(pictures)} pictures cannot be read:\n{listing}")
    faulty = {fault.path for fault in damaged}
    kept = pictures.rows([path not in faulty for path in pictures.paths])
    source = {
        "split": split,
        "label_rule": pictures.label_rule,
        "bundle_sha256": bundle.config.weights_sha256,
        "proposals": json.dumps(boxes.source),
        "scales": json.dumps(part.detection_scales),
        "flips": json.dumps(part.flips),
        "detector": recipe.model.detector["name"],
        "overlap": f"{part.overlap:g}",
    }
    detections = collect(found, pictures, part, source)
    metrics = {
        **measure(found, detections, kept, pictures, boxes),
        **source,
        "damaged": [pictures.ids[pictures.paths.index(fault.path)] for fault in damaged],
    }
    folder = run.detection(split)
    detections.save(folder / "detections.parquet")
    _image_scores(found, pictures, source).save(folder / "predictions.parquet")
    write_voc(detections, folder, split)
    write_coco(detections, kept, folder / "coco.json")
    write_text(folder / "metrics.json", json.dumps(metrics, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    write_detection_report(folder, f"{recipe.name}: boxes of {split}", metrics, detections, kept)
    return Detection(metrics, detections, folder)


def _image_scores(found: list[BoxScores], pictures: Manifest, source: dict[str, str]) -> Predictions:
    """The scores of the pictures, which the gallery ranks them by."""
    rows = [one.row for one in found]
    ids, splits = pictures.ids, pictures.table["split"].to_list()
    return Predictions(
        ids=tuple(ids[row] for row in rows),
        splits=tuple(splits[row] for row in rows),
        scores=np.stack([one.image for one in found]),
        labels=pictures.labels[rows],
        classes=tuple(pictures.classes),
        source=source,
    )


def _proposals(
    own: Path, given: Proposals | str | Path | None, pictures: Manifest, part: WSDDN, on_error: str
) -> Proposals:
    if isinstance(given, Proposals):
        return given.of(pictures)
    if given is not None:
        return Proposals.load(given).of(pictures, given)
    if own.exists():
        former = Proposals.load(own)
        if set(pictures.ids) <= set(former.ids):
            return former.of(pictures, own)
        if former.source.get("method") != "selective search":
            raise UserError(
                "the run's proposals are no selective search and do not hold these pictures.",
                file=own,
                remedy="Give --proposals FILE.",
            )
    return search_manifest(pictures, part.search, on_error=on_error)


def collect(found: list[BoxScores], pictures: Manifest, part: WSDDN, source: dict[str, str]) -> Detections:
    """All detections, picture by picture, class by class, the best first."""
    ids = pictures.ids
    return Detections.from_rows(
        (
            (ids[one.row], name, score, corners.tolist())
            for one in found
            for c, name in enumerate(pictures.classes)
            for score, corners in one.detections(c, part.min_score, part.overlap)
        ),
        pictures.classes,
        source,
    )


def measure(
    found: list[BoxScores], detections: Detections, kept: Manifest, pictures: Manifest, proposals: Proposals
) -> dict[str, Any]:
    """Average precision, CorLoc, and what needs no detector beside them."""
    objects = kept.objects()
    half, three = (detection_ap(detections, objects, least_iou=least) for least in (0.5, 0.75))
    places, own_proposals = objects.places(), dict(zip(proposals.ids, proposals.boxes, strict=True))
    sizes = dict(zip(kept.ids, sizes_of(kept.paths), strict=True))
    ids = pictures.ids
    pairs: list[tuple[int, Any, Any, Any]] = []
    for one in found:
        for c in np.flatnonzero(pictures.labels[one.row] == 1).tolist():
            true = places.get((ids[one.row], pictures.classes[c]))
            if true is not None:
                best = one.best(c)
                pairs.append((c, np.full(4, np.nan) if best is None else best, true, sizes[ids[one.row]]))
    true_boxes = [pair[2] for pair in pairs]
    column = np.array([pair[0] for pair in pairs], np.int64)
    overlaps = best_iou(np.array([pair[1] for pair in pairs]).reshape(-1, 4), true_boxes)
    middle = best_iou(centre_boxes(np.array([pair[3] for pair in pairs]).reshape(-1, 2)), true_boxes)
    image_ap = average_precision(
        np.array([one.image for one in found], np.float32).reshape(len(found), -1), kept.labels
    )
    reached = recall(own_proposals, objects)
    classes = [
        {
            "name": name,
            "n_pairs": int((column == c).sum()),
            "n_objects": int(half.n_objects[c]),
            "n_detections": int(half.n_detections[c]),
            "ap_50": _value(half.area[c]),
            "ap_50_voc07": _value(half.voc07[c]),
            "ap_75": _value(three.area[c]),
            "corloc": _value(corloc(overlaps[column == c])),
            "image_ap": _value(image_ap[c]),
        }
        for c, name in enumerate(kept.classes)
    ]
    of_pair = dict.fromkeys(places, 0.0)
    for id_, name, value in zip(objects.ids, objects.names, best_overlaps(own_proposals, objects), strict=True):
        of_pair[id_, name] = max(of_pair[id_, name], float(value))
    return {
        "n_images": len(found),
        "n_pairs": len(pairs),
        "n_detections": len(detections),
        "map_50": _mean(classes, "ap_50"),
        "map_50_voc07": _mean(classes, "ap_50_voc07"),
        "map_75": _mean(classes, "ap_75"),
        "corloc": _mean(classes, "corloc"),
        "corloc_pairs": _value(corloc(overlaps)),
        "image_map": _value(mean_ap(image_ap)[0]),
        "recall": {f"{least:g}": _value(value) for least, value in reached.items()},
        "boxes_per_image": float(np.mean([len(one.boxes) for one in found])),
        "baselines": {
            "centre_box": _value(corloc(middle)),
            "best_proposal": _value(corloc(np.array(list(of_pair.values())))),
        },
        "classes": classes,
    }


def summarize(metrics: dict[str, Any]) -> str:
    """The measures in a table for a terminal: a line a class, then the means beside their baselines."""
    width = max(len("class"), *(len(one["name"]) for one in metrics["classes"]))
    lines = [f"{'class':{width}}  pictures  objects   AP50  AP50(07)   AP75  CorLoc  image AP"]
    for one in metrics["classes"]:
        cells = "  ".join(f"{_cell(one[key]):>{size}}" for key, size in _COLUMNS)
        lines.append(f"{one['name']:{width}}  {one['n_pairs']:8}  {one['n_objects']:7}  {cells}")
    counted = sum(one["ap_50"] is not None for one in metrics["classes"])
    known = ", ".join(f"{_cell(value)} at IoU {least}" for least, value in metrics["recall"].items())
    lines += [
        "",
        (
            f"detection mAP50 {_cell(metrics['map_50'])} (VOC07 {_cell(metrics['map_50_voc07'])}), mAP75 "
            f"{_cell(metrics['map_75'])} over {counted} classes, {metrics['n_detections']} boxes"
        ),
        f"CorLoc {_cell(metrics['corloc'])} over classes, {_cell(metrics['corloc_pairs'])} over pairs",
        (
            f"  centre box: {_cell(metrics['baselines']['centre_box'])}; best proposal: "
            f"{_cell(metrics['baselines']['best_proposal'])}"
        ),
        f"image mAP {_cell(metrics['image_map'])}",
        f"proposals: {metrics['boxes_per_image']:.0f} a picture, recall {known}",
        f"split {metrics['split']}, {metrics['n_images']} images; labels: {metrics['label_rule']}",
    ]
    if metrics["damaged"]:
        lines.append(f"left out as damaged: {', '.join(metrics['damaged'])}")
    return "\n".join(lines)


_COLUMNS = (("ap_50", 5), ("ap_50_voc07", 8), ("ap_75", 5), ("corloc", 6), ("image_ap", 8))


def _mean(classes: list[dict[str, Any]], key: str) -> float | None:
    known = [one[key] for one in classes if one[key] is not None]
    return float(np.mean(known)) if known else None


def _value(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
