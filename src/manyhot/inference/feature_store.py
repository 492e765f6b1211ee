"""Features of a frozen network, computed once: kept on disk under a digest of all that can change them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import nn

from manyhot.atomic import atomic_open, write_text
from manyhot.data.images import content_digest
from manyhot.errors import UserError
from manyhot.progress import progress

log = logging.getLogger("manyhot")

_FORMAT = 1
_SUFFIX = ".safetensors"
_DIGEST_BYTES = 32
_IN_MEMORY_BYTES = 256 << 20
_STALE_SECONDS = 3600
_HASHED_TOGETHER = 4096


class Features:
    """Features of N pictures, each of one or more crops: in memory up to 256 MB, else left in the memory-mapped files.

    Arguments:
        blocks: arrays float16 [rows, D], in which the rows of a picture follow one another.
        block_N: int64, the block of each picture.
        first_N: int64, the first row of each picture within its block.
        counts_N: int64, at least 1, the rows (crops) of each picture.
        width: D.
    """

    def __init__(
        self,
        blocks: Sequence[NDArray[np.float16]],
        block_N: NDArray[np.int64],
        first_N: NDArray[np.int64],
        counts_N: NDArray[np.int64],
        width: int,
    ) -> None:
        self.counts = counts_N
        self.width = width
        self._blocks, self._block_N, self._first_N = blocks, block_N, first_N
        if len(blocks) > 1 and int(counts_N.sum()) * width * np.float16().itemsize <= _IN_MEMORY_BYTES:
            together, _ = self.gather(np.arange(len(self)))
            self._blocks, self._block_N = [together], np.zeros_like(block_N)
            self._first_N = counts_N.cumsum() - counts_N

    def __len__(self) -> int:
        """N."""
        return len(self.counts)

    def gather(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        """The features of some pictures, one after the other.

        Arguments:
            rows: places of the pictures, 0…N - 1, in any order, also more than once.

        Returns:
            float16 [sum of the counts, D], a copy; int64 [len(rows)], the counts.
        """
        places = np.asarray(rows, np.int64)
        counts = self.counts[places]
        shift = self._first_N[places] - (counts.cumsum() - counts)  # from a row found to its row in the block
        row_K: NDArray[np.int64] = np.arange(counts.sum(), dtype=np.int64) + np.repeat(shift, counts)
        if len(self._blocks) == 1:
            return self._blocks[0].take(row_K, axis=0), counts
        found_KD = np.empty((len(row_K), self.width), np.float16)
        block_K = np.repeat(self._block_N[places], counts)
        for block in np.unique(block_K):
            here_K = np.flatnonzero(block_K == block)
            found_KD[here_K] = self._blocks[block].take(row_K[here_K], axis=0)
        return found_KD, counts

    def dense(self) -> NDArray[np.float16]:
        """All features as float16 [N, I, D]; every picture must have the same number I of crops."""
        crops = int(self.counts[0]) if len(self) else 1
        assert (self.counts == crops).all(), "pictures with different numbers of crops"
        return self.gather(np.arange(len(self)))[0].reshape(len(self), crops, self.width)


class FeatureStore:
    """Features of pictures, kept on disk as memory-mapped float16 under the digest of everything that can change them.

    Each call of `add` writes one file, whole or not at all, which never changes: the pictures' digests, their counts
    and their features, as safetensors. Its name is the SHA-256 of its content, checked when it is first seen, and a
    random part, so that two processes that add the same pictures write two files. Damaged files are ignored, with a
    warning. Where nothing can be written, one warning is given and the features stay in memory.

    Arguments:
        folder: of these features only, named by `store_key`; made when first written.
        width: D, numbers a row.
        info: what the features are of, for people; written to `info.json`.
    """

    def __init__(self, folder: Path, width: int, info: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.width = width
        self._info = dict(info or {})
        self._writable = True
        self._seen: set[str] = set()
        self._blocks: list[NDArray[np.float16]] = []
        self._places: dict[str, tuple[int, int, int]] = {}  # block, first row, count
        self._clear_up()
        self._refresh()

    def __len__(self) -> int:
        """Number of pictures in the store."""
        return len(self._places)

    def missing(self, pictures: Sequence[str]) -> list[int]:
        """Places of the pictures that are not in the store, the first one of each; sees what other processes added.

        Arguments:
            pictures: SHA-256 of each picture's file (`digests`).
        """
        self._refresh()
        first: dict[str, int] = {}
        for place, picture in enumerate(pictures):
            if picture not in self._places:
                first.setdefault(picture, place)
        return list(first.values())

    def add(
        self,
        pictures: Sequence[str],
        features: Sequence[NDArray[np.floating[Any]]],
        names: Sequence[str | Path] | None = None,
    ) -> None:
        """Keep the features of some pictures in one new file; pictures that are there already are passed over.

        A file costs a flush to the disk, so add some megabytes at a time; what was not added is lost in a kill.

        Arguments:
            pictures: SHA-256 of each picture's file.
            features: float32 or float16 [I, D] of each, I ≥ 1; I may differ. They are kept as float16.
            names: what the pictures are called in messages, by default their SHA-256.

        Raises:
            UserError: a feature that is not finite, or beyond float16 (65504); nothing of this call is kept then.
        """
        rounded = [_to_float16(one, name) for one, name in zip(features, names or pictures, strict=True)]
        new: dict[str, NDArray[np.float16]] = {}
        for picture, one in zip(pictures, rounded, strict=True):
            if picture not in self._places:
                new.setdefault(picture, one)
        if not new:
            return
        assert all(one.ndim == 2 and len(one) and one.shape[1] == self.width for one in new.values()), "not [I, D]"
        block_KD = np.concatenate(list(new.values()))
        counts = np.array([len(one) for one in new.values()], np.int64)
        if self._writable:
            try:
                block_KD = self._write(list(new), counts, block_KD)
            except (OSError, RuntimeError) as error:  # torch's, of a file system that cannot map files
                self._writable = False
                reason = getattr(error, "strerror", None) or error
                log.warning("features cannot be kept in %s, only in memory: %s", self.folder, reason)
        self._index(list(new), counts, block_KD)

    def read(self, pictures: Sequence[str]) -> Features:
        """The features of pictures that are in the store, in the order given.

        Raises:
            KeyError: a picture that is not.
        """
        places = np.array([self._places[picture] for picture in pictures], np.int64).reshape(-1, 3)
        used, block_N = np.unique(places[:, 0], return_inverse=True)
        blocks = [self._blocks[block] for block in used] or [np.zeros((0, self.width), np.float16)]
        return Features(blocks, block_N.astype(np.int64), places[:, 1].copy(), places[:, 2].copy(), self.width)

    def _index(self, pictures: Sequence[str], counts: NDArray[np.int64], block_KD: NDArray[np.float16]) -> None:
        for picture, first, count in zip(pictures, counts.cumsum() - counts, counts, strict=True):
            self._places.setdefault(picture, (len(self._blocks), int(first), int(count)))
        self._blocks.append(block_KD)

    def _write(
        self, pictures: Sequence[str], counts: NDArray[np.int64], block_KD: NDArray[np.float16]
    ) -> NDArray[np.float16]:
        """Write one file and give its features, mapped."""
        digests = np.frombuffer(bytes.fromhex("".join(pictures)), np.uint8).reshape(-1, _DIGEST_BYTES)
        content = safetensors.numpy.save({"pictures": digests, "counts": counts, "features": block_KD})
        random = secrets.token_hex(4)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}-{random}{_SUFFIX}"
        self._write_info(random)
        with atomic_open(path) as file:
            file.write(content)
        self._seen.add(path.name)
        return _parse(_map(path))[2]

    def _write_info(self, random: str) -> None:
        if not (self.folder / "info.json").exists():
            own = self.folder / f".info-{random}.json"  # not shared with a process that starts at the same time
            write_text(own, json.dumps(self._info, indent=2, ensure_ascii=False, default=str) + "\n")
            own.replace(self.folder / "info.json")

    def _refresh(self) -> None:
        """Take in the files that are new in the folder."""
        names = sorted(path.name for path in self.folder.glob(f"[!.]*{_SUFFIX}") if path.name not in self._seen)
        self._seen.update(names)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(self._checked, names):
                if found is not None:
                    self._index(*found)

    def _checked(self, name: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.float16]] | None:
        """What a file holds; None, with a warning, where it is damaged."""
        path = self.folder / name
        try:
            content = _map(path)
            if hashlib.sha256(content.data).hexdigest() != name.partition("-")[0]:
                raise ValueError("its content does not match its SHA-256")  # noqa: TRY301
            pictures, counts, block_KD = _parse(content)
            if block_KD.shape[1] != self.width:
                raise ValueError(f"{block_KD.shape[1]} numbers a row in place of {self.width}")  # noqa: TRY301
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            log.warning("%s is damaged (%s): its features are computed again, and it can be deleted.", path, error)
            return None
        return pictures, counts, block_KD

    def _clear_up(self) -> None:
        """Remove what writers that were killed left behind; a writer at work is done within the hour."""
        for path in self.folder.glob(".*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:
                continue


def _map(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, memory-mapped, read-only. Unlike numpy's, torch's mapping holds no file descriptor open."""
    size = path.stat().st_size
    if not size:
        raise ValueError("it is empty")
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    content.flags.writeable = False
    return content


