"""`prepare`: the same store whether killed or not, and none on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data import preparing, shards
from manyhot.data.images import open_image
from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.pixels import verify
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare, summarize
from manyhot.data.resizing import Resizing
from manyhot.data.sources import open_source
from manyhot.errors import UserError

pytestmark = pytest.mark.usefixtures("small_shards")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


@pytest.mark.parametrize("workers", [1, 3])
def test_pixels_labels_and_numbers(manifest, tmp_path, workers):
    made = prepare(manifest, tmp_path / "store", Preparation(Resizing(32), val_fraction=0.25, seed=4), workers=workers)
    again = open_source(str(tmp_path / "store"))
    drawn = manifest.with_validation("train", "val", 0.25, 4)
    for one in (made.manifest, again):
        assert one.ids == manifest.ids
        assert one.table["split"].to_list() == drawn.table["split"].to_list()
        assert (one.classes, one.task, one.label_rule) == (manifest.classes, manifest.task, manifest.label_rule)
        np.testing.assert_array_equal(one.labels, manifest.labels)
    levels = []
    for row, (before, after) in enumerate(zip(manifest.paths, again.paths, strict=True)):
        image = open_image(before)
        scale = 32 / min(image.size)
        size = tuple(max(32, round(side * scale)) for side in image.size)
        wanted = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(np.asarray(open_image(after)), wanted)
        assert (again.table["width"][row], again.table["height"][row]) == size
        for ours, theirs in zip(again.boxes(row), manifest.boxes(row), strict=True):
            assert (ours.name, ours.difficult) == (theirs.name, theirs.difficult)
            assert ours.x1 / size[0] == pytest.approx(theirs.x1 / image.width)
            assert ours.y1 / size[1] == pytest.approx(theirs.y1 / image.height)
        if drawn.table["split"][row] == "train":
            levels.append(wanted.reshape(-1, 3))
    of_train = np.concatenate(levels) / 255
    np.testing.assert_allclose(made.info["mean"], of_train.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(made.info["std"], of_train.std(axis=0), atol=1e-6)
    assert made.info["categories"] == ["a", "b", "c"]
    assert made.info["splits"] == {split: drawn.table["split"].to_list().count(split) for split in drawn.splits}
    assert made.info["bytes"] == sum(file.stat().st_size for file in (tmp_path / "store").glob("*.bin"))
    assert json.loads((tmp_path / "store" / "prepared.json").read_text()) == made.info
    assert "60 pictures (train 32, val 10, test 18), shorter side 32" in summarize(made)


def test_the_number_of_workers_changes_no_byte(manifest, tmp_path):
    for workers in (1, 4):
        prepare(manifest, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


def test_jpeg_files_are_kept_as_pillow_writes_them(manifest, tmp_path):
    prepare(manifest, tmp_path / "store", Preparation(Resizing(None), "jpeg"))
    again = open_source(str(tmp_path / "store"))
    for before, after in zip(manifest.paths, again.paths, strict=True):
        open_image(before).save(tmp_path / "one.jpg", quality=shards.JPEG_QUALITY)
        np.testing.assert_array_equal(np.asarray(open_image(after)), np.asarray(open_image(tmp_path / "one.jpg")))
    assert verify(tmp_path / "store") == 60


def test_boxes_outside_a_centre_crop_are_counted(tmp_path):
    Image.new("RGB", (100, 20)).save(tmp_path / "a.png")
    rows = [Row("a", "a.png", "train", [1], boxes=[Box("a", 0, 0, 30, 20), Box("a", 30, 0, 50, 20)])]
    made = prepare(
        Manifest.from_rows(tmp_path, ["a"], rows, label_rule=""),
        tmp_path / "out",
        Preparation(Resizing(20, center_crop=True)),
    )
    assert made.info["boxes_cut_off"] == 1
    assert made.manifest.boxes(0) == [Box("a", 0, 0, 10, 20)]
    assert "boxes outside the centre square, left out: 1" in summarize(made)


# --- killed, full, damaged

CHILD = """
import logging, sys
from pathlib import Path
from manyhot.data import preparing, shards
from manyhot.data.manifest import Manifest
from manyhot.data.preparation import Preparation
from manyhot.data.resizing import Resizing
shards._SHARD_PICTURES = {shard}
{before}
preparing.prepare(Manifest.load(Path(sys.argv[1])), Path(sys.argv[2]), Preparation(Resizing(32)))
"""

# Half a tenth of a second a picture, so that a kill finds work in every state.
SLOW = """
import time
make = shards._make
def slow(*arguments):
    time.sleep(0.05)
    return make(*arguments)
