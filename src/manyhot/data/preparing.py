"""`manyhot data prepare`: any source as a pixel store, on all cores, to be continued after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from manyhot.atomic import atomic_path, write_text
from manyhot.data.colours import mean_and_std
from manyhot.data.images import DamagedImage
from manyhot.data.manifest import BOX, Box, Manifest
from manyhot.data.pixels import INDEX, INFO, MANIFEST, SUMS, UNFINISHED, sums_text, write_index
from manyhot.data.preparation import Preparation
from manyhot.data.resizing import Resizing
from manyhot.data.shards import shard_file, write_shards
from manyhot.data.store_size import refuse_small_disk, size_text
from manyhot.errors import UserError

log = logging.getLogger("manyhot")

TRAIN, VALIDATION = "train", "val"

_FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """A store that was made.

    Arguments:
        manifest: its pictures.
        info: what prepared.json says.
        damaged: pictures that were left out.
    """

    manifest: Manifest
    info: dict[str, Any]
    damaged: tuple[DamagedImage, ...]


def prepare(
    manifest: Manifest, folder: Path, how: Preparation | None = None, *, workers: int | None = None
) -> Prepared:
    """Write all pictures of a Manifest into a pixel store.

    Killed at any moment, the same call goes on where it was, but for the shard in writing (256 pictures, or 1/256 of
    all where that is more). `manifest.parquet` comes last: without it there is no store.

    Arguments:
        manifest: any splits.
        folder: absent, empty, or what an earlier call left.
        how: the settings.
        workers: threads; None is one a core.

    Raises:
        UserError: the folder holds something else, the disk is too small or full, damaged pictures unless they are to
            be skipped, or no picture is left.
    """
    how = how or Preparation()
    prepared = _with_validation(manifest, how)
    job = {"format": _FORMAT, "settings": how.settings(), "source": _source_digest(prepared)}
    _refuse_other_content(folder)
    try:
        with _locked(folder):
            if (folder / MANIFEST).exists():
                return _finished(folder, job)
            _start(folder, job)
            refuse_small_disk(prepared, folder, how)
            pieces = write_shards(prepared, folder, how, workers)
            return _finish(prepared, folder, how, job, pieces)
    except OSError as error:
        raise UserError(
            f"the store cannot be written ({error.strerror or error}); it is not whole, and cannot be opened.",
            file=folder,
            remedy="Make room, and give the same command again to go on, or delete the folder.",
        ) from None


def summarize(prepared: Prepared) -> str:
    """What was made, for people."""
    info, folder = prepared.info, prepared.manifest.root
    splits = ", ".join(f"{split} {count:,}" for split, count in info["splits"].items())
    lines = [
        f"written: {folder}, {info['pictures']:,} pictures ({splits}), {info['resized']}, {size_text(info['bytes'])}"
    ]
    if prepared.damaged:
        lines.append(f"left out {len(prepared.damaged)} pictures that cannot be read:")
        lines += [f"  {fault}" for fault in prepared.damaged]
    if info["boxes_cut_off"]:
        lines.append(f"boxes outside the centre square, left out: {info['boxes_cut_off']:,}")
    if info["mean"] is not None:
        lines.append(f"split '{TRAIN}': mean {info['mean']}, std {info['std']} (R, G, B; 0 to 1)")
    return "\n".join(lines)


def _with_validation(manifest: Manifest, how: Preparation) -> Manifest:
    if how.val_fraction is None:
        return manifest
    if not 0 < how.val_fraction < 1:
        raise UserError(f"a share of {how.val_fraction:g} for validation is none; it lies between 0 and 1.")
    if VALIDATION in manifest.splits:
        raise UserError(
            f"the data have a split '{VALIDATION}' already.", file=manifest.root, remedy="Leave out --val-fraction."
        )
    manifest.split(TRAIN)
    return manifest.with_validation(TRAIN, VALIDATION, how.val_fraction, how.seed)


def _source_digest(manifest: Manifest) -> str:
    table = manifest.table
    digest = hashlib.sha256(str(manifest.root.resolve()).encode(errors="surrogateescape"))
    for column in ("id", "image", "split"):
        digest.update("\0".join(table[column]).encode(errors="surrogateescape") + b"\0\0")
    digest.update(json.dumps(manifest.classes).encode() + manifest.labels.tobytes())
    return digest.hexdigest()


def _refuse_other_content(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError("this is a file, not a folder.", file=folder)
    if not folder.is_dir() or (folder / UNFINISHED).is_dir() or (folder / INFO).is_file():
        return
    if any(entry.name != ".lock" for entry in folder.iterdir()):
        raise UserError("the folder is not empty.", file=folder, remedy="Name a new one, or empty it first.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another process is preparing this folder.", file=folder, remedy="Wait for it.") from None
    try:
        yield
    finally:
        lock.release()


def _finished(folder: Path, job: dict[str, Any]) -> Prepared:
    """What an earlier call made, if by the same settings and of the same source."""
    info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    if info["job"] != job:
        raise UserError(
            "the folder holds a store of other settings or other data.",
            file=folder,
            remedy="Name a new one, or delete it first.",
        )
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    damaged = tuple(DamagedImage(Path(one["file"]), one["reason"]) for one in info["damaged"])
    return Prepared(Manifest.load(folder / MANIFEST), info, damaged)


def _start(folder: Path, job: dict[str, Any]) -> None:
    """Note the settings, or compare them with those of the call that is continued."""
    noted = folder / UNFINISHED / "job.json"
    if not noted.is_file():
        write_text(noted, json.dumps(job))
        return
    # Pictures may come and go meanwhile: every shard is compared with its source by itself.
    former = json.loads(noted.read_text(encoding="utf-8"))
    if (former["format"], former["settings"]) != (job["format"], job["settings"]):
        was, now = former["settings"], job["settings"]
        changed = ", ".join(f"{key} was {was.get(key)}, is {now[key]}" for key in now if was.get(key) != now[key])
        raise UserError(
            f"the folder holds an unfinished store of other settings ({changed or 'another version'}).",
            file=folder,
            remedy="Give the command it was begun with, or delete the folder.",
        )


def _finish(
    manifest: Manifest, folder: Path, how: Preparation, job: dict[str, Any], pieces: list[pl.DataFrame]
) -> Prepared:
    """Index, report, sums and, last, the manifest."""
    shards = [(shard_file(folder, shard).name, int(piece["bytes"].sum())) for shard, piece in enumerate(pieces)]
    for file in folder.glob("pixels-*.bin"):  # of a source that had more pictures when this was begun
        if file.name not in dict(shards):
            file.unlink()
    noted = pl.concat(
        piece.with_columns(
            shard=pl.lit(shard, pl.Int32), offset=pl.col("bytes").cum_sum() - pl.col("bytes")
        )
        for shard, piece in enumerate(pieces)
    )  # fmt: skip
    damaged = tuple(
        DamagedImage(path, reason)
        for path, reason in zip(manifest.paths, noted["reason"], strict=True)
        if reason is not None
    )
    _refuse_damaged(manifest, damaged, how)
    sound = noted["reason"].is_null()
    stored, lost = _stored_manifest(manifest.rows(sound), folder, noted.filter(sound), how.resizing)
    write_index(
        folder,
        noted.filter(sound).select("shard", "offset", "bytes", "height", "width", "sha256"),
        how.layout,
        shards,
    )
    info = _describe(stored, noted.filter(sound), how) | {
        "boxes_cut_off": lost,
        "damaged": [{"file": str(fault.path), "reason": fault.reason} for fault in damaged],
        "job": job,
    }
    write_text(folder / INFO, json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    waiting = folder / ".manifest.parquet"
    stored.save(waiting)
    write_text(folder / SUMS, sums_text(folder, {waiting.name: MANIFEST, INDEX: INDEX, INFO: INFO}))
    with atomic_path(folder / MANIFEST) as temporary:
        waiting.replace(temporary)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return Prepared(stored, info, damaged)


def _refuse_damaged(manifest: Manifest, damaged: tuple[DamagedImage, ...], how: Preparation) -> None:
    if not damaged or (how.on_error == "skip" and len(damaged) < len(manifest)):
        return
    listing = "".join(f"\n  {fault}" for fault in damaged)
    if len(damaged) == len(manifest):
        raise UserError(f"none of the pictures can be read:{listing}\nIs the folder right?")
    raise UserError(
        f"{len(damaged)} of {len(manifest)} pictures cannot be read:{listing}\nMend them, or pass --on-error skip to "
        "go on without them; the same command keeps what is done."
    )


def _stored_manifest(manifest: Manifest, folder: Path, noted: pl.DataFrame, resizing: Resizing) -> tuple[Manifest, int]:
    """The Manifest of the store, and how many boxes lie outside what is kept."""
    lost = 0
    boxes: list[list[dict[str, Any]]] = []
    sizes = noted.select("source_width", "source_height").iter_rows()
    for row, (width, height) in enumerate(sizes):
        place = resizing.place(width, height)
        found = [place.box(box) for box in manifest.boxes(row)]
        lost += sum(box is None for box in found)
        boxes.append([_box_dict(box) for box in found if box is not None])
    table = manifest.table.with_columns(
        image=pl.Series([f"{INDEX}/{number}" for number in range(len(manifest))], dtype=pl.String),
        width=noted["width"],
        height=noted["height"],
        boxes=pl.Series(boxes, dtype=pl.List(BOX)),
    )
    return replace(manifest, root=folder, table=table), lost


def _box_dict(box: Box) -> dict[str, Any]:
    fields = asdict(box)
    return {"class": fields.pop("name"), **fields}


def _describe(manifest: Manifest, noted: pl.DataFrame, how: Preparation) -> dict[str, Any]:
    train = noted.filter(manifest.table["split"] == TRAIN)
    sums = train.select(pl.col("height") * pl.col("width"), "sums", "squares").rows()
    mean, std = mean_and_std(sums) if sums else (None, None)
    return {
        "pictures": len(manifest),
        "bytes": int(noted["bytes"].sum()),
        "layout": how.layout,
        "resized": how.resizing.describe(),
        "categories": list(manifest.classes),
        "splits": {split: int((manifest.table["split"] == split).sum()) for split in manifest.splits},
        "label_rule": manifest.label_rule,
        "mean": mean and list(mean),
        "std": std and list(std),
    }
