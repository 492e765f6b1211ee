"""The embedded data set `digits`: composed scenes, written once into the cache folder and read from there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from manyhot.data import digits
from manyhot.data.images import cache_folder
from manyhot.data.manifest import Manifest, Row
from manyhot.data.sources import Difficult, source
from manyhot.errors import UserError
from manyhot.progress import track

SEED = 0
COUNTS = {"train": 3000, "val": 400, "test": 600}
"""Scenes a split."""

LABEL_RULE = "digits: a class is present where the composed scene holds it"


@source("digits")
class Digits:
    """the name "digits": composed scenes of handwritten digits, ten classes, several a picture, boxes known."""

    def recognises(self, text: str) -> bool:
        """Whether `text` is the name "digits"."""
        return text == "digits"

    def read(self, text: str, *, difficult: Difficult) -> Manifest:  # noqa: ARG002 - no digit is difficult
        """The scenes of train, val and test; the first call composes them, later ones read the cache folder.

        Raises:
            UserError: another name, or the cache folder cannot be written.
        """
        if not self.recognises(text):
            raise UserError(f"'{text}' is not the embedded data set.", remedy="Its name is 'digits', and no path.")
        return cached_scenes(COUNTS)


def cached_scenes(counts: dict[str, int], seed: int = SEED, side: int = digits.SIDE) -> Manifest:
    """The Manifest of composed scenes, from the cache folder where it holds them whole, else written there first.

    The folder's name is a digest of everything that can change the scenes, so no former version is ever read. It
    appears by one rename: of two processes that write at once, one is first and both read the same bytes.

    Arguments:
        counts: scenes by split, out of "train", "val" and "test".
        seed: non-negative; see `digits.compose`.
        side: width and height of a scene, pixels.

    Raises:
        UserError: the cache folder cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"digits-{_key(counts, seed, side)}"
    if (manifest := _whole(folder)) is not None:
        return manifest
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".digits-", dir=cache, ignore_cleanup_errors=True) as scratch:
            fresh = Path(scratch) / "fresh"
            _write(fresh, counts, seed, side)
            _put(fresh, folder, Path(scratch) / "former")
    except OSError as error:
        raise UserError(
            f"the scenes cannot be written ({error.strerror or error}).",
            file=cache,
            remedy="Name another folder in the environment variable MANYHOT_CACHE.",
        ) from None
    return Manifest.load(folder / "manifest.parquet")


def _key(counts: dict[str, int], seed: int, side: int) -> str:
    """Digest of what makes the scenes: both modules, the handwriting, NumPy, Pillow and its JPEG library."""
    ink, names = digits.handwriting()
    parts = [
        Path(__file__).read_bytes(),
        Path(digits.__file__).read_bytes(),
        ink.tobytes(),
        names.tobytes(),
        repr((list(counts.items()), seed, side, np.__version__, PIL.__version__, features.version("jpg"))).encode(),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def _whole(folder: Path) -> Manifest | None:
    """The Manifest of a folder that holds every picture it names; None of another."""
    try:
        manifest = Manifest.load(folder / "manifest.parquet")
        present = {f"images/{entry.name}" for entry in os.scandir(folder / "images") if entry.stat().st_size}
    except (UserError, OSError):
        return None
    return manifest if present.issuperset(manifest.table["image"]) else None


def _write(folder: Path, counts: dict[str, int], seed: int, side: int) -> None:
    """Compose all scenes into `folder`, on all cores: the pictures and, last, the manifest."""
    (folder / "images").mkdir(parents=True)

    def one(place: tuple[str, int]) -> Row:
        split, index = place
        scene = digits.compose(seed, split, index, side)
        id_ = f"{split}_{index:05d}"
        row = Row(id_, f"images/{id_}.jpg", split, scene.labels, side, side, scene.boxes)
        with (folder / row.image).open("wb") as file:
            Image.fromarray(scene.picture).save(file, "JPEG", quality=95, subsampling=0)
            file.flush()
            os.fsync(file.fileno())
        return row

    places = [(split, index) for split, count in counts.items() for index in range(count)]
    with ThreadPoolExecutor() as pool:
        rows = list(track(pool.map(one, places), len(places), "composing digits"))
    manifest = Manifest.from_rows(folder, digits.CLASSES, rows, label_rule=LABEL_RULE)
    manifest.save(folder / "manifest.parquet")


def _put(fresh: Path, folder: Path, former: Path) -> None:
    """Rename `fresh` to `folder`, unless another process was first; what a damaged `folder` held goes to `former`."""
    while True:
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            if _whole(folder) is not None:
                return
            shutil.rmtree(former, ignore_errors=True)
            folder.rename(former)
        else:
            return