def _parse(content: NDArray[np.uint8]) -> tuple[list[str], NDArray[np.int64], NDArray[np.float16]]:
    """Pictures, counts and features of a safetensors file: eight bytes of length, a header in JSON, the tensors."""
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())

    def tensor(name: str, dtype: type[np.generic]) -> NDArray[Any]:
        begin, end = header[name]["data_offsets"]
        return content[start + begin : start + end].view(dtype).reshape(header[name]["shape"])

    joined = tensor("pictures", np.uint8).tobytes().hex()
    step = 2 * _DIGEST_BYTES
    pictures = [joined[place : place + step] for place in range(0, len(joined), step)]
    return pictures, tensor("counts", np.int64).copy(), tensor("features", np.float16)


def _to_float16(features_ID: NDArray[np.floating[Any]], name: str | Path) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        rounded_ID = np.asarray(features_ID).astype(np.float16)
    if not np.isfinite(rounded_ID).all():
        worst = "not a number" if np.isnan(rounded_ID).any() else f"as large as {np.abs(features_ID).max():.3g}"
        raise UserError(
            f"the backbone's features of this picture are {worst}; they can be kept up to 65504 (float16).",
            file=name,
            remedy="Check the weights and the normalisation of the input.",
        )
    return rounded_ID


def digests(paths: Sequence[Path], workers: int | None = None) -> list[str]:
    """SHA-256 of each file's content, in the order of `paths`, read in threads under a progress bar.

    A pixel store knows those of its pictures.

    Arguments:
        paths: picture files.
        workers: number of threads; None is one a core.

    Raises:
        DamagedImage: a file that is missing or cannot be read.
    """
    found: list[str] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool, progress(len(paths), "reading pictures") as bar:
        # In batches: a million waiting futures would hold a gigabyte, and Ctrl-C waits for one batch only.
        for start in range(0, len(paths), _HASHED_TOGETHER):
            for digest in pool.map(content_digest, paths[start : start + _HASHED_TOGETHER]):
                found.append(digest)
                bar.advance()
    return found


def store_key(**parts: Any) -> str:
    """SHA-256 of everything that can change the features, and of the format of the store.

    Arguments:
        parts: strings, numbers, booleans, None, and lists and mappings of them; their order in a mapping is nothing.
    """
    text = json.dumps({"format": _FORMAT, "parts": parts}, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a network's state dict: names, dtypes, shapes and bytes, in the order of the names.

    It is the same on every device and in every memory format.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
