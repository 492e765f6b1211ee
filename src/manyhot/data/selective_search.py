"""Selective search (Uijlings et al., IJCV 2013) by OpenCV, over all cores; every picture is searched once."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from manyhot.atomic import atomic_open
from manyhot.data.images import DamagedImage, cache_folder, content_digest, image_size, open_image
from manyhot.data.manifest import Manifest
from manyhot.data.proposals import Corners, Proposals, tidy
from manyhot.errors import UserError
from manyhot.progress import progress

log = logging.getLogger("manyhot")

_FORMAT = 1
_PACKAGE = "opencv-contrib-python-headless"
_WAITING = 4  # pictures a process has waiting: so many are lost by a kill at most


@dataclass(frozen=True)
class SelectiveSearch:
    """The settings of a search: all that decides its boxes but the picture.

    Arguments:
        size: the picture's longer side is brought to this length before the search, pixels. Time grows faster than its
            square.
        mode: OpenCV's choice of colour spaces and similarities: `fast` or `quality`.
        scale: of the segmentation that the search starts from, and the step to its coarser one; smaller ones start
            from finer regions and give more boxes.
        sigma: of the blur before it, pixels.
        min_side: least width and height of a box, pixels of the picture.
    """

    size: int = 400
    mode: Literal["fast", "quality"] = "fast"
    scale: int = 150
    sigma: float = 0.8
    min_side: float = 20

    def __post_init__(self) -> None:
        if self.size < 16 or self.scale < 1 or not self.sigma > 0 or not self.min_side >= 0:
            raise UserError("selective search needs a size of 16 or more, a scale of 1 or more and sides of 0 or more.")

    @property
    def key(self) -> str:
        """SHA-256 of the settings, of the format of the cache and of OpenCV's version."""
        text = json.dumps({"format": _FORMAT, "opencv": opencv_version(), **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, str]:
        """The settings for the file of proposals."""
        settings = {name: f"{value}" for name, value in asdict(self).items()}
        return {"method": "selective search", "opencv": opencv_version(), **settings}


def opencv_version() -> str:
    """Version of OpenCV with its contributed modules.

    Raises:
        UserError: it is not installed.
    """
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        remedy = "Install it with: pip install 'manyhot[proposals]'."
        raise UserError(f"selective search needs the package {_PACKAGE}.", remedy=remedy) from None


def search(image: Image.Image, settings: SelectiveSearch) -> Corners:
    """Boxes of one picture, the same at every call.

    OpenCV lists boxes in an order that depends on C's `rand()`; here they are sorted by their corners.

    Arguments:
        image: RGB.
        settings: of the search.
    """
    import cv2

    opencv: Any = cv2  # its stubs lack the contributed modules
    opencv.setNumThreads(1)
    opencv.setRNGSeed(0)
    scale = settings.size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    method = opencv.ximgproc.segmentation.createSelectiveSearchSegmentation()
    method.setBaseImage(np.ascontiguousarray(np.asarray(resized)[:, :, ::-1]))
    scales = (settings.scale, settings.scale, settings.sigma)
    if settings.mode == "fast":
        method.switchToSelectiveSearchFast(*scales)
    else:
        method.switchToSelectiveSearchQuality(*scales)
    found_M4 = np.asarray(method.process(), np.float64).reshape(-1, 4)
    corners_M4 = np.concatenate([found_M4[:, :2], found_M4[:, :2] + found_M4[:, 2:]], axis=1)
    stretch = np.array([image.width / width, image.height / height])
    return tidy(corners_M4 * np.tile(stretch, 2), image.size, settings.min_side)


def search_manifest(
    manifest: Manifest, settings: SelectiveSearch | None = None, *, workers: int | None = None, on_error: str = "stop"
) -> Proposals:
    """Boxes of all pictures of a manifest: what the cache holds is read, the rest is searched and cached at once.

    Every picture's boxes are one file of the cache, named by the SHA-256 of the picture and of the settings, so a
    search that was killed goes on where it was.

    Arguments:
        manifest: of the pictures.
        settings: of the search; None: the defaults.
        workers: processes; None is one a core.
        on_error: "stop" or "skip" at damaged pictures; those skipped have no entry.

    Raises:
        UserError: OpenCV's contributed modules are not installed, or damaged pictures.
    """
    settings = settings or SelectiveSearch()
    folder = cache_folder() / "proposals" / settings.key
    paths = manifest.paths
    files: list[Path | None] = [None] * len(paths)
    damaged: list[DamagedImage] = []
    missing: dict[Path, Path] = {}
    for row, path in enumerate(paths):
        try:
            digest = content_digest(path)
        except DamagedImage as fault:
            damaged.append(fault)
            continue
        files[row] = file = folder / digest[:2] / f"{digest}.npy"
        if not file.exists():
            missing.setdefault(file, path)
    log.info("proposals: %d of %d pictures in the cache", len(paths) - len(missing) - len(damaged), len(paths))
    with progress(len(missing), "searching for boxes") as bar:
        for fault_found in _search_all(missing, settings, workers):
            damaged.extend([fault_found] if fault_found else [])
            bar.advance()
    _report(damaged, len(paths), on_error)
    faulty = {fault.path for fault in damaged}
    kept = [row for row, path in enumerate(paths) if path not in faulty]
    ids = manifest.ids
    return Proposals(
        tuple(ids[row] for row in kept),
        tuple(_read(files[row], paths[row], settings) for row in kept),
        tuple(image_size(paths[row]) for row in kept),
        source=settings.describe(),
    )


def _search_all(
    missing: dict[Path, Path], settings: SelectiveSearch, workers: int | None
) -> Iterator[DamagedImage | None]:
    """Search pictures in processes; yields, for each that is done, its damage or None."""
    count = min(len(missing), workers or os.cpu_count() or 1)
    job = partial(_search_one, settings=settings)
    if count <= 1:
        for file, path in missing.items():
            yield job(file, path)
        return
    context = multiprocessing.get_context("spawn")  # forking a program with threads may hang
    waiting = iter(missing.items())
    with ProcessPoolExecutor(count, mp_context=context) as pool, closing(_Cancel(pool)):
        running: set[Future[DamagedImage | None]] = set()
        for file, path in waiting:
            running.add(pool.submit(job, file, path))
            if len(running) >= _WAITING * count:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in running)


