"""What is to be scored by which model, cut into parts: written before the work, and held against at every rerun."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from manyhot.atomic import atomic_path, sha256_file
from manyhot.errors import UserError
from manyhot.predictions import Predictions

_KEY, _PART_KEY = "manyhot.plan", "manyhot.part"
_FORMAT = 1

BATCH = 32
"""Pictures a forward pass. Parts are multiples of it: each batch holds what it would hold in one process."""

_PARTS, _LARGEST_PART = 128, 4096


@dataclass(frozen=True)
class Scored:
    """What became of the pictures of one part.

    Arguments:
        predictions: of those that could be read; their ids are the places in the part, as text.
        damaged: (place in the part, reason) of the others, by place.
    """

    predictions: Predictions
    damaged: list[tuple[int, str]]


@dataclass(frozen=True)
class Plan:
    """The pictures, in parts, and where the results go.

    Arguments:
        folder: of the results.
        pictures: a table as `list_pictures` or `list_manifest` make it, N rows.
        part_size: pictures in each part but the last.
        sha256: of the plan's file.
        source: where the pictures come from, for the Predictions.
    """

    folder: Path
    pictures: pl.DataFrame
    part_size: int
    sha256: str
    source: dict[str, str]

    @property
    def parts(self) -> int:
        """Number of parts."""
        return math.ceil(len(self.pictures) / self.part_size)

    def part(self, number: int) -> pl.DataFrame:
        """The pictures of part 0…parts - 1."""
        return self.pictures[number * self.part_size : (number + 1) * self.part_size]

    def path(self, number: int) -> Path:
        """The file of a part's scores."""
        return self.folder / f"part-{number:05}.parquet"

    def write(self, number: int, scored: Scored) -> None:
        """Keep what became of a part, whole or not at all."""
        pictures = self.part(number)
        rows = [int(place) for place in scored.predictions.ids]
        kept = pictures[rows]
        predictions = replace(
            scored.predictions,
            ids=tuple(kept["id"]),
            splits=tuple(kept["split"]),
            labels=_labels(kept, len(scored.predictions.classes)),
            source={**self.source, **scored.predictions.source},
        )
        note = {
            "plan": self.sha256,
            "part": number,
            "damaged": scored.damaged,
            "content": _digest(predictions),
        }
        predictions.save(self.path(number), notes={_PART_KEY: json.dumps(note, ensure_ascii=False)})

    def damaged(self, number: int) -> list[tuple[int, str]] | None:
        """(place in the part, reason) of the damaged pictures of a finished part; None where it is not finished.

        The file is read and checked: it is finished where it is of this plan, its scores have the SHA-256 that was
        written with them, and every picture of the part is either scored or damaged.
        """
        path = self.path(number)
        if not path.exists():
            return None
        try:
            note = json.loads(pl.read_parquet_metadata(path).get(_PART_KEY, "{}"))
            predictions = Predictions.load(path)
        except (UserError, OSError, ValueError, pl.exceptions.PolarsError):
            return None
        if (note.get("plan"), note.get("part"), note.get("content")) != (self.sha256, number, _digest(predictions)):
            return None
        damaged = [(int(place), str(reason)) for place, reason in note["damaged"]]
        lost = {place for place, _ in damaged}
        wanted = [id_ for place, id_ in enumerate(self.part(number)["id"]) if place not in lost]
        return damaged if list(predictions.ids) == wanted else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the lock ends with the process, however it ends.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            "another process is writing to this folder.", file=folder, remedy="Wait for it, or give another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def open_plan(
    folder: Path,
    pictures: pl.DataFrame,
    settings: Mapping[str, Any],
    source: dict[str, str] | None = None,
    part_size: int | None = None,
) -> Plan:
    """The plan of a folder: the one that is there, where it is of these pictures and settings, else a new one.

    Arguments:
        folder: of the results.
        pictures: as `Plan`.
        settings: all that can change the scores, by name; values of JSON.
        source: where the pictures come from, for the Predictions.
        part_size: a multiple of BATCH; None: that of the plan that is there, else by the number of pictures.

    Raises:
        UserError: the folder holds results of other pictures or settings, or something else; a part size that is none.
    """
    if part_size is not None and (part_size < BATCH or part_size % BATCH):
        raise UserError(f"--part-size {part_size} is no multiple of {BATCH}, the pictures of a forward pass.")
    path = folder / "plan.parquet"
    source = source or {}
    settings = {**settings, **{name.replace("_", " "): text for name, text in source.items()}}
    if path.exists():
        sha256, part_size = _reopened(path, pictures, settings, part_size)
        return Plan(folder, pictures, part_size, sha256, source)
    if any(one.name != ".lock" for one in folder.iterdir()):
        raise UserError("this folder holds something else.", file=folder, remedy="Give a new or empty --out.")
    part_size = part_size or default_part_size(len(pictures))
    content = {"format": _FORMAT, "part_size": part_size, "settings": settings}
    with atomic_path(path) as temporary:
        pictures.write_parquet(temporary, metadata={_KEY: json.dumps(content, ensure_ascii=False)})
    return Plan(folder, pictures, part_size, sha256_file(path), source)


def default_part_size(pictures: int) -> int:
    """Enough parts that workers end together, a multiple of BATCH, not so large that a lost part costs much."""
    return min(_LARGEST_PART, BATCH * math.ceil(pictures / _PARTS / BATCH))


def _reopened(
    path: Path, pictures: pl.DataFrame, settings: Mapping[str, Any], part_size: int | None
) -> tuple[str, int]:
    """SHA-256 and part size of a plan that is there."""
    remedy = "Give another --out, or remove this one."
    try:
        stored = json.loads(pl.read_parquet_metadata(path).get(_KEY, "{}"))
        former = pl.read_parquet(path)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise UserError(f"this is not a plan that can be read ({error}).", file=path, remedy=remedy) from None
    if stored.get("format") != _FORMAT:
        raise UserError("this plan is of another version of manyhot.", file=path, remedy=remedy)
    changed = [name for name, value in settings.items() if stored["settings"].get(name) != value]
    if changed:
        what = f"this folder holds scores by another {' and another '.join(changed)}."
        raise UserError(what, file=path.parent, remedy=remedy)
    if not former.equals(pictures):
        what = f"this folder holds scores of other pictures ({len(former)}; now it would be {len(pictures)})."
        raise UserError(what, file=path.parent, remedy=remedy)
    if part_size not in {None, stored["part_size"]}:
        what = f"this folder holds parts of {stored['part_size']} pictures, not {part_size}."
        raise UserError(what, file=path.parent, remedy=remedy)
    return sha256_file(path), stored["part_size"]


def _labels(pictures: pl.DataFrame, classes: int) -> NDArray[np.int8]:
    if "labels" not in pictures.columns:
        return np.full((len(pictures), classes), -1, np.int8)
    return pictures["labels"].to_numpy().astype(np.int8).reshape(-1, classes)


def _digest(predictions: Predictions) -> str:
    digest = hashlib.sha256()
    for array in (predictions.scores, predictions.labels, predictions.uncalibrated):
        digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()
