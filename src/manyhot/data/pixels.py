"""Pixel stores: pictures prepared once, kept as bytes in large files, mapped into memory and read at random.

A store is a folder:

    manifest.parquet     its pictures and labels; `image` is pixels.parquet/K for picture K
    pixels.parquet       picture K: shard, offset, bytes, height, width, SHA-256
    pixels-00000.bin     shards: uint8 [H, W, 3] of one picture after the other, or their JPEG files
    prepared.json        how it was made, mean and standard deviation, what was left out
    SHA256SUMS           of the three small files, as `sha256sum -c` reads it; pictures have sums of their own

A path below pixels.parquet, which is a file, is no file's path, so it names a picture of a store beyond doubt.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from manyhot.atomic import sha256_file
from manyhot.errors import UserError
from manyhot.progress import progress

Layout = Literal["raw", "jpeg"]

INDEX, INFO, SUMS, MANIFEST = "pixels.parquet", "prepared.json", "SHA256SUMS", "manifest.parquet"
UNFINISHED = "unfinished"
"""Folder, in a store that is being made, of what a later start needs to go on."""

_KEY = "manyhot.pixels"
_AGAIN = "Prepare the store again."
_VERIFIED_TOGETHER = 4096
_SHOWN = 20


@dataclass(frozen=True)
class StoredPicture:
    """A picture in a store.

    Arguments:
        store: where it is.
        number: its row in the index.
    """

    store: PixelStore
    number: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return int(self.store.width_N[self.number]), int(self.store.height_N[self.number])

    @property
    def digest(self) -> str:
        """SHA-256 of its pixels and their shape, or of its JPEG file, as noted when it was stored."""
        return self.store.digest(self.number)

    def content(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] in RGB, or the bytes of the JPEG file, [bytes]; mapped, read-only."""
        return self.store.content(self.number)


