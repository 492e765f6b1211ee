"""Pixel stores: what was put in comes out, whatever the shapes and the shards, and a flipped byte is found."""

from __future__ import annotations

import itertools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyhot.data.image_checks import check_images
from manyhot.data.images import DamagedImage, content_digest, image_size, open_image
from manyhot.data.manifest import Manifest
from manyhot.data.pixels import INDEX, PixelStore, open_store, picture_digest, stored_picture, verify, write_index
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.resizing import Resizing
from manyhot.data.sources import open_source
from manyhot.errors import UserError


def write_store(folder: Path, pictures: list[np.ndarray], shards: list[int]) -> None:
    """A store without the rest of its files; `shards` says in which each picture lies, in rising order."""
    rows, names = [], []
    for shard in range(max(shards, default=-1) + 1):
        members = [picture for picture, place in zip(pictures, shards, strict=True) if place == shard]
        offset = 0
        for picture in members:
            height, width, _ = picture.shape
            rows.append((shard, offset, picture.nbytes, height, width, picture_digest(picture)))
            offset += picture.nbytes
        (folder / f"{shard}.bin").write_bytes(b"".join(picture.tobytes() for picture in members))
        names.append((f"{shard}.bin", offset))
    columns = ["shard", "offset", "bytes", "height", "width", "sha256"]
    write_index(folder, pl.DataFrame(rows, schema=columns, orient="row"), "raw", names)


shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=12)


@settings(deadline=None)
@given(shapes, st.randoms(use_true_random=False))
def test_any_shapes_over_any_shards_come_back_in_any_order(shapes, random):
    rng = np.random.default_rng(len(shapes))
    pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width, _ in shapes]
    shards = list(itertools.accumulate(step for _, _, step in shapes))  # steps of two leave empty shards
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder, pictures, shards)
        order = list(range(len(pictures)))
        random.shuffle(order)
        for number in order:
            path = folder / INDEX / str(number)
            np.testing.assert_array_equal(np.asarray(open_image(path)), pictures[number])
            assert image_size(path) == pictures[number].shape[1::-1]
            assert content_digest(path) == picture_digest(pictures[number]).hex()
        assert list(open_store(folder / INDEX).faults()) == [None] * len(pictures)


def test_shapes_of_the_same_bytes_have_different_digests():
    black = np.zeros(36, np.uint8)
    assert len({picture_digest(black.reshape(shape)) for shape in ((2, 6, 3), (6, 2, 3), (3, 4, 3), (36,))}) == 4


def test_threads_read_one_store(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(40)]
    write_store(tmp_path, pictures, [number // 7 for number in range(40)])
    order = rng.permutation(np.repeat(np.arange(40), 10))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: np.asarray(open_image(tmp_path / INDEX / str(number))), order))
    assert all(np.array_equal(one, pictures[number]) for one, number in zip(found, order, strict=True))


def test_a_store_that_changed_is_opened_anew(tmp_path):
    for value in (1, 2):
        write_store(tmp_path, [np.full((4, 5, 3), value, np.uint8)], [0])
        assert np.unique(np.asarray(open_image(tmp_path / INDEX / "0"))) == [value]


def test_what_is_stored_cannot_be_written_to(tmp_path):
    write_store(tmp_path, [np.zeros((4, 5, 3), np.uint8)], [0])
    picture = stored_picture(tmp_path / INDEX / "0")
    assert picture is not None
    assert not picture.content().flags.writeable
    open_image(tmp_path / INDEX / "0").putpixel((0, 0), (9, 9, 9))  # a copy
    assert not picture.content().any()


def test_a_folder_called_like_a_store_is_none(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert stored_picture(tmp_path / "a.png") is None


def test_missing_and_cut_parts_are_named(tmp_path):
    write_store(tmp_path, [np.zeros((4, 5, 3), np.uint8)], [0])
    for name in ("1", "-1", "x"):
        with pytest.raises(DamagedImage, match=f"no picture '{name}'"):
            open_image(tmp_path / INDEX / name)
    os.truncate(tmp_path / "0.bin", 59)
    with pytest.raises(UserError, match="has 59 bytes in place of 60"):
        PixelStore(tmp_path / INDEX)
    (tmp_path / "0.bin").unlink()
    with pytest.raises(UserError, match=r"0\.bin: this part of the pixel store is missing"):
        PixelStore(tmp_path / INDEX)
    (tmp_path / INDEX).write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not the index of a pixel store"):
        PixelStore(tmp_path / INDEX)
    with pytest.raises(UserError, match="not the index of a pixel store"):
        check_images([tmp_path / INDEX / "0"])
    (tmp_path / INDEX).unlink()
    with pytest.raises(UserError, match="no such file"):
        PixelStore(tmp_path / INDEX)


@pytest.fixture(scope="module")
def store(tiny_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    prepare(open_source(str(tiny_table)), folder, Preparation(Resizing(24)))
    return folder


def test_a_sound_store_verifies(store):
    assert verify(store) == verify(store / "manifest.parquet") == 50


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name != ".lock")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.83, 1.0])
def test_a_flipped_byte_in_any_file_is_found(store, share):
    assert [file.name for file in files_of(store)] == [
        "SHA256SUMS", "manifest.parquet", "pixels-00000.bin", "pixels.parquet", "prepared.json",
    ]  # fmt: skip
    for file in files_of(store):
        sound = file.read_bytes()
        place = round(share * (len(sound) - 1))
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 0x20]) + sound[place + 1 :])
        try:
            with pytest.raises(UserError, match="damaged") as caught:
                verify(store)
        finally:
            file.write_bytes(sound)
        if file.suffix == ".bin":
            assert "pixels.parquet/" in str(caught.value)
        elif file.name != "SHA256SUMS":  # a sum that is wrong accuses the file it is of
            assert f"{file.name} does not match its SHA-256" in str(caught.value)
    assert verify(store) == 50


def test_a_flipped_byte_is_named_by_its_picture(store):
    picture = PixelStore(store / INDEX)
    file = store / "pixels-00000.bin"
    sound = file.read_bytes()
    place = int(picture.offset_N[31]) + 5
    file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
    try:
        with pytest.raises(UserError, match=r"pixels\.parquet/31: its pixels do not match their SHA-256\nPrepare"):
            verify(store)
    finally:
        file.write_bytes(sound)


def test_only_stores_are_verified(tiny_table):
    with pytest.raises(UserError, match="no pixel store"):
        verify(tiny_table)


def test_a_moved_store_is_the_same_store(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for file in files_of(store):
        (tmp_path / "elsewhere" / file.name).write_bytes(file.read_bytes())
    here, there = open_source(str(store)), open_source(str(tmp_path / "elsewhere"))
    assert isinstance(there, Manifest)
    assert [content_digest(path) for path in here.paths] == [content_digest(path) for path in there.paths]
    np.testing.assert_array_equal(np.asarray(open_image(here.paths[9])), np.asarray(open_image(there.paths[9])))
