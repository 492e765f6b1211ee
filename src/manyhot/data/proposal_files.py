"""Proposals that others published as MATLAB files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyhot.data.images import image_size
from manyhot.data.manifest import Manifest
from manyhot.data.proposals import Proposals, tidy
from manyhot.errors import UserError

LAYOUTS = {
    "xyxy0": ((0, 1, 2, 3), 0),
    "xyxy1": ((0, 1, 2, 3), 1),
    "yxyx0": ((1, 0, 3, 2), 0),
    "yxyx1": ((1, 0, 3, 2), 1),
}
"""Order of the columns as places of x0, y0, x1, y1, and the number of the first pixel; last pixels are inclusive."""


def read_mat(path: str | Path, layout: str, manifest: Manifest, *, min_side: float = 20) -> Proposals:
    """Published boxes of a manifest's pictures.

    Two arrangements are known. A file of a whole data set holds cells: `boxes` (or `Boxes`), one array [R, 4] a
    picture, and `images` with their names; `boxScores` (or `scores`) may give scores. Or a folder holds one file a
    picture, `ID.mat` or `ID_boxes.mat`, each with an array `boxes`.

    Arguments:
        path: the file or the folder.
        layout: a key of `LAYOUTS`; it is never guessed, for a wrong one shifts or transposes every box.
        manifest: of the pictures; names may be their ids, or their file names with or without folder and suffix.
        min_side: least width and height of a box, pixels.

    Raises:
        UserError: no such file, none of these arrangements, a picture without boxes of its own, or boxes that
            contradict the layout or the size of their picture.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout '{layout}' is none.", remedy=f"Give one of {', '.join(LAYOUTS)}.")
    source = Path(path)
    if not source.exists():
        raise UserError("there is no such file or folder.", file=source)
    found = dict(_folder(source, manifest) if source.is_dir() else _cells(source))
    names = [_names(id_, image) for id_, image in manifest.table.select("id", "image").rows()]
    ids = manifest.ids
    lacking = [id_ for id_, known in zip(ids, names, strict=True) if not found.keys() & set(known)]
    if lacking:
        entries = ", ".join(f"'{one}'" for one in sorted(found)[:3]) or "none"
        raise UserError(
            f"these proposals do not fit the pictures: {len(lacking)} of {len(ids)} pictures have no entry, first "
            f"{', '.join(repr(one) for one in lacking[:3])}; the file's first entries: {entries}.",
            file=source,
        )
    boxes, scores, sizes = [], [], []
    for id_, picture, known in zip(ids, manifest.paths, names, strict=True):
        raw_R4, raw_R = found[next(name for name in known if name in found)]
        size = image_size(picture)
        corners_R4 = _converted(raw_R4, layout, size, f"picture '{id_}'", source)
        kept_R4 = tidy(corners_R4, size, min_side)
        boxes.append(kept_R4)
        sizes.append(size)
        if raw_R is not None:
            best: dict[bytes, float] = {}
            for corners, score in zip(corners_R4, raw_R, strict=True):
                best[corners.tobytes()] = max(float(score), best.get(corners.tobytes(), -np.inf))
            scores.append(np.array([best[corners.tobytes()] for corners in kept_R4], np.float32))
    scored = len(scores) == len(boxes) and bool(boxes)
    return Proposals(
        tuple(ids),
        tuple(boxes),
        tuple(sizes),
        tuple(scores) if scored else None,
        {"method": "published", "file": source.name, "layout": layout, "min_side": f"{min_side:g}"},
    )


Raw = tuple[NDArray[np.float64], NDArray[np.float64] | None]


def _converted(
    raw_R4: NDArray[np.float64], layout: str, size: tuple[int, int], where: str, file: Path
) -> NDArray[np.float32]:
    """Boxes in our convention: first pixel 0, last pixel exclusive."""
    order, first = LAYOUTS[layout]
    boxes_R4 = raw_R4[:, order] - first
    boxes_R4[:, 2:] += 1
    if len(boxes_R4):
        low, high = boxes_R4.min(axis=0), boxes_R4.max(axis=0)
        outside = (low < 0).any() or high[2] > size[0] or high[3] > size[1]
        if outside or not (boxes_R4[:, 2:] > boxes_R4[:, :2]).all():
            raise UserError(
                f"{where} is {size[0]} x {size[1]} pixels, but its boxes reach from {low[0]:g}, {low[1]:g} to "
                f"{high[2]:g}, {high[3]:g} by the layout {layout}.",
                file=file,
                remedy=f"Give another --layout of {', '.join(LAYOUTS)}, or the data they were made of.",
            )
    return boxes_R4.astype(np.float32)


def _names(id_: str, image: str) -> list[str]:
    """What a file of others may call a picture, the surest first."""
    name = image.rpartition("/")[2]
    return [id_, image, name, name.rpartition(".")[0] or name]


def _folder(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Raw]]:
    for id_, image in manifest.table.select("id", "image").rows():
        for name in _names(id_, image):
            file = next((one for one in (folder / f"{name}.mat", folder / f"{name}_boxes.mat") if one.is_file()), None)
            if file is not None:
                content = _load(file)
                yield id_, (_numbers(_key(content, file, "boxes", "Boxes"), file, id_), _scores(content))
                break


def _cells(file: Path) -> Iterator[tuple[str, Raw]]:
    content = _load(file)
    boxes = np.asarray(_key(content, file, "boxes", "Boxes"), dtype=object).ravel()
    names = [str(np.asarray(one).ravel()[0]) for one in np.ravel(_key(content, file, "images", "Images"))]
    if len(names) != len(boxes):
        raise UserError(f"{len(names)} names of pictures, but boxes of {len(boxes)}.", file=file)
    given = next((content[key] for key in ("boxScores", "scores") if key in content), None)
    scores = [None] * len(boxes) if given is None else [np.ravel(one) for one in np.ravel(given)]
    for name, own, score in zip(names, boxes, scores, strict=True):
        yield name, (_numbers(own, file, name), None if score is None else np.asarray(score, np.float64))


def _load(file: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(file)
    except NotImplementedError:
        remedy = "Save it again in MATLAB: save(FILE, '-v7')."
        raise UserError(
            "this is a MATLAB file of version 7.3 (HDF5), which is not read.", file=file, remedy=remedy
        ) from None
    except Exception as error:  # noqa: BLE001 - on a damaged file the reader may raise anything
        raise UserError(f"this is not a MATLAB file, or it is damaged ({error}).", file=file) from None
    return content


def _key(content: dict[str, Any], file: Path, *names: str) -> Any:
    for name in names:
        if name in content:
            return content[name]
    known = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
    raise UserError(f"the file has no '{names[0]}' (it has {known}).", file=file)


def _scores(content: dict[str, Any]) -> NDArray[np.float64] | None:
    given = next((content[key] for key in ("boxScores", "scores") if key in content), None)
    return None if given is None else np.asarray(given, np.float64).ravel()


def _numbers(value: Any, file: Path, name: str) -> NDArray[np.float64]:
    try:
        boxes_R4 = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        boxes_R4 = np.zeros(0)
    if boxes_R4.size == 0 and boxes_R4.ndim == 2:
        return np.zeros((0, 4))
    if boxes_R4.ndim != 2 or boxes_R4.shape[1] != 4 or not np.isfinite(boxes_R4).all():
        raise UserError(f"the boxes of '{name}' are no numbers in four columns.", file=file)
    return boxes_R4
