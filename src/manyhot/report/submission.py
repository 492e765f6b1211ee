"""Detections in the layouts of others: VOC's submission files and COCO's results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from manyhot.atomic import write_text
from manyhot.data.manifest import Manifest
from manyhot.detections import Detections
from manyhot.errors import UserError


def write_voc(detections: Detections, folder: Path, split: str) -> list[Path]:
    """Write `comp4_det_SPLIT_CLASS.txt` of every class, as VOC's development kit and server take them.

    A line is the picture's id, the score, and xmin, ymin, xmax, ymax, which count the first pixel as 1 and include the
    last. Every class has a file, be it empty. Scores and corners are written so that they are read back exactly.

    Source: Everingham and Winn, The PASCAL VOC 2012 Development Kit, section 6 (competition comp4).

    Arguments:
        detections: of all classes.
        folder: made where it does not exist.
        split: of the pictures, in the names of the files.

    Returns:
        The files, in the order of the classes.

    Raises:
        UserError: a class or an id that such a file cannot hold.
    """
    for name in detections.classes:
        if not name or name != Path(name).name or name in {".", ".."}:
            raise UserError(f"the class '{name}' is no file name, and VOC's files are named by class.")
    for id_ in detections.ids:
        if not id_ or any(character.isspace() for character in id_):
            raise UserError(f"the id '{id_}' holds a blank, which separates the columns of VOC's files.")
    lines: dict[str, list[str]] = {name: [] for name in detections.classes}
    corners_M4 = detections.boxes.astype(np.float64) + np.array([1, 1, 0, 0])
    for id_, name, score, corners in zip(
        detections.ids, detections.names, detections.scores.tolist(), corners_M4.tolist(), strict=True
    ):
        lines[name].append(f"{id_} {score!r} " + " ".join(f"{corner!r}" for corner in corners) + "\n")
    files = [folder / f"comp4_det_{split}_{name}.txt" for name in detections.classes]
    for file, own in zip(files, lines.values(), strict=True):
        write_text(file, "".join(own))
    return files


def write_coco(detections: Detections, manifest: Manifest, file: Path) -> None:
    """Write COCO's results, a list of boxes with the numbers of their picture and class.

    `image_id` is the id where every id is a whole number, as in COCO's own files, else the row of the picture in the
    manifest, from 1; `category_id` is the place of the class, from 1. `file_name` and `category` name both. A box is
    x, y, width, height in pixels from the picture's corner.

    Source: https://cocodataset.org/#format-results.
    """
    numeric = all(id_.isdecimal() and str(int(id_)) == id_ for id_ in manifest.ids)
    number = {id_: int(id_) if numeric else row for row, id_ in enumerate(manifest.ids, 1)}
    image = dict(manifest.table.select("id", "image").rows())
    category = {name: place for place, name in enumerate(detections.classes, 1)}
    results = [
        {
            "image_id": number[id_],
            "category_id": category[name],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
            "file_name": image[id_],
            "category": name,
        }
        for id_, name, score, (x0, y0, x1, y1) in zip(
            detections.ids,
            detections.names,
            detections.scores.tolist(),
            detections.boxes.astype(np.float64).tolist(),
            strict=True,
        )
    ]
    write_text(file, json.dumps(results, ensure_ascii=False, allow_nan=False) + "\n")
