"""Manifest: one row an image. Every data source becomes one, and nothing behind it knows the source."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.atomic import atomic_path
from manyhot.detections import Objects
from manyhot.errors import UserError

Task = Literal["multilabel", "multiclass"]

BOX = pl.Struct(
    {
        "class": pl.String,
        "x0": pl.Float32,
        "y0": pl.Float32,
        "x1": pl.Float32,
        "y1": pl.Float32,
        "difficult": pl.Boolean,
    }
)
"""A true object: class name and corners in pixels, 0-based, x1 and y1 exclusive."""

_KEY = "manyhot.manifest"


@dataclass(frozen=True)
class Box:
    """A true object: class name, corners in pixels (0-based, x1 and y1 exclusive), VOC's difficult flag."""

    name: str
    x0: float
    y0: float
    x1: float
    y1: float
    difficult: bool = False


@dataclass(frozen=True)
class Row:
    """One image on its way into a Manifest.

    Arguments:
        id: unique name of the image.
        image: path under the manifest's root, with forward slashes.
        split: split name, for example "train".
        labels: C labels; 1 present, 0 absent, -1 ignored.
        width: pixels as displayed (after EXIF rotation), or None where the source does not say.
        height: likewise.
        boxes: true objects, where the source knows them.
    """

    id: str
    image: str
    split: str
    labels: Sequence[int]
    width: int | None = None
    height: int | None = None
    boxes: Sequence[Box] = ()


