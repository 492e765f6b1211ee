"""Pictures of the page: which stand at each end of a class's ranking, and each distinct one as a small JPEG, once."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from manyhot.data.images import DamagedImage, is_present, open_image
from manyhot.data.manifest import Manifest
from manyhot.predictions import Predictions

THUMBNAIL = (168, 112)
"""Largest width and height in pixels."""

_TRUTH = {1: "present", 0: "absent", -1: "ignored"}


@dataclass(frozen=True)
class Tile:
    """One picture in the ranking of one class.

    Arguments:
        row: row of the predictions.
        score: 0…1.
        truth: "present", "absent" or "ignored".
    """

    row: int
    score: float
    truth: str


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a JPEG data URI, or the reason why there is none.

    Arguments:
        uri: "data:image/jpeg;base64,…", or "" where there is none.
        trouble: "", "missing" or "damaged".
        reason: more about the trouble: "truncated".
    """

    uri: str
    trouble: str = ""
    reason: str = ""


def tiles_an_end(n_classes: int) -> int:
    """How many pictures to show at each end of a ranking, fewer where classes are many: the page must open fast."""
    return 10 if n_classes <= 40 else 5 if n_classes <= 100 else 3


def ends(predictions: Predictions, class_index: int, number: int) -> tuple[list[Tile], list[Tile]]:
    """The `number` most probable pictures of a class, best first, and the least probable, lowest first.

    No picture stands at both ends. Equal scores keep the order of the table.
    """
    scores, labels = predictions.scores[:, class_index], predictions.labels[:, class_index]
    descending = np.argsort(-predictions.ranking[:, class_index], kind="stable")
    top = descending[:number]
    bottom = descending[number:][::-1][:number]

    def tiles(rows: Iterable[int]) -> list[Tile]:
        return [Tile(int(row), float(scores[row]), _TRUTH[int(labels[row])]) for row in rows]

    return tiles(top), tiles(bottom)


def thumbnails(predictions: Predictions, manifest: Manifest | None, rows: Iterable[int]) -> dict[int, Thumbnail]:
    """The pictures of the given prediction rows, keyed by row; a picture that cannot be read says why."""
    wanted = sorted(set(rows))
    paths = dict(zip(manifest.ids, manifest.paths, strict=True)) if manifest is not None else {}
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda row: thumbnail(paths.get(predictions.ids[row])), wanted)
        return dict(zip(wanted, made, strict=True))


def thumbnail(path: Path | None) -> Thumbnail:
    """The picture at `path`, upright and reduced to fit THUMBNAIL; None stands for a picture that is not known."""
    if path is None or not is_present(path):
        return Thumbnail("", "missing", "no such file" if path else "not in the manifest")
    try:
        image = open_image(path)
    except DamagedImage as fault:
        return Thumbnail("", "damaged", fault.reason)
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
