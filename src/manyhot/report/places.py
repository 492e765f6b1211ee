"""One self-contained page about places: the measures, and the best and worst placed pictures of every class."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from manyhot.atomic import write_text
from manyhot.data.images import DamagedImage, open_image
from manyhot.data.manifest import Manifest
from manyhot.localization.extremes import SIDE, Extremes, Placed
from manyhot.localization.heat import overlay
from manyhot.localization.overlays import FOUND, TRUE, outline
from manyhot.report.svg import printable


@dataclass(frozen=True)
class Tile:
    """A picture with its heat, its true boxes and the one found.

    Arguments:
        id: of the picture.
        uri: "data:image/jpeg;base64,…", or "" where the picture cannot be read.
        iou: in words.
        hit: the hottest point is on an object.
        score: in words.
    """

    id: str
    uri: str
    iou: str
    hit: bool
    score: str


def write_places_report(
    folder: Path, manifest: Manifest, metrics: Mapping[str, Any], extremes: Extremes, *, title: str
) -> Path:
    """Write `report.html`, which opens without a network. The same input gives the same bytes.

    Arguments:
        folder: made where it does not exist.
        manifest: of the pictures that were looked at.
        metrics: what `metrics.json` of `localize` holds.
        extremes: the pictures to show.
        title: heading of the page.

    Returns:
        The path of the page.
    """
    ends = []
    for c, row in enumerate(metrics["classes"]):
        best, worst = extremes.ends(c)
        sides = ([_tile(manifest, one) for one in best], [_tile(manifest, one) for one in worst])
        ends.append((printable(row["name"]), row, *sides))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("manyhot.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    page = environment.get_template("places.html").render(
        title=printable(title),
        headline=_headline(metrics),
        metrics=metrics,
        method=_method(metrics),
        ends=ends,
        true="#{:02x}{:02x}{:02x}".format(*TRUE),
        found="#{:02x}{:02x}{:02x}".format(*FOUND),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _headline(metrics: Mapping[str, Any]) -> list[tuple[str, float | None, str]]:
    """Name, value and baseline of the figures on top."""
    base = metrics["baselines"]

    def said(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    middle, box, whole = (
        said(base["centre_point"]["pointing"]),
        said(base["centre_box"]["corloc"]),
        said(base["whole_image"]["corloc"]),
    )
    pointing, detection = metrics["pointing"], metrics["detection"]
    return [
        ("Pointing", pointing["accuracy"], f"within {pointing['tolerance_px']:g} px; the picture's centre: {middle}"),
        ("CorLoc", metrics["corloc"], f"centre box: {box}; whole picture: {whole}"),
        ("Detection mAP50", detection["map_50"], f"{detection['n_boxes']} boxes"),
        ("MaxBoxAcc .5", metrics["max_box_acc"]["0.5"], "the largest part at the threshold that suits best"),
    ]


def _method(metrics: Mapping[str, Any]) -> str:
    method = metrics["method"]
    settings = ", ".join(f"{key} {value}" for key, value in method["settings"]["boxes"].items())
    refined = (", redrawn by GrabCut" if method["grabcut"] else "") + (
        f", snapped to {method['proposals']}" if method["proposals"] else ""
    )
    return printable(f"heat {method['heatmap']}; boxes {method['boxes']} ({settings}){refined}; {metrics['crops']}")


def _tile(manifest: Manifest, placed: Placed) -> Tile:
    return Tile(
        id=printable(manifest.ids[placed.row]),
        uri=_picture(manifest.paths[placed.row], placed),
        iou=f"{placed.iou:.2f}",
        hit=placed.hit,
        score=f"{placed.score:.3f}",
    )


def _picture(path: Path, placed: Placed) -> str:
    try:
        image = open_image(path)
    except DamagedImage:
        return ""
    scale = min(SIDE / max(image.size), 4.0)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = overlay(image.resize(size, Image.Resampling.LANCZOS), placed.heat / np.float32(255))
    ratio = np.array([size[0] / placed.size[0], size[1] / placed.size[1]] * 2)
    outline(shown, placed.objects * ratio, TRUE)
    if placed.box is not None:
        outline(shown, np.array([placed.box]) * ratio, FOUND)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=80, optimize=True, subsampling=0)  # thin lines keep their colours
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