class _Cancel:
    """Drops what waits in a pool when the loop is left, by Ctrl-C for one."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _search_one(file: Path, path: Path, settings: SelectiveSearch) -> DamagedImage | None:
    try:
        image = open_image(path)
    except DamagedImage as fault:
        return fault
    buffer = io.BytesIO()
    np.save(buffer, search(image, settings))
    with atomic_open(file) as target:
        target.write(buffer.getvalue())
    return None


def _read(file: Path | None, path: Path, settings: SelectiveSearch) -> Corners:
    assert file is not None
    try:
        boxes: Corners = np.load(file, allow_pickle=False)
        if boxes.ndim == 2 and boxes.shape[1] == 4 and boxes.dtype == np.float32:
            return boxes
    except (OSError, ValueError):
        pass
    log.warning("%s is damaged: the picture is searched again.", file)
    _search_one(file, path, settings)
    found: Corners = np.load(file, allow_pickle=False)
    return found


def _report(damaged: Sequence[DamagedImage], count: int, on_error: str) -> None:
    if not damaged:
        return
    listing = "\n".join(f"  {fault}" for fault in damaged)
    if on_error == "stop" or len(damaged) == count:
        raise UserError(
            f"{len(damaged)} of {count} pictures cannot be read:\n{listing}\n"
            "Mend or remove them, or leave them out with --on-error skip."
        )
    log.warning("left out %d pictures that cannot be read:\n%s", len(damaged), listing)