@dataclass(frozen=True, eq=False)
class Manifest:
    """The images of a data set with their image-level labels.

    Arguments:
        root: folder under which the image paths stand.
        classes: C class names, in the order of the label vector.
        task: "multilabel", or "multiclass" where every image has exactly one class.
        label_rule: how the labels came about, for people: "VOC Main lists, difficult: ignore".
        table: columns id, image, split (str), labels (int8[C]), width, height (int32, null if unknown), boxes.
    """

    root: Path
    classes: tuple[str, ...]
    task: Task
    label_rule: str
    table: pl.DataFrame

    @classmethod
    def from_rows(
        cls, root: Path, classes: Sequence[str], rows: Sequence[Row], *, task: Task = "multilabel", label_rule: str
    ) -> Manifest:
        """Build the table.

        Raises:
            UserError: two rows of one id, two classes of one name, or no class at all.
        """
        _refuse_repeats("class", classes)
        _refuse_repeats("image id", [row.id for row in rows])
        if not classes:
            raise UserError("the data names no class.", file=root)
        labels = np.array([row.labels for row in rows], dtype=np.int8).reshape(len(rows), len(classes))
        assert np.isin(labels, (-1, 0, 1)).all(), "a source must refuse labels that are none"
        table = pl.DataFrame(
            {
                "id": pl.Series([row.id for row in rows], dtype=pl.String),
                "image": pl.Series([row.image for row in rows], dtype=pl.String),
                "split": pl.Series([row.split for row in rows], dtype=pl.String),
                "labels": pl.Series(labels, dtype=pl.Array(pl.Int8, len(classes))),
                "width": pl.Series([row.width for row in rows], dtype=pl.Int32),
                "height": pl.Series([row.height for row in rows], dtype=pl.Int32),
                "boxes": pl.Series([[_box_dict(box) for box in row.boxes] for row in rows], dtype=pl.List(BOX)),
            }
        )
        return cls(root, tuple(classes), task, label_rule, table)

    def __len__(self) -> int:
        """Number of images."""
        return self.table.height

    @property
    def ids(self) -> list[str]:
        """Image ids, N."""
        return self.table["id"].to_list()

    @property
    def paths(self) -> list[Path]:
        """Image files, N."""
        return [self.root / image for image in self.table["image"]]

    @property
    def labels(self) -> NDArray[np.int8]:
        """Labels, int8 [N, C]: 1 present, 0 absent, -1 ignored."""
        return self.table["labels"].to_numpy().astype(np.int8, copy=True).reshape(len(self), len(self.classes))

    @property
    def splits(self) -> list[str]:
        """Split names in order of first appearance."""
        return self.table["split"].unique(maintain_order=True).to_list()

    def boxes(self, index: int) -> list[Box]:
        """The true objects of row `index`."""
        return [Box(box.pop("class"), **box) for box in self.table["boxes"][index].to_list()]

    def objects(self) -> Objects:
        """The true objects of all rows, picture by picture."""
        boxes = self.table.select("id", "boxes").explode("boxes").drop_nulls("boxes").unnest("boxes")
        return Objects(
            ids=tuple(boxes["id"]),
            names=tuple(boxes["class"]),
            boxes=boxes.select("x0", "y0", "x1", "y1").to_numpy().astype(np.float64),
            difficult=boxes["difficult"].to_numpy().astype(bool),
        )

    def split(self, name: str) -> Manifest:
        """The rows of one split.

        Raises:
            UserError: the split has no images.
        """
        part = self.rows(self.table["split"] == name)
        if not len(part):
            have = ", ".join(f"'{split}'" for split in self.splits) or "none"
            raise UserError(
                f"split '{name}' holds no images.", file=self.root, remedy=f"The splits with images: {have}."
            )
        return part

    def rows(self, keep: pl.Series | Sequence[bool]) -> Manifest:
        """The rows where `keep` is true."""
        return replace(self, table=self.table.filter(pl.Series(keep, dtype=pl.Boolean)))

    def with_validation(self, source: str, target: str, fraction: float, seed: int) -> Manifest:
        """Move a share of split `source` to split `target`, rounded down, the same share of every label combination.

        Which rows are taken depends on the seed, the ids and the labels, not on the order of the rows. Adding a picture
        moves at most one other picture of each label combination.
        """
        split, ids, labels = self.table["split"].to_list(), self.ids, self.labels
        groups: dict[bytes, list[int]] = {}
        for row, name in enumerate(split):
            if name == source:
                groups.setdefault(labels[row].tobytes(), []).append(row)
        seen = taken = 0
        # The share is counted over all groups so far: what rounding leaves over in one group goes to the next.
        for group in sorted(groups):
            rows = sorted(groups[group], key=lambda row: _order(seed, ids[row]))
            seen += len(rows)
            count = math.floor(seen * fraction + 1e-9) - taken  # 0.29 * 100 is a little less than 29
            taken += count
            for row in rows[:count]:
                split[row] = target
        return replace(self, table=self.table.with_columns(split=pl.Series(split, dtype=pl.String)))

    def save(self, path: Path) -> None:
        """Write Parquet with its metadata; the root is stored relative to the file's folder where it lies under it."""
        folder, root = path.parent.resolve(), self.root.resolve()
        stored = root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)
        metadata = json.dumps(
            {"root": stored, "classes": self.classes, "task": self.task, "label_rule": self.label_rule},
            ensure_ascii=False,
        )
        with atomic_path(path) as temporary:
            self.table.write_parquet(temporary, metadata={_KEY: metadata})

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a file that `save` wrote.

        Raises:
            UserError: no such file, or not a manifest.
        """
        try:
            table = pl.read_parquet(path)
            stored = pl.read_parquet_metadata(path)
            if _KEY not in stored:
                raise ValueError(f"the file's metadata lacks {_KEY}")  # noqa: TRY301
            metadata: dict[str, Any] = json.loads(stored[_KEY])
        except FileNotFoundError:
            raise UserError("there is no such file.", file=path) from None
        except (KeyError, ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(f"this is not a manifest ({error}).", file=path) from None
        root = path.parent / metadata["root"]
        return cls(root, tuple(metadata["classes"]), metadata["task"], metadata["label_rule"], table)


def is_manifest(path: Path) -> bool:
    """Whether a Parquet file is a manifest of ours."""
    try:
        return _KEY in pl.read_parquet_metadata(path)
    except (OSError, pl.exceptions.PolarsError):
        return False


def _box_dict(box: Box) -> dict[str, Any]:
    return {
        "class": box.name,
        "x0": box.x0,
        "y0": box.y0,
        "x1": box.x1,
        "y1": box.y1,
        "difficult": box.difficult,
    }


def _order(seed: int, id_: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{id_}".encode()).digest()[:8], "big")


def _refuse_repeats(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"the {what} '{name}' appears twice.")
        seen.add(name)