shards._make = slow
"""


def start(manifest: Manifest, folder: Path, before: str = "") -> subprocess.Popen[str]:
    file = folder.parent / "source.parquet"
    manifest.save(file)
    code = CHILD.format(shard=shards._SHARD_PICTURES, before=before)
    return subprocess.Popen([sys.executable, "-c", code, file, folder], stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_twice_it_goes_on_and_the_store_is_the_same(manifest, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed" / "store"
    folder.parent.mkdir()
    prepare(Manifest.load(_saved(manifest, tmp_path)), whole, Preparation(Resizing(32)))
    kept: dict[str, int] = {}
    for noted in (2, 4):
        child = start(manifest, folder, SLOW)
        deadline = time.monotonic() + 60
        while len(list(folder.glob("unfinished/0*.parquet"))) < noted:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        with pytest.raises(UserError, match="not whole: its preparation was stopped"):
            open_source(str(folder))
        for name, inode in kept.items():
            assert (folder / name).stat().st_ino == inode, "a shard that was done is done again"
        kept = {f"pixels-{shard:05d}.bin": 0 for shard in range(noted)}
        kept = {name: (folder / name).stat().st_ino for name in kept}
    child = start(manifest, folder)
    child.communicate(timeout=60)
    assert child.returncode == 0
    for name, inode in kept.items():
        assert (folder / name).stat().st_ino == inode
    assert contents(folder) == contents(whole)


def _saved(manifest: Manifest, folder: Path) -> Path:
    manifest.save(folder / "source.parquet")
    return folder / "source.parquet"


def test_a_picture_that_changed_meanwhile_is_prepared_anew(manifest, tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    shutil.copytree(manifest.root, pictures)
    mine = Manifest(pictures, manifest.classes, manifest.task, manifest.label_rule, manifest.table)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(mine, tmp_path / "store")
    Image.new("RGB", (50, 50), (1, 2, 3)).save(pictures / "0.png")
    made = prepare(mine, tmp_path / "store")
    assert open_image(made.manifest.paths[0]).getpixel((5, 5)) == (1, 2, 3)


@pytest.mark.skipif(os.name != "posix", reason="limits of processes")
def test_a_file_that_cannot_grow_leaves_no_store(manifest, tmp_path):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))"
    folder = tmp_path / "store"
    child = start(manifest, folder, limit)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "UserError" in said
    assert "the store cannot be written (File too large); it is not whole, and cannot be opened." in said
    with pytest.raises(UserError, match="not whole"):
        open_source(str(folder))
    assert not list(folder.glob("*.bin"))
    prepare(Manifest.load(tmp_path / "source.parquet"), folder, Preparation(Resizing(32)))
    assert len(open_source(str(folder))) == 60


@pytest.fixture
def small_disk(tmp_path):
    """A genuine file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)  # a store that was read is still mapped


def test_a_disk_that_is_too_small_is_refused_at_once(manifest, small_disk):
    with pytest.raises(UserError, match=r"the store takes 1\d\.\d MB, and the disk has 1\.\d+ MB free\..* --jpeg"):
        prepare(manifest, small_disk / "store", Preparation(Resizing(200)))
    assert not list(small_disk.rglob("*.bin"))


