"""How large a pixel store will be, said before it is written."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from manyhot.data.images import DamagedImage, image_size, open_image
from manyhot.data.manifest import Manifest
from manyhot.data.preparation import Preparation
from manyhot.data.resizing import Resizing
from manyhot.data.shards import jpeg
from manyhot.errors import UserError
from manyhot.progress import progress

log = logging.getLogger("manyhot")

_SAMPLED = 16


def refuse_small_disk(manifest: Manifest, folder: Path, how: Preparation) -> None:
    """Say how large the store will be, and stop where the disk is smaller."""
    pixels = _stored_pixels(manifest, how.resizing)
    raw = 3 * pixels
    as_jpeg = round(pixels * _jpeg_bytes_a_pixel(manifest, how.resizing)) if how.layout == "jpeg" else None
    need = raw if as_jpeg is None else as_jpeg
    there = sum(file.stat().st_size for file in folder.glob("pixels-*.bin"))
    free = shutil.disk_usage(folder).free
    log.info(
        "%s: %d pictures, %s, %s%s; %s free",
        folder, len(manifest), how.resizing.describe(), "about " if as_jpeg is not None else "", size_text(need),
        size_text(free),
    )  # fmt: skip
    if need > free + there:
        advice = "" if how.layout == "jpeg" else " --jpeg takes about a tenth."
        raise UserError(
            f"the store takes {size_text(need)}, and the disk has {size_text(free)} free.",
            file=folder,
            remedy=f"Make room, or give a smaller --size.{advice}",
        )


def _stored_pixels(manifest: Manifest, resizing: Resizing) -> int:
    """Pixels of all stored pictures, from the sizes in the manifest, else in the files' headers."""
    known = list(zip(manifest.table["width"], manifest.table["height"], manifest.paths, strict=True))

    def one(item: tuple[int | None, int | None, Path]) -> int:
        width, height, path = item
        if width is None or height is None:
            try:
                width, height = image_size(path)
            except DamagedImage:
                return 0
        place = resizing.place(width, height)
        return place.width * place.height

    with ThreadPoolExecutor() as pool, progress(len(known), "measuring") as bar:
        total = 0
        for pixels in pool.map(one, known):
            total += pixels
            bar.advance()
    return total


def _jpeg_bytes_a_pixel(manifest: Manifest, resizing: Resizing) -> float:
    """Of some pictures spread over the manifest."""
    rows = np.linspace(0, len(manifest) - 1, min(_SAMPLED, len(manifest))).astype(int)
    size = pixels = 0
    for row in rows:
        try:
            image = open_image(manifest.paths[row])
        except DamagedImage:
            continue
        stored = resizing.place(*image.size).picture(image)
        size += len(jpeg(stored))
        pixels += stored.width * stored.height
    return size / pixels if pixels else 1.0


def size_text(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
