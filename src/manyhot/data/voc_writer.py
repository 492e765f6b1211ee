"""Writes any Manifest with boxes as a Pascal VOC folder."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manyhot.data.images import image_size, open_image
from manyhot.data.manifest import Box, Manifest
from manyhot.errors import UserError
from manyhot.progress import track

SPLITS = ("train", "val", "trainval", "test")
"""The splits that VOC has lists for."""

JPEG_QUALITY = 95

_ORIENTATION_TAG = 0x0112


def write_voc(manifest: Manifest, folder: Path) -> None:
    """Write `Annotations`, `ImageSets/Main` and `JPEGImages` into `folder`, whole or not at all.

    Boxes count from 1 and include their last pixel, as VOC's do. A list says 1 for a class that is present, -1 for one
    that is absent, and 0 for an ignored one and for one whose objects are all difficult. JPEG files are copied byte for
    byte; other formats, and JPEGs that only some readers would show upright or in the right colours (EXIF rotation,
    CMYK), are written as JPEG of quality 95. In an id, all but letters, digits, dot, hyphen and underscore becomes an
    underscore, and so does a leading dot.

    Arguments:
        manifest: every class present in an image has a box there.
        folder: the year folder, such as `VOCdevkit/VOC2012`; absent or empty.

    Raises:
        UserError: the folder is not empty; a label without a box; a split that VOC has not; a class name that cannot
            be part of a file name; two ids of one file name; a damaged picture; the disk cannot be written.
    """
    _refuse_full(folder)
    _refuse_names(manifest)
    stems = _stems(manifest.ids)
    _refuse_bare_labels(manifest)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}-", dir=folder.absolute().parent, ignore_cleanup_errors=True
        ) as scratch:
            fresh = Path(scratch) / "fresh"
            _write_pictures(manifest, stems, fresh, folder.name)
            _write_lists(manifest, stems, fresh / "ImageSets" / "Main")
            if folder.exists():
                folder.rmdir()
            fresh.rename(folder)
    except OSError as error:
        raise UserError(f"the folder cannot be written ({error.strerror or error}).", file=folder) from None


def _refuse_full(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError("this is a file, not a folder.", file=folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError("the folder is not empty.", file=folder, remedy="Name a new one, or empty it first.")


def _refuse_names(manifest: Manifest) -> None:
    for split in manifest.splits:
        if split not in SPLITS:
            raise UserError(f"VOC has no split '{split}'.", remedy=f"Its splits: {', '.join(SPLITS)}.")
    if "trainval" in manifest.splits and {"train", "val"} & set(manifest.splits):
        raise UserError("VOC's split 'trainval' is all of 'train' and 'val', so it cannot stand beside them.")
    for name in manifest.classes:
        if re.search(r"[\x00-\x1f/\\:*?\"<>|]", name) or name != name.strip(" .") or not name:
            raise UserError(f"the class name '{name}' cannot be part of a file name.", remedy="Rename the class.")


def _stems(ids: Sequence[str]) -> list[str]:
    """The file name without suffix of every id."""
    stems = [re.sub(r"^\.|[^\w.-]", "_", id_) for id_ in ids]
    seen: dict[str, str] = {}
    for id_, stem in zip(ids, stems, strict=True):
        other = seen.setdefault(stem.casefold(), id_)  # some file systems do not tell upper from lower case
        if other != id_:
            raise UserError(f"the images '{other}' and '{id_}' would both be written as '{stem}'.")
    return stems


def _refuse_bare_labels(manifest: Manifest) -> None:
    for row, (id_, labels) in enumerate(zip(manifest.ids, manifest.labels, strict=True)):
        boxed = {box.name for box in manifest.boxes(row)}
        present = [name for name, label in zip(manifest.classes, labels, strict=True) if label == 1]
        if bare := [name for name in present if name not in boxed]:
            raise UserError(
                f"image '{id_}' shows {', '.join(bare)}, but has no box of it, and a VOC folder needs one.",
                remedy="Only data with boxes can be written as VOC.",
            )


def _write_pictures(manifest: Manifest, stems: Sequence[str], root: Path, year: str) -> None:
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)

    def one(row: int) -> None:
        picture = root / "JPEGImages" / f"{stems[row]}.jpg"
        _write_jpeg(manifest.root / manifest.table["image"][row], picture)
        xml = _annotation(year, picture, manifest.boxes(row))
        _write(root / "Annotations" / f"{stems[row]}.xml", xml.encode())

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(one, range(len(manifest))), len(manifest), "writing VOC"):
            pass


def _write_jpeg(source: Path, target: Path) -> None:
    picture = open_image(source)  # decoded in any case: a damaged file must not be passed on
    if _plain_jpeg(source):
        _write(target, source.read_bytes())
        return
    with target.open("wb") as file:
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        file.flush()
        os.fsync(file.fileno())


def _plain_jpeg(path: Path) -> bool:
    """Whether a sound picture is a JPEG file that every reader shows alike."""
    if not path.is_file():
        return False  # a picture of a pixel store
    with Image.open(path) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return False
        try:
            return bool(image.getexif().get(_ORIENTATION_TAG, 1) == 1)
        except Exception:  # noqa: BLE001 - broken EXIF data raise anything, and readers differ on them
            return False


def _annotation(year: str, picture: Path, boxes: Sequence[Box]) -> str:
    width, height = image_size(picture)
    with Image.open(picture) as image:
        depth = len(image.getbands())
    objects = "".join(_object(box, width, height) for box in boxes)
    return (
        f"<annotation>\n\t<folder>{escape(year)}</folder>\n\t<filename>{escape(picture.name)}</filename>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>{depth}</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _object(box: Box, width: int, height: int) -> str:
    truncated = box.x0 <= 0 or box.y0 <= 0 or box.x1 >= width or box.y1 >= height
    corners = (("xmin", box.x0 + 1), ("ymin", box.y0 + 1), ("xmax", box.x1), ("ymax", box.y1))
    lines = "".join(f"\t\t\t<{tag}>{value:.10g}</{tag}>\n" for tag, value in corners)
    return (
        f"\t<object>\n\t\t<name>{escape(box.name)}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>{truncated:d}</truncated>\n\t\t<difficult>{box.difficult:d}</difficult>\n"
        f"\t\t<bndbox>\n{lines}\t\t</bndbox>\n\t</object>\n"
    )


def _write_lists(manifest: Manifest, stems: Sequence[str], main: Path) -> None:
    main.mkdir(parents=True)
    values = _list_values(manifest)
    for split in manifest.splits:
        rows = [row for row, other in enumerate(manifest.table["split"]) if other == split]
        _write(main / f"{split}.txt", "".join(f"{stems[row]}\n" for row in rows).encode())
        for place, name in enumerate(manifest.classes):
            lines = "".join(f"{stems[row]} {values[row, place]:2d}\n" for row in rows)
            _write(main / f"{name}_{split}.txt", lines.encode())


def _list_values(manifest: Manifest) -> NDArray[np.int8]:
    """What the lists say, int8 [N, C]: 1 present, -1 absent, 0 ignored or difficult objects only."""
    values = np.array([-1, 1, 0], dtype=np.int8)[manifest.labels]  # by label 0, 1, -1
    for row in range(len(manifest)):
        easy: dict[str, bool] = {}
        for box in manifest.boxes(row):
            easy[box.name] = easy.get(box.name, False) or not box.difficult
        for name, any_easy in easy.items():
            if not any_easy:
                values[row, manifest.classes.index(name)] = 0
    return values


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
