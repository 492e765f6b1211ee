"""CSV and Parquet tables."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from manyhot.data.manifest import Manifest
from manyhot.data.sources import open_source
from manyhot.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.jpg")
    return tmp_path


def read(folder: Path, text: str) -> Manifest:
    (folder / "table.csv").write_text(text)
    return open_source(str(folder / "table.csv"))


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["dog;night sky", "", "dog; cat"], ("cat", "dog", "night sky")),
        (["dog|cat", "cat", ""], ("cat", "dog")),
        (['"dog,cat"', "cat", '"cat,"'], ("cat", "dog")),
        (["dog cat", "cat", "cat  dog"], ("cat", "dog")),
        (["class10;class9", "", ""], ("class9", "class10")),
    ],
)
def test_a_labels_column_holds_names(folder: Path, cells: list[str], classes: tuple[str, ...]) -> None:
    rows = [f"pictures/{name}.jpg,{cell}\n" for name, cell in zip("abc", cells, strict=True)]
    manifest = read(folder, "image,labels\n" + "".join(rows))
    assert manifest.classes == classes
    assert manifest.task == "multilabel"
    assert manifest.ids == manifest.table["image"].to_list() == [f"pictures/{name}.jpg" for name in "abc"]
    assert manifest.splits == ["train"]
    assert manifest.labels.sum(axis=1).tolist() == [
        len({name for name in re.split(r"[;|,]|\s+(?!sky)", cell.strip('"')) if name}) for cell in cells
    ]


def test_class_columns_hold_labels(folder: Path) -> None:
    rows = "1,pictures/a.jpg,train,1,0\n2,pictures/b.jpg,val,-1,\n3,pictures/c.jpg,val,0,1.0\n"
    manifest = read(folder, f"id,path,split,dog,night sky\n{rows}")
    assert manifest.classes == ("dog", "night sky")
    assert manifest.labels.tolist() == [[1, 0], [-1, -1], [0, 1]]
    assert manifest.ids == ["1", "2", "3"]
    assert manifest.splits == ["train", "val"]
    assert manifest.label_rule == "table, class columns: 1 present, 0 absent, -1 or empty ignored"


def test_a_label_column_is_single_label(folder: Path) -> None:
    manifest = read(folder, "file,label\npictures/a.jpg,traffic light\npictures/b.jpg,dog\n")
    assert manifest.task == "multiclass"
    assert manifest.classes == ("dog", "traffic light")
    assert manifest.labels.tolist() == [[0, 1], [1, 0]]


def test_id_may_stand_for_the_picture_with_or_without_its_ending(folder: Path) -> None:
    manifest = read(folder, "id,dog\npictures/a,1\npictures/b.jpg,0\n")
    assert manifest.table["image"].to_list() == ["pictures/a.jpg", "pictures/b.jpg"]
    assert manifest.ids == ["pictures/a", "pictures/b.jpg"]


def test_absolute_and_windows_paths(folder: Path) -> None:
    (folder / "tables").mkdir()
    text = f"image,dog\n{folder}/pictures/a.jpg,1\n..\\pictures\\b.jpg,0\n"
    manifest = read(folder / "tables", text)
    assert all(path.is_file() for path in manifest.paths)
    inside = read(folder, f"image,dog\n{folder}/pictures/a.jpg,1\npictures/b.jpg,0\n")
    assert inside.table["image"].to_list() == ["pictures/a.jpg", "pictures/b.jpg"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_seen_in_the_head(folder: Path, delimiter: str) -> None:
    lines = [["image", "dog", "cat"], ["pictures/a.jpg", "1", "0"], ["pictures/b.jpg", "0", "1"]]
    text = "\ufeff" + "\r\n".join(delimiter.join(line) for line in lines)
    (folder / "table.csv").write_bytes(text.encode())
    assert open_source(str(folder / "table.csv")).labels.tolist() == [[1, 0], [0, 1]]


def test_parquet_of_numbers_booleans_and_lists(folder: Path) -> None:
    images = ["pictures/a.jpg", "pictures/b.jpg"]
    path = folder / "t.parquet"
    pl.DataFrame({"image": images, "dog": [1, None], "cat": [0.0, 1.0], "ant": [True, False]}).write_parquet(path)
    manifest = open_source(str(path))
    assert manifest.classes == ("dog", "cat", "ant")
    assert manifest.labels.tolist() == [[1, 0, 1], [-1, 1, 0]]
    pl.DataFrame({"image": images, "labels": [["night, sky", "dog"], []]}).write_parquet(path)
    manifest = open_source(str(path))
    assert manifest.classes == ("dog", "night, sky")
    assert manifest.labels.tolist() == [[1, 1], [0, 0]]
    pl.DataFrame({"image": images, "dog": [1, 7]}).write_parquet(path)
    with pytest.raises(UserError, match=r"t\.parquet, line 2: column 'dog' holds '7'"):
        open_source(str(path))
    path.write_bytes(b"no")
    with pytest.raises(UserError, match=r"this is not a Parquet file"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,dog\npictures/a.jpg,1\npictures/b.jpg,0\npictures/c.jpg,2\n",
            r"line 4: column 'dog' holds '2'\. .*1 \(p",
        ),
        ("image,dog,splt\npictures/a.jpg,1,train\n", r"line 1: column 'splt' is not known .*'train'.*mean 'split'"),
        ("image,labels,place\npictures/a.jpg,x,Rome\n", r"line 1: column 'place' is not known .*Rename or remove it"),
        ("image,labels,dog\npictures/a.jpg,x,1\n", r"there is a column 'labels' and there are class columns \(dog\)"),
        ("image,file,dog\npictures/a.jpg,x,1\n", r"line 1: several columns tell the same: image, file"),
        ("image,dog\npictures/a.jpg,1\npictures/a.jpg,0\n", r"line 3: image 'pictures/a.jpg' stands in line 2 already"),
        ("id,image,dog\n7,pictures/a.jpg,1\n7,pictures/b.jpg,0\n", r"line 3: id '7' stands in line 2 already"),
        (
            'image,labels\npictures/a.jpg,"two\nlines"\nx.jpg,dog\ny.jpg,dog\n',
            r"line 4: 2 pictures are missing: x\.jpg, y\.jpg\. Relative paths stand under",
        ),
        ("image,dog\n,1\n", r"line 2: column 'image' is empty"),
        ("image,split,dog\npictures/a.jpg,,1\n", r"line 2: the split is empty\. Write train, val or test"),
        (
            "image,dog\npictures/a.jpg,1\npictures/b.jpg,-1\n",
            r"there are labels 1 and -1, but no 0\. In a table -1 means ignored",
        ),
        ("image,dog\npictures/a.jpg,1,0\n", r"line 2: 3 cells where the head has 2\. Put quotes"),
        ('image,dog\n\npictures/a.jpg,"1\n', r"line 3: malformed CSV"),
        ("image,dog,dog\npictures/a.jpg,1,0\n", r"line 1: there are two columns 'dog'"),
        ("image,,dog\npictures/a.jpg,1,0\n", r"line 1: column 2 has no name"),
        ("picture,dog\npictures/a.jpg,1\n", r"no column names the pictures; the columns are picture, dog"),
        ("image,split\npictures/a.jpg,train\n", r"no column holds labels\. Add a column labels"),
        ("image,labels\npictures/a.jpg,\n", r"no row of column 'labels' names a class"),
        ("image,label\npictures/a.jpg,\n", r"line 2: the label is empty"),
        ("image,dog\n", r"the table has no rows"),
        ("", r"the file is empty"),
    ],
)
def test_faults_name_file_and_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"table\.csv(: |, )" + message):
        read(folder, text)


def test_text_that_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "table.csv").write_bytes(b"image,labels\npictures/a.jpg,\xff\xfe\n")
    with pytest.raises(UserError, match=r"this is not UTF-8 text .* Save it as UTF-8"):
        open_source(str(folder / "table.csv"))