class PixelStore:
    """The pictures of a store, by number.

    Arguments:
        index: its pixels.parquet.

    Raises:
        UserError: the index is damaged, or a shard is missing or of another length than the index says.
    """

    def __init__(self, index: Path) -> None:
        self.folder = index.parent
        try:
            stored = json.loads(pl.read_parquet_metadata(index)[_KEY])
            table = pl.read_parquet(index)
            self.layout: Layout = stored["layout"]
            self.shards: list[str] = [name for name, _ in stored["shards"]]
            self.shard_N, self.offset_N, self.bytes_N, self.height_N, self.width_N = (
                table[name].to_numpy() for name in ("shard", "offset", "bytes", "height", "width")
            )
            self._digests = table["sha256"]
        except FileNotFoundError:
            raise UserError("there is no such file.", file=index, remedy=_AGAIN) from None
        except (OSError, KeyError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise UserError(f"this is not the index of a pixel store ({error}).", file=index, remedy=_AGAIN) from None
        for name, size in stored["shards"]:
            file = self.folder / name
            if not file.is_file():
                raise UserError("this part of the pixel store is missing.", file=file, remedy=_AGAIN)
            if file.stat().st_size != size:
                raise UserError(
                    f"this part of the pixel store has {file.stat().st_size} bytes in place of {size}.",
                    file=file,
                    remedy=_AGAIN,
                )
        self._mapped: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        """Pictures."""
        return len(self.shard_N)

    def digest(self, number: int) -> str:
        """SHA-256 of picture `number`, see `picture_digest`, as the index notes it."""
        return bytes(self._digests[number]).hex()

    def content(self, number: int) -> NDArray[np.uint8]:
        """Picture `number`: uint8 [H, W, 3], or [bytes] of its JPEG file; mapped, read-only."""
        start, size = int(self.offset_N[number]), int(self.bytes_N[number])
        flat = self._shard(int(self.shard_N[number]))[start : start + size]
        if self.layout == "jpeg":
            return flat
        return flat.reshape(int(self.height_N[number]), int(self.width_N[number]), 3)

    def faults(self) -> Iterator[str | None]:
        """For every picture, in order: None, or what is wrong with it; read in threads."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self), _VERIFIED_TOGETHER):
                yield from pool.map(self._fault, range(start, min(start + _VERIFIED_TOGETHER, len(self))))

    def _fault(self, number: int) -> str | None:
        try:
            same = picture_digest(self.content(number)).hex() == self.digest(number)
        except (ValueError, IndexError):  # the index itself is at fault
            same = False
        return None if same else "its pixels do not match their SHA-256"

    def _shard(self, shard: int) -> NDArray[np.uint8]:
        """The bytes of a shard. Two threads that are first map it twice, and one mapping is dropped."""
        mapped = self._mapped.get(shard)
        if mapped is None:
            with (self.folder / self.shards[shard]).open("rb") as file:
                mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            self._mapped[shard] = mapped
        return mapped


def picture_digest(content: NDArray[np.uint8]) -> bytes:
    """SHA-256 of uint8 [H, W, 3] and its shape, or of a JPEG file's bytes, [bytes]."""
    digest = hashlib.sha256()
    if content.ndim > 1:
        digest.update(f"{'x'.join(map(str, content.shape))} uint8\n".encode())
    digest.update(content.data)
    return digest.digest()


def write_index(folder: Path, table: pl.DataFrame, layout: Layout, shards: Sequence[tuple[str, int]]) -> None:
    """Write pixels.parquet.

    Arguments:
        folder: of the store.
        table: columns shard, offset, bytes, height, width, sha256 (binary); one row a picture.
        layout: of the shards.
        shards: file name and length in bytes of each.
    """
    table.write_parquet(folder / INDEX, metadata={_KEY: json.dumps({"layout": layout, "shards": shards})})


_opened: dict[str, tuple[tuple[int, int, int], PixelStore]] = {}


def open_store(index: Path) -> PixelStore:
    """The store of a pixels.parquet; opened once, and anew when the file has changed.

    Raises:
        UserError: see PixelStore.
    """
    name = str(index)
    try:
        stat = os.stat(name)  # noqa: PTH116 - once a picture: Path.stat takes twice the time
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except OSError:
        state = (0, 0, 0)
    known = _opened.get(name)
    if known is None or known[0] != state:
        known = _opened[name] = (state, PixelStore(index))
    return known[1]


def stored_picture(path: Path) -> StoredPicture | None:
    """The picture of a store that `path` names; None where it is a file's path.

    Raises:
        UserError: there is no such store or picture, or it is damaged.
    """
    index = path.parent
    if index.name != INDEX:
        return None
    store = open_store(index)
    if not path.name.isdecimal() or int(path.name) >= len(store):
        raise UserError(f"the pixel store has no picture '{path.name}'.", file=index)
    return StoredPicture(store, int(path.name))


def is_store(folder: Path) -> bool:
    """Whether a folder holds a pixel store."""
    return (folder / INDEX).is_file()


def verify(source: str | Path) -> int:
    """Read all of a store, compare it with its sums, and return the number of its pictures.

    Arguments:
        source: the folder, or its manifest.

    Raises:
        UserError: it is no store, cannot be opened, or does not match: all that does not is listed.
    """
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if not is_store(folder):
        raise UserError(
            "this is no pixel store: there are no sums to verify.",
            file=source,
            remedy="Picture files are decoded without --verify too.",
        )
    if wrong := list(_wrong_files(folder)):  # before anything is parsed: its bytes may say anything
        raise _damaged_store(folder, [f"{name} {reason}" for name, reason in wrong])
    store = open_store(folder / INDEX)
    with progress(len(store), "verifying") as bar:
        for number, reason in enumerate(store.faults()):
            if reason is not None:
                wrong.append((f"{INDEX}/{number}", reason))
            bar.advance()
    if wrong:
        raise _damaged_store(folder, [f"{name}: {reason}" for name, reason in wrong])
    return len(store)


def _damaged_store(folder: Path, faults: Sequence[str]) -> UserError:
    more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    listing = "".join(f"\n  {fault}" for fault in [*faults[:_SHOWN], *more])
    return UserError(f"the pixel store is damaged:{listing}\n{_AGAIN}", file=folder)


def sums_text(folder: Path, names: dict[str, str]) -> str:
    """What SHA256SUMS says.

    Arguments:
        folder: of the store.
        names: what a file will be called, by what it is called now.
    """
    return "".join(f"{sha256_file(folder / now)}  {name}\n" for now, name in names.items())


def _wrong_files(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        yield SUMS, f"cannot be read ({error})"
        return
    noted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (MANIFEST, INDEX, INFO):
        if name not in noted:
            yield SUMS, f"says nothing of {name}"
        elif not (folder / name).is_file():
            yield name, "is missing"
        elif sha256_file(folder / name) != noted[name]:
            yield name, "does not match its SHA-256"
