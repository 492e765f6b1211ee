"""Every picture file is decoded once before it is used, and what was sound is remembered."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import PIL

from manyhot.atomic import atomic_open
from manyhot.data.images import MAX_PIXELS, DamagedImage, cache_folder, find_damage
from manyhot.data.manifest import Manifest
from manyhot.data.pixels import INDEX, open_store
from manyhot.errors import UserError
from manyhot.progress import progress

log = logging.getLogger("manyhot")

_KEY_BYTES = 16
_MAX_REMEMBERED = 4_000_000
_BATCH = 4096


def check_images(paths: Sequence[Path], workers: int | None = None) -> list[DamagedImage]:
    """Decode every file once, on all cores, and return the damaged ones in the order of `paths`.

    Sound files are remembered in the user's cache folder by path, size and modification time, so a second run takes
    no time. Pictures of a pixel store were decoded when it was made; that its files are whole is checked, and
    `manyhot data inspect --verify` reads them. `workers` is the number of threads, by default the number of cores.

    Raises:
        UserError: a pixel store that is not whole.
    """
    for index in {path.parent for path in paths if path.parent.name == INDEX}:
        open_store(index)
    paths = [path for path in paths if path.parent.name != INDEX]
    sound = _SoundFiles(cache_folder() / "sound-images")
    keys = [_file_key(path) for path in paths]
    unknown = [(path, key) for path, key in zip(paths, keys, strict=True) if key not in sound]
    damaged: list[DamagedImage] = []
    if not unknown:
        return damaged
    with (
        sound.saved_at_the_end(),
        ThreadPoolExecutor(workers or _cores()) as pool,
        progress(len(unknown), "checking pictures") as bar,
    ):
        # In batches: a million waiting futures would hold a gigabyte, and Ctrl-C waits for one batch only.
        for start in range(0, len(unknown), _BATCH):
            batch = unknown[start : start + _BATCH]
            for (_, key), fault in zip(batch, pool.map(find_damage, [path for path, _ in batch]), strict=True):
                if fault is not None:
                    damaged.append(fault)
                elif key is not None:
                    sound.add(key)
                bar.advance()
    return damaged


def sound_rows(
    manifest: Manifest, on_error: Literal["stop", "skip"] = "stop", workers: int | None = None
) -> tuple[Manifest, list[DamagedImage]]:
    """The manifest without its damaged pictures, and those; a damaged picture is never replaced by another.

    Raises:
        UserError: `on_error` is "stop" and some pictures are damaged (all are listed), or no sound picture is left.
    """
    paths = manifest.paths
    damaged = check_images(paths, workers)
    if not damaged:
        return manifest, []
    if on_error == "stop" or len(damaged) == len(manifest):
        listing = "\n".join(f"  {fault}" for fault in damaged)
        count = f"{len(damaged)} of {len(manifest)} pictures cannot be read:\n{listing}\n"
        if len(damaged) == len(manifest):
            raise UserError(f"{count}No picture is left: is the folder right?")
        raise UserError(f"{count}Mend or remove them, or pass --on-error skip to go on without them.")
    bad = {fault.path for fault in damaged}
    return manifest.rows([path not in bad for path in paths]), damaged


class _SoundFiles:
    """Keys of files found sound, in the order they were found: fixed-length digests in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = self._read()
        self._new: dict[bytes, None] = {}

    def __contains__(self, key: bytes | None) -> bool:
        return key in self._keys

    def add(self, key: bytes) -> None:
        self._new[key] = None

    @contextmanager
    def saved_at_the_end(self) -> Iterator[None]:
        """Save what was added, also after Ctrl-C; a cache folder that cannot be written costs time only."""
        try:
            yield
        finally:
            if self._new:
                # Read again: another process may have added keys meanwhile. One lost race loses keys, nothing more.
                keys = list(self._read() | self._new)[-_MAX_REMEMBERED:]
                try:
                    with atomic_open(self._path) as file:
                        file.write(b"".join(keys))
                except OSError as error:
                    log.warning("sound pictures cannot be remembered in %s: %s", self._path, error)

    def _read(self) -> dict[bytes, None]:
        try:
            data = self._path.read_bytes()
        except OSError:
            return {}
        whole = len(data) - len(data) % _KEY_BYTES
        return {data[i : i + _KEY_BYTES]: None for i in range(0, whole, _KEY_BYTES)}


def _file_key(path: Path) -> bytes | None:
    """Digest of all that can change the answer: the decoder, the limit, and the file's place, size and time."""
    try:
        stat = path.stat()
    except OSError:
        return None
    text = f"{PIL.__version__}\0{MAX_PIXELS}\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:_KEY_BYTES]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
