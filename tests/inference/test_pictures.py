"""Pictures are found in folders, files, lists, tables and archives, and come into memory as they are."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from manyhot.data.images import DamagedImage, EncodedPicture, open_image
from manyhot.data.sources import open_source
from manyhot.errors import UserError
from manyhot.inference.pictures import fetching
from manyhot.inference.pictures.addresses import inside, parent, suffix
from manyhot.inference.pictures.fetching import Fetched, fetch
from manyhot.inference.pictures.listing import list_manifest, list_pictures


@pytest.fixture
def pictures(tiny_table: Path) -> list[Path]:
    return sorted(tiny_table.parent.glob("*.png"))[:9]


@pytest.fixture
def archive(pictures: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for picture in pictures:
            file.write(picture, f"a/{picture.name}")
        file.writestr("a/readme.txt", "no picture")
    return path


def bytes_table(pictures: list[Path], path: Path, column: str = "bytes", **more: list[object]) -> Path:
    pl.DataFrame({column: [one.read_bytes() for one in pictures], **more}).write_parquet(path, row_group_size=4)
    return path


def opened(found: pl.DataFrame, column: str | None = None) -> list[np.ndarray]:
    with Fetched(found["address"].to_list(), found["row"].to_list(), column) as files:
        return [np.asarray(open_image(files[i])) for i in range(len(files))]


def same(found: pl.DataFrame, pictures: list[Path], column: str | None = None) -> bool:
    wanted = [np.asarray(open_image(one)) for one in pictures]
    return all(np.array_equal(a, b) for a, b in zip(opened(found, column), wanted, strict=True))


def test_a_folder_is_listed_by_name_and_a_file_named_before_it_once(tiny_table, monkeypatch):
    folder = tiny_table.parent.name
    monkeypatch.chdir(tiny_table.parent.parent)
    found = list_pictures([f"{folder}/03.png", folder])
    wanted = ["03.png", *(f"{i:02}.png" for i in range(50) if i != 3)]
    assert found["id"].to_list() == [f"{folder}/{name}" for name in wanted]
    assert all(Path(address).is_absolute() for address in found["address"])
    assert found["split"].unique().to_list() == ["predict"]


@pytest.mark.parametrize("address", ["{folder}", "file://{folder}"])
def test_folders_are_listed_folder_by_folder(address, pictures, tmp_path):
    names = ["a/z.png", "a-b/c.png", "a.png", "b/A.PNG", "b/a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pictures[0].read_bytes())
    (tmp_path / "b" / "notes.txt").write_text("a.png")
    found = list_pictures([address.format(folder=tmp_path)])
    assert [one.removeprefix("file://").removeprefix(f"{tmp_path}/") for one in found["id"]] == names


def test_metadata_beside_pictures_is_no_table_of_them(pictures, tiny_table, tmp_path):
    (tmp_path / "a.png").write_bytes(pictures[0].read_bytes())
    pl.DataFrame({"file_name": ["a.png"], "text": ["a square"]}).write_parquet(tmp_path / "metadata.parquet")
    open_source(str(tiny_table)).save(tmp_path / "manifest.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    assert list_pictures([str(tmp_path)])["id"].to_list() == [str(tmp_path / "a.png")]


def test_a_list_is_relative_to_its_folder_and_a_line_twice_is_one_picture(pictures, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.png").write_bytes(pictures[1].read_bytes())
    text = tmp_path / "list.txt"
    text.write_text(f"{pictures[0]}\n\nsub/own.png\n{pictures[0]}\n")
    found = list_pictures([str(text)])
    assert found["id"].to_list() == [str(pictures[0]), "sub/own.png"]
    assert same(found, pictures[:2])


@pytest.mark.parametrize("address", ["file://{folder}", "zip://a::file://{archive}", "zip://::file://{archive}"])
def test_folders_at_addresses(address, pictures, archive, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for one in pictures:
        (folder / one.name).write_bytes(one.read_bytes())
    found = list_pictures([address.format(folder=folder, archive=archive)])
    assert same(found, pictures)
    assert found["id"].to_list() == found["address"].to_list()
    assert all("://" in one for one in found["id"])


def test_a_chain_through_a_cache(pictures, tmp_path):
    found = list_pictures([f"simplecache::file://{pictures[0]}"])
    assert same(found, pictures[:1])


def test_a_list_of_addresses_within_an_archive(pictures, archive):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("list.txt", "\n".join(f"a/{one.name}" for one in pictures))
    assert same(list_pictures([f"zip://list.txt::file://{archive}"]), pictures)


def test_a_table_of_paths(pictures, tmp_path):
    path = tmp_path / "table.parquet"
    pl.DataFrame({"id": range(9), "file": [str(one) for one in pictures]}).write_parquet(path)
    found = list_pictures([str(path)], column="file")
    assert found["id"].to_list() == [str(i) for i in range(9)]
    assert same(found, pictures)
    assert list_pictures([str(path)], column="file", id_column="file")["id"].to_list() == [str(p) for p in pictures]


@pytest.mark.parametrize("place", ["{path}", "file://{path}", "zip://t.parquet::file://{zip}"])
def test_a_table_of_picture_files(place, pictures, tmp_path):
    path = bytes_table(pictures, tmp_path / "t.parquet")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as file:
        file.write(path, "t.parquet")
    name = place.format(path=path, zip=tmp_path / "t.zip")
    found = list_pictures([name])
    assert found["id"].to_list() == [f"{name}#{row}" for row in range(9)]
    assert found["row"].to_list() == list(range(9))
    assert same(found, pictures)
    fetching._group.cache_clear()
    fetching._shape.cache_clear()


def test_a_folder_of_tables_with_structs(pictures, tmp_path):
    for number in range(2):
        rows = [{"bytes": one.read_bytes(), "path": one.name} for one in pictures[number * 4 : number * 4 + 4]]
        pl.DataFrame({"image": rows}).write_parquet(tmp_path / f"{number}.parquet")
    assert same(list_pictures([str(tmp_path)]), pictures[:8])


def test_a_manifest_keeps_ids_splits_and_labels(tiny_table):
    manifest = open_source(str(tiny_table))
    found = list_manifest(manifest)
    assert found["id"].to_list() == manifest.ids
    assert found["split"].to_list() == manifest.table["split"].to_list()
    assert np.array_equal(found["labels"].to_numpy(), manifest.labels)
    assert [Path(one) for one in found["address"]] == [one.absolute() for one in manifest.paths]


def faulty(tmp_path: Path, pictures: list[Path]) -> dict[str, tuple[list[str], dict[str, str], str]]:
    table = bytes_table(pictures, tmp_path / "t.parquet", "pixels", number=list(range(9)))
    pl.DataFrame({"id": ["a", "a"], "path": ["x.png", "y.png"]}).write_parquet(tmp_path / "twice.parquet")
    pl.DataFrame({"path": ["x.png", None]}).write_parquet(tmp_path / "hole.parquet")
    (tmp_path / "no.parquet").write_bytes(b"no table")
    (tmp_path / "latin.txt").write_bytes(b"\xe4.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.png").write_bytes(pictures[0].read_bytes())
    bytes_table(pictures, tmp_path / "mixed" / "b.parquet")
    return {
        "missing": ([str(tmp_path / "nowhere")], {}, "there is no such file or folder"),
        "empty": ([str(tmp_path / "empty")], {}, "no image found"),
        "mixed": ([str(tmp_path / "mixed")], {}, "1 pictures and 1 .parquet files"),
        "no column": ([str(table)], {}, "no column image or bytes or path; the columns are pixels, number"),
        "wrong column": ([str(table)], {"column": "numbre"}, "no column 'numbre'"),
        "number": ([str(table)], {"column": "number"}, "holds int64, neither paths nor picture files"),
        "twice": ([str(tmp_path / "twice.parquet")], {}, "two pictures have the id 'a'"),
        "hole": ([str(tmp_path / "hole.parquet")], {}, "column 'path' is empty in row 1"),
        "no table": ([str(tmp_path / "no.parquet")], {}, "no.parquet: cannot be read (Parquet magic bytes not found"),
        "latin": ([str(tmp_path / "latin.txt")], {}, "not a list of paths in UTF-8"),
        "protocol": (["s4://bucket/folder"], {}, "s4://bucket/folder"),
        "missing address": (["file:///nowhere/at/all.parquet"], {}, "there is no such file"),
    }


@pytest.mark.parametrize(
    "name",
    ["missing", "empty", "mixed", "no column", "wrong column", "number", "twice", "hole", "no table", "latin",
     "protocol", "missing address"],
)  # fmt: skip
def test_what_cannot_be_listed_is_named(name, tmp_path, pictures):
    paths, options, message = faulty(tmp_path, pictures)[name]
    with pytest.raises(UserError, match=re.escape(message)):
        list_pictures(paths, **options)


def test_a_manifest_needs_its_kind(tmp_path, tiny_table):
    open_source(str(tiny_table)).save(tmp_path / "manifest.parquet")
    with pytest.raises(UserError, match="--source prepared"):
        list_pictures([str(tmp_path / "manifest.parquet")])


def test_pictures_at_fault_are_damaged_and_the_others_are_not(pictures, archive, tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"bytes": [pictures[0].read_bytes(), None, b"", b"no picture"]}).write_parquet(path)
    found = list_pictures([str(path)])
    reasons = []
    with Fetched(found["address"].to_list(), found["row"].to_list()) as files:
        for i in range(4):
            try:
                open_image(files[i])
                reasons.append("")
            except DamagedImage as damage:
                reasons.append(damage.reason)
    assert reasons == ["", "there are no bytes", "the file is empty", "not an image of a known format"]
    for address in ("file:///nowhere/a.png", f"zip://a/nothing.png::file://{archive}"):
        with pytest.raises(DamagedImage, match="there is no such file"):
            fetch(address)


def test_an_interrupted_way_is_tried_again_and_is_no_damage(monkeypatch):
    calls = []

    class Broken:
        def __init__(self, good_after: int) -> None:
            self.good_after = good_after

        def cat_file(self, path: str) -> bytes:
            calls.append(path)
            if len(calls) <= self.good_after:
                raise TimeoutError("no answer")
            return b"content"

    monkeypatch.setattr(fetching, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "open_address", lambda address: (Broken(2), address))
    assert fetch("far://a.png") == b"content"
    assert len(calls) == 3
    calls.clear()
    monkeypatch.setattr(fetching, "open_address", lambda address: (Broken(3), address))
    with pytest.raises(UserError, match=r"far://a.png: cannot be fetched after 3 attempts \(no answer\)") as caught:
        fetch("far://a.png")
    assert not isinstance(caught.value, DamagedImage)


def test_addresses():
    assert suffix("s3://b/x.JPG?version=1") == ".jpg"
    assert suffix("zip://x.png::file:///a.zip") == ".png"
    assert suffix("simplecache::s3://b/x.parquet") == ".parquet"
    assert inside("s3://b/folder", "x.png") == "s3://b/folder/x.png"
    assert inside("zip://::s3://b/a.zip", "x.png") == "zip://x.png::s3://b/a.zip"
    assert inside("simplecache::s3://b/f/", "x.png") == "simplecache::s3://b/f/x.png"
    assert inside("/a", "s3://b/x.png") == "s3://b/x.png"
    assert parent("zip://f/list.txt::s3://b/a.zip") == "zip://f::s3://b/a.zip"
    assert inside(parent("zip://list.txt::s3://b/a.zip"), "x.png") == "zip://x.png::s3://b/a.zip"


def test_encoded_pictures_open_as_files_do(pictures):
    for one in pictures:
        content = EncodedPicture(one.read_bytes(), "name")
        assert np.array_equal(np.asarray(open_image(content)), np.asarray(open_image(one)))
        assert open_image(content, at_least=(8, 8)).size == open_image(one, at_least=(8, 8)).size
    with pytest.raises(DamagedImage, match="name: truncated"):
        open_image(EncodedPicture(pictures[0].read_bytes()[:900], "name"))
