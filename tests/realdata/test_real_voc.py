"""The readers on genuine Pascal VOC files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from manyhot.data.image_checks import check_images
from manyhot.data.images import image_size
from manyhot.data.manifest import Box
from manyhot.data.sources import open_source
from manyhot.data.sources.voc import VOC_CLASSES


def labels_in_xml(path: Path) -> list[int]:
    """Present, absent or ignored for every class by the XML, read in another way than the reader's."""
    flags: dict[str | None, list[str | None]] = {}
    for one in ET.parse(path).getroot().iter("object"):  # noqa: S314 - files of the data set itself
        flags.setdefault(one.findtext("name"), []).append(one.findtext("difficult"))
    return [0 if name not in flags else 1 if "0" in flags[name] else -1 for name in VOC_CLASSES]


def label_in_list(root: Path, split: str, name: str) -> dict[str, int]:
    meaning = {1: 1, -1: 0, 0: -1}
    lines = (root / "ImageSets" / "Main" / f"{name}_{split}.txt").read_text().splitlines()
    return {line.split()[0]: meaning[int(line.split()[1])] for line in lines}


@pytest.mark.parametrize(("year", "splits"), [("VOC2007", {"test": 19}), ("VOC2012", {"train": 1200, "val": 600})])
def test_labels_are_those_of_the_lists_and_of_the_xml(realdata: Path, year: str, splits: dict[str, int]) -> None:
    root = realdata / "VOCdevkit" / year
    manifest = open_source(str(root))
    assert manifest.classes == VOC_CLASSES
    assert {split: len(manifest.split(split)) for split in manifest.splits} == splits
    for split in splits:
        part = manifest.split(split)
        assert part.ids == (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        for column, name in enumerate(manifest.classes):
            listed = label_in_list(root, split, name)
            assert part.labels[:, column].tolist() == [listed[id_] for id_ in part.ids], name
        for id_, labels in zip(part.ids, part.labels.tolist(), strict=True):
            assert labels == labels_in_xml(root / "Annotations" / f"{id_}.xml"), id_


def test_labels_from_xml_alone_are_the_same(realdata: Path, tmp_path: Path) -> None:
    root = realdata / "VOCdevkit" / "VOC2012"
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_bytes(
            (root / "ImageSets" / "Main" / f"{split}.txt").read_bytes()
        )
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / name).symlink_to(root / name, target_is_directory=True)
    by_xml, by_lists = open_source(str(tmp_path)), open_source(str(root))
    assert by_xml.label_rule == "VOC XML, difficult: ignore"
    assert np.array_equal(by_xml.labels, by_lists.labels)
    assert (by_xml.labels == -1).any()


def test_boxes_and_sizes_are_those_of_the_files(realdata: Path) -> None:
    manifest = open_source(str(realdata / "VOCdevkit" / "VOC2007"))
    row = manifest.ids.index("000001")
    assert manifest.boxes(row) == [Box("dog", 47, 239, 195, 371), Box("person", 7, 11, 352, 498)]
    sizes = list(zip(manifest.table["width"], manifest.table["height"], strict=True))
    assert sizes == [image_size(path) for path in manifest.paths]


def test_every_genuine_picture_is_sound(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path))
    assert check_images(open_source(str(realdata / "VOCdevkit" / "VOC2007")).paths) == []
    caltech = open_source(str(realdata / "caltech101"))
    assert len(caltech.classes) == 20
    assert caltech.task == "multiclass"
    assert (caltech.labels.sum(axis=1) == 1).all()
    assert check_images(caltech.paths) == []
    assert not caplog.records
