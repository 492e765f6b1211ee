"""COCO instances: a JSON file of boxes, read as image-level labels with their boxes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.sources import Difficult, difficult_label, source
from manyhot.errors import UserError

_SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@source("coco")
class Coco:
    """a COCO instances JSON, or a folder with annotations/instances_*.json."""

    def recognises(self, text: str) -> bool:
        """Whether it is a .json file, or a folder with annotations/instances_*.json."""
        return bool(_files(Path(text)))

    def read(self, text: str, *, difficult: Difficult) -> Manifest:
        """Read every file's images; a category seen as crowds only is labelled by `difficult`.

        Raises:
            UserError: no COCO file, a broken reference, differing categories or missing pictures.
        """
        files = _files(Path(text))
        if not files:
            raise UserError(
                "there is no COCO file.", file=text, remedy="Expected a .json file, or annotations/instances_*.json."
            )
        parts = [_load(file) for file in files]
        root = _root(files[0])
        for part in parts[1:]:
            if part.classes != parts[0].classes:
                raise UserError(
                    f"the categories are not those of {parts[0].file.name}.",
                    file=part.file,
                    remedy="Name one of the files instead of the folder.",
                )
        rows = [row for part in parts for row in _rows(root, part, difficult)]
        classes = list(parts[0].classes.values())
        return Manifest.from_rows(root, classes, rows, label_rule=f"COCO instances, crowds (difficult): {difficult}")


@dataclass(frozen=True)
class _Part:
    """One JSON file: its class names by category id, and its images and annotations by image id."""

    file: Path
    classes: Mapping[int, str]
    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, Sequence[Mapping[str, Any]]]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted((path / "annotations").glob("instances_*.json"))
    return [path] if path.suffix.lower() == ".json" and path.is_file() else []


def _load(file: Path) -> _Part:
    try:
        data = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(f"malformed JSON ({error.msg}).", file=file, line=error.lineno) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"malformed JSON ({error}).", file=file) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f"there is no list '{key}'.", file=file, remedy="This is not COCO's instances format.")
    classes = {
        category["id"]: str(category["name"])
        for category in sorted(_entries(file, data, "categories", id=int, name=str), key=lambda one: one["id"])
    }
    if len(set(classes.values())) < len(classes) or len(classes) < len(data["categories"]):
        raise UserError("two categories have one id or one name.", file=file)
    images: dict[int, Mapping[str, Any]] = {}
    for image in _entries(file, data, "images", id=int, file_name=str):
        if image["id"] in images:
            raise UserError(f"there are two images of id {image['id']}.", file=file)
        images[image["id"]] = image
    annotations: dict[int, list[Mapping[str, Any]]] = {}
    for at, annotation in enumerate(_entries(file, data, "annotations", image_id=int, category_id=int)):
        if annotation["image_id"] not in images:
            raise UserError(f"annotations[{at}] names image {annotation['image_id']}, which is not listed.", file=file)
        if annotation["category_id"] not in classes:
            raise UserError(
                f"annotations[{at}] names category {annotation['category_id']}, which is not listed.", file=file
            )
        if "bbox" in annotation and not _is_bbox(annotation["bbox"]):
            raise UserError(
                f"annotations[{at}] has the bbox {annotation['bbox']}; expected x, y, width, height in pixels.",
                file=file,
            )
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    return _Part(file, classes, images, annotations)


def _entries(file: Path, data: Mapping[str, Any], key: str, **fields: type) -> list[Mapping[str, Any]]:
    for at, entry in enumerate(data[key]):
        for name, kind in fields.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
                raise UserError(f"{key}[{at}] has no {name} ({kind.__name__}).", file=file)
    return list(data[key])


def _is_bbox(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(one, int | float) for one in value)


def _rows(root: Path, part: _Part, difficult: Difficult) -> list[Row]:
    split = _split_of(part.file.stem)
    folder = _picture_folder(root, part, split)
    unsure = difficult_label(difficult)
    missing: list[str] = []
    rows = []
    for id_, image in part.images.items():
        path = folder / image["file_name"]
        if not path.is_file():
            missing.append(image["file_name"])
        found = part.annotations.get(id_, [])
        sure = {one["category_id"] for one in found if not one.get("iscrowd")}
        crowds = {one["category_id"] for one in found}
        labels = [1 if one in sure else unsure if one in crowds else 0 for one in part.classes]
        boxes = [_box(part.classes[one["category_id"]], one) for one in found if "bbox" in one]
        name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
        rows.append(Row(name, name, split, labels, _pixels(image.get("width")), _pixels(image.get("height")), boxes))
    if missing:
        raise UserError(
            f"{len(missing)} pictures are missing: {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}.",
            file=folder,
            remedy=f"{part.file.name} lists them.",
        )
    return rows


def _pixels(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _box(name: str, annotation: Mapping[str, Any]) -> Box:
    x, y, width, height = annotation["bbox"]
    return Box(name, x, y, x + width, y + height, bool(annotation.get("iscrowd")))


def _root(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _picture_folder(root: Path, part: _Part, split: str) -> Path:
    """Where the first image lies, of the usual places."""
    if not part.images:
        return root
    suffix = part.file.stem.removeprefix("instances_")
    places = (suffix, f"images/{suffix}", split, f"images/{split}", "images", "JPEGImages", "", "annotations", "data")
    first = next(iter(part.images.values()))["file_name"]
    for place in places:
        if (root / place / first).is_file():
            return root / place
    raise UserError(
        f"the pictures are not to be found: looked for {first} in {', '.join(place or '.' for place in places)}.",
        file=root,
        remedy=f"Put them beside {part.file.name} or in a folder of one of these names.",
    )


def _split_of(stem: str) -> str:
    """Split name by the file's name: `instances_train2017` is train; without any hint, train."""
    name = re.sub(r"\d+$", "", stem.removeprefix("instances_")).strip("_-.")
    if stem.startswith("instances_") and name:
        return _SPLIT_WORDS.get(name, name)
    words = re.split(r"[^a-z]+", stem.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "train")
