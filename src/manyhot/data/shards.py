"""The shards of a pixel store, written one after the other; those that an earlier call finished are kept."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from manyhot.atomic import atomic_path
from manyhot.data.colours import colour_sums
from manyhot.data.images import DamagedImage, content_digest, open_image
from manyhot.data.manifest import Manifest
from manyhot.data.pixels import UNFINISHED, picture_digest
from manyhot.data.preparation import Preparation
from manyhot.progress import Bar, progress

JPEG_QUALITY = 90

# A kill loses at most the shard in writing; every shard that is read holds a file open.
_SHARD_PICTURES, _MOST_SHARDS = 256, 256

_PIECE: dict[str, Any] = {
    "id": pl.String,
    "stamp": pl.String,
    "reason": pl.String,
    "bytes": pl.Int64,
    "height": pl.Int32,
    "width": pl.Int32,
    "source_height": pl.Int32,
    "source_width": pl.Int32,
    "sha256": pl.Binary,
    "sums": pl.List(pl.Int64),
    "squares": pl.List(pl.Int64),
}


def shards_of(n: int) -> list[range]:
    """The rows of each shard."""
    step = max(_SHARD_PICTURES, -(-n // _MOST_SHARDS))
    return [range(start, min(start + step, n)) for start in range(0, n, step)]


def shard_file(folder: Path, shard: int) -> Path:
    """Its path."""
    return folder / f"pixels-{shard:05d}.bin"


def write_shards(manifest: Manifest, folder: Path, how: Preparation, workers: int | None) -> list[pl.DataFrame]:
    """Write every shard that is not there yet; what is known of the pictures of each."""
    pieces: list[pl.DataFrame] = []
    ids, paths = manifest.ids, manifest.paths
    with (
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
        progress(len(manifest), "preparing pictures") as bar,
    ):
        for shard, rows in enumerate(shards_of(len(manifest))):
            stamps = list(pool.map(_stamp, [paths[row] for row in rows]))
            noted = folder / UNFINISHED / f"{shard:05d}.parquet"
            piece = _kept(noted, shard_file(folder, shard), [ids[row] for row in rows], stamps)
            if piece is not None:
                bar.advance(len(rows))
            else:
                noted.unlink(missing_ok=True)  # before the shard it speaks of is written anew
                items = [(ids[row], paths[row], stamp) for row, stamp in zip(rows, stamps, strict=True)]
                piece = _write_shard(items, shard_file(folder, shard), how, pool, bar)
                with atomic_path(noted) as temporary:
                    piece.write_parquet(temporary)
            pieces.append(piece)
    return pieces


def _stamp(path: Path) -> str:
    """What changes when a picture does."""
    try:
        stat = path.stat()
    except NotADirectoryError:  # a picture of another store
        return content_digest(path)
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _kept(noted: Path, shard: Path, ids: list[str], stamps: list[str]) -> pl.DataFrame | None:
    """What an earlier call noted of a shard, if it is whole and its pictures are still the same."""
    try:
        piece = pl.read_parquet(noted)
        whole = shard.stat().st_size == piece["bytes"].sum()
    except (OSError, pl.exceptions.PolarsError):
        return None
    same = whole and piece["id"].to_list() == ids and piece["stamp"].to_list() == stamps
    return piece if same else None


def _write_shard(
    items: list[tuple[str, Path, str]], file: Path, how: Preparation, pool: ThreadPoolExecutor, bar: Bar
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    with atomic_path(file) as temporary, temporary.open("wb") as out:
        for (id_, _, stamp), made in zip(items, _in_order(pool, items, how), strict=True):
            if isinstance(made, str):
                rows.append({"id": id_, "stamp": stamp, "reason": made, "bytes": 0})
            else:
                row, content = made
                out.write(content)
                rows.append({"id": id_, "stamp": stamp, "bytes": len(content), **row})
            bar.advance()
    return pl.DataFrame(rows, schema=_PIECE)


Made = tuple[dict[str, Any], bytes | memoryview]


def _in_order(
    pool: ThreadPoolExecutor, items: Iterable[tuple[str, Path, str]], how: Preparation
) -> Iterator[Made | str]:
    """What `_make` makes of each, few at a time: a picture may have 300 MB."""
    waiting: deque[Future[Made | str]] = deque()
    try:
        for _, path, _ in items:
            waiting.append(pool.submit(_make, path, how))
            if len(waiting) > 4 * pool._max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _make(path: Path, how: Preparation) -> Made | str:
    """A picture as it is stored, and what is noted of it; or why there is none."""
    try:
        image = open_image(path)
    except DamagedImage as damage:
        return damage.reason
    stored = how.resizing.place(*image.size).picture(image)
    content = np.asarray(stored) if how.layout == "raw" else np.frombuffer(jpeg(stored), np.uint8)
    _, sums, squares = colour_sums(stored)
    row = {
        "height": stored.height,
        "width": stored.width,
        "source_height": image.height,
        "source_width": image.width,
        "sha256": picture_digest(content),
        "sums": sums,
        "squares": squares,
    }
    return row, content.data.cast("B")


def jpeg(image: Image.Image) -> bytes:
    """The file that is stored."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
