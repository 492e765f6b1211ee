"""COCO instances as image-level labels with boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manyhot.data.manifest import Box
from manyhot.data.sources import open_source
from manyhot.errors import UserError


def content(*names: str) -> dict[str, Any]:
    return {
        "images": [{"id": 100 + i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
        "annotations": [
            {"id": 1, "image_id": 100, "category_id": 18, "bbox": [10, 20, 5.5, 6], "iscrowd": 0},
            {"id": 2, "image_id": 100, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1},
        ],
    }


def write(path: Path, data: object, pictures: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1))
    if pictures is not None and isinstance(data, dict):
        pictures.mkdir(parents=True, exist_ok=True)
        for image in data["images"]:
            Image.new("RGB", (64, 48)).save(pictures / image["file_name"])
    return path


def test_labels_in_the_order_of_category_ids_and_boxes_as_corners(tmp_path: Path) -> None:
    write(tmp_path / "mine.json", content("a.jpg", "b.jpg"), tmp_path / "images")
    manifest = open_source(str(tmp_path / "mine.json"))
    assert manifest.classes == ("person", "dog", "toothbrush")
    assert manifest.labels.tolist() == [[-1, 1, 0], [0, 0, 0]]
    assert manifest.ids == ["images/a.jpg", "images/b.jpg"]
    assert manifest.splits == ["train"]
    assert manifest.boxes(0) == [Box("dog", 10, 20, 15.5, 26), Box("person", 0, 0, 64, 48, True)]
    assert manifest.table.select("width", "height").row(1) == (64, 48)
    assert manifest.label_rule == "COCO instances, crowds (difficult): ignore"
    assert open_source(str(tmp_path / "mine.json"), difficult="positive").labels[0].tolist() == [1, 1, 0]
    assert open_source(str(tmp_path / "mine.json"), difficult="negative").labels[0].tolist() == [0, 1, 0]


def test_a_folder_gives_a_split_for_each_file(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "instances_train2017.json", content("1.jpg", "2.jpg"), tmp_path / "train2017")
    write(tmp_path / "annotations" / "instances_val2017.json", content("1.jpg"), tmp_path / "images" / "val2017")
    manifest = open_source(str(tmp_path))
    assert manifest.ids == ["train2017/1.jpg", "train2017/2.jpg", "images/val2017/1.jpg"]
    assert manifest.table["split"].to_list() == ["train", "train", "val"]
    assert all(path.is_file() for path in manifest.paths)
    alone = open_source(str(tmp_path / "annotations" / "instances_val2017.json"))
    assert alone.ids == ["images/val2017/1.jpg"]
    assert alone.splits == ["val"]


@pytest.mark.parametrize(
    ("name", "split"),
    [("instances_minival2014", "minival"), ("my_valid_set", "val"), ("test", "test"), ("instances", "train")],
)
def test_the_split_stands_in_the_file_name(tmp_path: Path, name: str, split: str) -> None:
    write(tmp_path / f"{name}.json", content("a.jpg"), tmp_path)
    assert open_source(str(tmp_path / f"{name}.json")).splits == [split]


def changed(key: str, at: int, **fields: object) -> dict[str, Any]:
    data = content("a.jpg", "b.jpg")
    data[key][at].update(fields)
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed("annotations", 1, image_id=7), r"annotations\[1\] names image 7, which is not listed"),
        (changed("annotations", 0, category_id=7), r"annotations\[0\] names category 7, which is not listed"),
        (changed("annotations", 0, bbox=[1, 2, 3]), r"annotations\[0\] has the bbox \[1, 2, 3\]; expected x, y, width"),
        (changed("categories", 0, id=1), r"two categories have one id or one name"),
        (changed("categories", 0, name="person"), r"two categories have one id or one name"),
        (changed("images", 1, id=100), r"there are two images of id 100"),
        (changed("images", 1, file_name=None), r"images\[1\] has no file_name"),
        ({"images": []}, r"there is no list 'annotations'\. This is not COCO's instances format"),
        ([], r"there is no list 'images'"),
    ],
)
def test_faults_name_the_entry(tmp_path: Path, data: object, message: str) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"mine\.json: " + message):
        open_source(str(write(tmp_path / "mine.json", data)))


def test_malformed_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{\n"images": [,]\n}')
    with pytest.raises(UserError, match=r"mine\.json, line 2: malformed JSON"):
        open_source(str(tmp_path / "mine.json"))


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", content("a.jpg", "b.jpg", "c.jpg"))
    with pytest.raises(
        UserError, match=r"not to be found: looked for a\.jpg in mine, images/mine, .*beside mine\.json"
    ):
        open_source(str(path))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"2 pictures are missing: b\.jpg, c\.jpg\. mine\.json lists them"):
        open_source(str(path))


def test_files_of_differing_categories_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "instances_train.json", content("1.jpg"), tmp_path / "train")
    other = content("1.jpg")
    other["categories"][0]["name"] = "hound"
    write(tmp_path / "annotations" / "instances_val.json", other, tmp_path / "val")
    with pytest.raises(UserError, match=r"instances_val\.json: the categories are not those of instances_train\.json"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"there is no COCO file\. Expected a \.json file"):
        open_source(str(tmp_path / "annotations"), kind="coco")
