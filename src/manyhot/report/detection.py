"""One self-contained page about a detector's boxes of one split."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from manyhot.atomic import write_text
from manyhot.data.drawing import draw_boxes
from manyhot.data.images import DamagedImage, open_image
from manyhot.data.manifest import Box, Manifest
from manyhot.detections import Detections
from manyhot.metrics.detection import Judged, judge
from manyhot.report import plots
from manyhot.report.svg import Plot, printable

TILES = 5
"""Pictures of the best and of the worst boxes of a class."""

MOST_CLASSES = 30
"""With more classes pictures are shown of the first ones only."""

_SIDE = 260
_COLUMNS = (
    ("ap_50", "AP50"),
    ("ap_50_voc07", "AP50(07)"),
    ("ap_75", "AP75"),
    ("corloc", "CorLoc"),
    ("image_ap", "image AP"),
    ("n_pairs", "pictures"),
    ("n_objects", "objects"),
    ("n_detections", "boxes"),
)


@dataclass(frozen=True)
class Tile:
    """One box in its picture.

    Arguments:
        uri: the picture as a JPEG data URI; "" where it cannot be read.
        id: of the picture.
        score: of the box.
    """

    uri: str
    id: str
    score: float


@dataclass(frozen=True)
class ClassPart:
    """What the page shows of one class."""

    name: str
    plot: Plot
    best: list[Tile]
    worst: list[Tile]


def write_detection_report(
    folder: Path, title: str, metrics: Mapping[str, Any], detections: Detections, manifest: Manifest
) -> Path:
    """Write `report.html`: measures, a table of classes, precision by recall, and pictures of right and wrong boxes.

    Arguments:
        folder: made where it does not exist.
        title: heading of the page.
        metrics: what `metrics.json` holds.
        detections: the boxes.
        manifest: of the pictures looked at.

    Returns:
        The path of the page.
    """
    objects = manifest.objects()
    parts = []
    for number, row in enumerate(metrics["classes"]):
        name = row["name"]
        judged = judge(detections, objects, name)
        plot = plots.precision_recall_class(printable(name), number, judged.curve, None, row["ap_50"])
        shown = number < MOST_CLASSES
        best, worst = (
            (_tiles(judged, 1, name, detections, manifest), _tiles(judged, 0, name, detections, manifest))
            if shown
            else ([], [])
        )
        parts.append(ClassPart(printable(name), plot, best, worst))
    page = (
        jinja2.Environment(
            loader=jinja2.PackageLoader("manyhot.report", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        .get_template("detection.html")
        .render(
            title=printable(title),
            headline=_headline(metrics),
            facts=_facts(metrics),
            columns=[name for _, name in _COLUMNS],
            table=[(printable(row["name"]), [_shown(row[key]) for key, _ in _COLUMNS]) for row in metrics["classes"]],
            parts=parts,
        )
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _headline(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    counted = sum(row["ap_50"] is not None for row in metrics["classes"])
    base = metrics["baselines"]
    return [
        ("mAP at IoU .5", _shown(metrics["map_50"]), f"mean over {counted} classes"),
        ("by the rule of 2007", _shown(metrics["map_50_voc07"]), "11 points"),
        ("mAP at IoU .75", _shown(metrics["map_75"]), ""),
        ("CorLoc", _shown(metrics["corloc"]), f"over pairs {_shown(metrics['corloc_pairs'])}"),
        ("centre box", _shown(base["centre_box"]), "CorLoc over pairs"),
        ("best proposal", _shown(base["best_proposal"]), "CorLoc over pairs"),
        ("image mAP", _shown(metrics["image_map"]), "of image scores"),
    ]


def _facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    recall = ", ".join(f"{_shown(value)} at {least}" for least, value in metrics["recall"].items())
    return [
        ("split", printable(f"{metrics['split']}, {metrics['n_images']} pictures")),
        ("labels", printable(metrics["label_rule"])),
        ("proposals", f"{metrics['boxes_per_image']:.0f} a picture, recall {recall}"),
        ("scales, flips", f"{metrics['scales']}, {metrics['flips']}"),
        ("suppression", f"IoU above {metrics['overlap']}"),
        ("weights", metrics["bundle_sha256"][:12]),
    ]


def _tiles(judged: Judged, verdict: int, name: str, detections: Detections, manifest: Manifest) -> list[Tile]:
    """The boxes of a verdict that score highest, one a picture."""
    ids = manifest.ids
    chosen: dict[str, int] = {}
    for row in judged.rows[judged.verdicts == verdict].tolist():
        chosen.setdefault(detections.ids[row], row)
        if len(chosen) == TILES:
            break
    found = []
    for id_, row in chosen.items():
        place = ids.index(id_)
        true = [
            Box(box.name, box.x0, box.y0, box.x1, box.y1, True) for box in manifest.boxes(place) if box.name == name
        ]
        corners = [float(one) for one in detections.boxes[row]]
        score = float(detections.scores[row])
        mine = Box(f"{score:.2f}", corners[0], corners[1], corners[2], corners[3])
        found.append(Tile(_drawn(manifest.paths[place], [*true, mine]), printable(id_), score))
    return found


def _drawn(path: Path, boxes: Sequence[Box]) -> str:
    try:
        picture = draw_boxes(open_image(path), boxes)
    except DamagedImage:
        return ""
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
