"""One picture of a Manifest, in words and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from manyhot.atomic import atomic_open
from manyhot.data.drawing import draw_boxes, draw_outlines
from manyhot.data.images import open_image
from manyhot.data.manifest import Manifest
from manyhot.data.proposals import Corners
from manyhot.errors import UserError, nearest


def find_row(manifest: Manifest, image: str) -> int:
    """The row of an id, or of a number from 0; an id goes before a number.

    Raises:
        UserError: neither.
    """
    ids = manifest.ids
    if image in ids:
        return ids.index(image)
    if image.isdecimal() and int(image) < len(ids):
        return int(image)
    raise UserError(
        f"there is no picture '{image}'.",
        file=manifest.root,
        remedy=f"{nearest(image, ids)} Or a number under {len(ids)}.",
    )


def describe_image(manifest: Manifest, row: int) -> str:
    """Path, split, labels and boxes of a row, as lines of text."""
    labels = manifest.labels[row]
    named = {
        value: [name for name, label in zip(manifest.classes, labels, strict=True) if label == value]
        for value in (1, -1)
    }
    lines = [
        f"id       {manifest.ids[row]}",
        f"image    {manifest.paths[row]}",
        f"split    {manifest.table['split'][row]}",
        f"present  {', '.join(named[1]) or 'none'}",
        f"ignored  {', '.join(named[-1]) or 'none'}",
    ]
    for box in manifest.boxes(row):
        place = f"{box.x0:g}, {box.y0:g} to {box.x1:g}, {box.y1:g}"
        lines.append(f"box      {box.name}: {place}{', difficult' if box.difficult else ''}")
    return "\n".join(lines)


def draw_image(manifest: Manifest, row: int, out: Path) -> None:
    """Write the picture with its true boxes; the suffix of `out` is its format.

    Raises:
        UserError: the picture is damaged, or the format is unknown.
    """
    write_picture(draw_boxes(open_image(manifest.paths[row]), manifest.boxes(row)), out)


def draw_proposals(manifest: Manifest, row: int, boxes: Corners, count: int, out: Path) -> None:
    """Write the picture with `count` of its proposals, drawn from all of them by a generator of seed 0.

    Raises:
        UserError: the picture is damaged, or the format is unknown.
    """
    chosen = np.random.default_rng(0).permutation(len(boxes))[:count]
    write_picture(draw_outlines(open_image(manifest.paths[row]), boxes[chosen].tolist()), out)


def write_picture(drawn: Image.Image, out: Path) -> None:
    """Write a picture; the suffix is its format.

    Raises:
        UserError: an unknown format.
    """
    if out.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise UserError("pictures are written as .png, .jpg or .webp.", file=out)
    name = {".png": "PNG", ".webp": "WEBP"}.get(out.suffix.lower(), "JPEG")
    with atomic_open(out) as file:
        drawn.save(file, name)
