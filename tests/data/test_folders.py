"""Folders of class folders, and how a source is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from manyhot.data.manifest import Manifest, Row
from manyhot.data.sources import natural_order, open_source, source_kinds
from manyhot.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_class_folders_are_one_train_split(tmp_path: Path) -> None:
    for name in ("dog/img10.jpg", "dog/img2.JPEG", "cat/a.png"):
        picture(tmp_path / name)
    manifest = open_source(str(tmp_path))
    assert manifest.classes == ("cat", "dog")
    assert manifest.task == "multiclass"
    assert manifest.label_rule == "class folders"
    assert manifest.ids == manifest.table["image"].to_list() == ["cat/a.png", "dog/img2.JPEG", "dog/img10.jpg"]
    assert manifest.splits == ["train"]
    assert manifest.labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert all(path.is_file() for path in manifest.paths)


def test_split_folders_share_their_classes(tmp_path: Path) -> None:
    for name in ("train/dog/a.jpg", "train/cat/b.jpg", "valid/dog/a.jpg", "test/cat/c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "test" / "dog").mkdir()
    manifest = open_source(str(tmp_path))
    assert manifest.classes == ("cat", "dog")
    assert manifest.splits == ["train", "val", "test"]
    assert dict(zip(manifest.ids, manifest.labels.tolist(), strict=True)) == {
        "train/cat/b.jpg": [1, 0],
        "train/dog/a.jpg": [0, 1],
        "valid/dog/a.jpg": [0, 1],
        "test/cat/c.jpg": [1, 0],
    }


def test_classes_that_are_called_like_splits_are_told_apart_by_content(tmp_path: Path) -> None:
    for name in ("train/a.jpg", "test/a.jpg"):
        picture(tmp_path / name)
    assert open_source(str(tmp_path)).classes == ("test", "train")


def test_caltech_numbers_give_the_order_and_go(tmp_path: Path) -> None:
    for name in ("002.american-flag/2_1.jpg", "001.zebra/1_1.jpg", "257.clutter/3_1.jpg"):
        picture(tmp_path / name)
    assert open_source(str(tmp_path)).classes == ("zebra", "american-flag", "clutter")
    picture(tmp_path / "plain" / "a.jpg")
    assert open_source(str(tmp_path)).classes == ("001.zebra", "002.american-flag", "257.clutter", "plain")


def test_two_numbers_of_one_class_are_an_error(tmp_path: Path) -> None:
    for name in ("001.dog/a.jpg", "002.dog/a.jpg"):
        picture(tmp_path / name)
    with pytest.raises(UserError, match=r"001\.dog and 002\.dog would both be class 'dog'\. Rename one"):
        open_source(str(tmp_path))


def test_empty_classes_are_kept_and_strays_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "dog" / "a.jpg")
    picture(tmp_path / "dog" / "deeper" / "b.jpg")
    (tmp_path / "dog" / "notes.txt").touch()
    (tmp_path / "dog" / ".DS_Store").touch()
    (tmp_path / "cat").mkdir()
    (tmp_path / ".git").mkdir()
    picture(tmp_path / "loose.jpg")
    manifest = open_source(str(tmp_path))
    assert manifest.classes == ("cat", "dog")
    assert manifest.ids == ["dog/a.jpg"]
    assert "no pictures of cat; the class is kept" in caplog.text
    assert "3 entries are not pictures in a class folder" in caplog.text


def test_a_folder_read_as_class_folders_that_holds_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    with pytest.raises(UserError, match=r"no subfolder holds a picture\. Expected CLASS/\*\.jpg"):
        open_source(str(tmp_path), kind="folders")


def test_natural_order_is_total_and_counts() -> None:
    names = ["b", "a10", "a2", "A2", "a02", "a", "10", "9", "a2b"]
    ordered = sorted(names, key=natural_order)
    names.reverse()
    names.sort(key=natural_order)
    assert names == ordered
    assert ordered.index("9") < ordered.index("10") < ordered.index("a") < ordered.index("a2") < ordered.index("a10")


def test_a_missing_folder_is_an_error_at_once(tmp_path: Path) -> None:
    for kind in (None, "voc"):
        with pytest.raises(UserError, match=r"there is no file or folder '.*nothing'.*(?s:.)*voc: a Pascal VOC year"):
            open_source(str(tmp_path / "nothing"), kind=kind)


def test_an_unknown_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path))
    message = str(caught.value)
    assert "is of no known kind of data" in message
    assert "--source KIND" in message
    assert all(f"  {name}: {looks}" in message for name, looks in source_kinds().items())
    assert set(source_kinds()) >= {"voc", "folders", "table", "coco", "prepared"}


def test_several_kinds_ask_for_one(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "a.jpg")
    Manifest.from_rows(tmp_path, ["x"], [Row("i", "dog/a.jpg", "train", [1])], label_rule="r").save(
        tmp_path / "manifest.parquet"
    )
    with pytest.raises(UserError, match=r"can be read as folders or as prepared\. Say which: --source folders"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), kind="prepared").classes == ("x",)
    assert open_source(str(tmp_path), kind="folders").classes == ("dog",)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown source 'vok'\. Did you mean 'voc'"):
        open_source(".", kind="vok")


def test_a_manifest_is_a_source_by_file_and_by_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = Manifest.from_rows(
        tmp_path, ["x", "y"], [Row("i", "a.jpg", "val", [1, -1])], label_rule="VOC XML, difficult: negative"
    )
    manifest.save(tmp_path / "manifest.parquet")
    for text in (tmp_path, tmp_path / "manifest.parquet"):
        loaded = open_source(str(text), difficult="negative")
        assert loaded.table.equals(manifest.table)
        assert loaded.root.resolve() == tmp_path.resolve()
    assert not caplog.records
    open_source(str(tmp_path), difficult="ignore")
    assert "stay so; difficult: ignore is not applied" in caplog.text
    with pytest.raises(UserError, match=r"no such manifest\. A run folder"):
        open_source(str(tmp_path.parent), kind="prepared")