def test_a_disk_that_is_full_leaves_no_store(manifest, small_disk):
    lying = manifest.table.with_columns(width=1, height=1)  # as annotations at times are
    lying = lying.cast({"width": manifest.table["width"].dtype, "height": manifest.table["height"].dtype})
    mine = Manifest(manifest.root, manifest.classes, manifest.task, manifest.label_rule, lying)
    how = Preparation(Resizing(None))
    blocker = small_disk / "blocker"
    blocker.write_bytes(bytes(900_000))
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); it is not whole.*go on"):
        prepare(mine, small_disk / "store", how)
    with pytest.raises(UserError, match="not whole"):
        open_source(str(small_disk / "store"))
    blocker.unlink()
    prepare(mine, small_disk / "store", how)
    assert verify(small_disk / "store") == 60


def test_damaged_pictures_stop_it_or_are_left_out_and_reported(manifest, tmp_path):
    pictures = tmp_path / "pictures"
    shutil.copytree(manifest.root, pictures)
    mine = Manifest(pictures, manifest.classes, manifest.task, manifest.label_rule, manifest.table)
    (pictures / "4.png").write_bytes((pictures / "4.png").read_bytes()[:-400])
    (pictures / "49.jpg").unlink()
    with pytest.raises(UserError, match=r"(?s)2 of 60 .*4\.png: truncated.*49\.jpg: there is no such file") as caught:
        prepare(mine, tmp_path / "store")
    assert "--on-error skip" in str(caught.value)
    shards = {file: file.stat().st_ino for file in (tmp_path / "store").glob("*.bin")}
    made = prepare(mine, tmp_path / "store", Preparation(on_error="skip"))
    assert {file: file.stat().st_ino for file in shards} == shards  # nothing is decoded twice
    assert [Path(one["file"]).name for one in made.info["damaged"]] == ["4.png", "49.jpg"]
    assert made.manifest.ids == [id_ for id_ in manifest.ids if id_ not in ("p/4", "p/49")]
    for id_, path in zip(made.manifest.ids, made.manifest.paths, strict=True):
        source = open_image(manifest.paths[manifest.ids.index(id_)])
        wanted = Resizing().place(*source.size).picture(source)
        np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(wanted))
    assert "left out 2 pictures" in summarize(made)


def test_nothing_but_damaged_pictures_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    rows = [Row("a", "a.png", "train", [1])]
    with pytest.raises(UserError, match="none of the pictures can be read"):
        prepare(
            Manifest.from_rows(tmp_path, ["a"], rows, label_rule=""), tmp_path / "out", Preparation(on_error="skip")
        )


# --- what is refused


def test_a_finished_store_stays_and_other_settings_are_refused(manifest, tmp_path):
    folder = tmp_path / "store"
    prepare(manifest, folder, Preparation(Resizing(16)))
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = prepare(manifest, folder, Preparation(Resizing(16)))
    assert len(again.manifest) == 60
    assert {file: file.stat().st_mtime_ns for file in before} == before
    with pytest.raises(UserError, match="other settings or other data"):
        prepare(manifest, folder, Preparation(Resizing(17)))
    with pytest.raises(UserError, match="other settings or other data"):
        prepare(manifest.split("test"), folder, Preparation(Resizing(16)))


def test_an_unfinished_store_of_other_settings_is_refused(manifest, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(manifest, tmp_path / "store", Preparation(Resizing(16)))
    with pytest.raises(UserError, match=r"unfinished store of other settings \(size was 16, is 17\)"):
        prepare(manifest, tmp_path / "store", Preparation(Resizing(17)))


def test_folders_and_splits_that_do_not_fit_are_refused(manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file, not a folder"):
        prepare(manifest, tmp_path / "file")
    with pytest.raises(UserError, match="not empty"):
        prepare(manifest, tmp_path)
    with pytest.raises(UserError, match="between 0 and 1"):
        prepare(manifest, tmp_path / "a", Preparation(val_fraction=1.0))
    drawn = manifest.with_validation("train", "val", 0.5, 0)
    with pytest.raises(UserError, match="a split 'val' already"):
        prepare(drawn, tmp_path / "a", Preparation(val_fraction=0.5))
    with pytest.raises(UserError, match="split 'train' holds no images"):
        prepare(manifest.split("test"), tmp_path / "a", Preparation(val_fraction=0.5))
    assert not (tmp_path / "a").exists()
