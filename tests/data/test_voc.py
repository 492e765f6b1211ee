"""The Pascal VOC reader on small year folders written by hand."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Box
from manyhot.data.sources import open_source
from manyhot.data.sources.voc import VOC_CLASSES
from manyhot.errors import UserError

# name, difficult, xmin, ymin, xmax, ymax
Thing = tuple[str, int, float, float, float, float]


def xml(things: list[Thing], size: tuple[int, int] | None = (64, 48), extra: str = "") -> str:
    head = (
        "" if size is None else f"<size>\n<width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n"
    )
    objects = "".join(
        f"<object>\n<name>{name}</name>\n<difficult>{hard}</difficult>\n<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>\n<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>\n"
        for name, hard, x0, y0, x1, y1 in things
    )
    return f"<annotation>\n{head}{objects}{extra}</annotation>\n"


class Year:
    """A VOC year folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (root / name).mkdir(parents=True)

    def picture(self, id_: str, things: list[Thing] | None = None, size: tuple[int, int] | None = (64, 48)) -> None:
        Image.new("RGB", (64, 48)).save(self.root / "JPEGImages" / f"{id_}.jpg")
        if things is not None:
            (self.root / "Annotations" / f"{id_}.xml").write_text(xml(things, size))

    def lists(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)


DOG: Thing = ("dog", 0, 5, 6, 30, 40)
HARD_CAT: Thing = ("cat", 1, 1, 1, 10.5, 12)


@pytest.fixture
def year(tmp_path: Path) -> Year:
    year = Year(tmp_path / "VOCdevkit" / "VOC2012")
    year.picture("a", [DOG, HARD_CAT])
    year.picture("b", [("cat", 0, 2, 2, 9, 9), HARD_CAT])
    year.picture("c", [])
    year.lists(
        train="a\nb\n", val="c\n", trainval="a\nb\nc\n",
        dog_train="a  1\nb -1\n", cat_train="a  0\nb  1\n", dog_val="c -1\n", cat_val="c -1\n",
    )  # fmt: skip
    return year


def at(name: str) -> int:
    return VOC_CLASSES.index(name)


def test_lists_and_boxes(year: Year) -> None:
    manifest = open_source(str(year.root))
    assert manifest.classes == VOC_CLASSES
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert manifest.task == "multilabel"
    assert manifest.label_rule == "VOC ImageSets/Main, difficult: ignore"
    assert manifest.root == year.root
    assert manifest.ids == ["a", "b", "c"]
    assert manifest.table["split"].to_list() == ["train", "train", "val"]
    assert manifest.table["image"].to_list()[0] == "JPEGImages/a.jpg"
    assert manifest.table.select("width", "height").rows() == [(64, 48)] * 3
    assert manifest.labels[:, at("dog")].tolist() == [1, 0, 0]
    assert manifest.labels[:, at("cat")].tolist() == [-1, 1, 0]
    assert manifest.boxes(0) == [Box("dog", 4, 5, 30, 40), Box("cat", 0, 0, 10.5, 12, True)]
    assert manifest.boxes(2) == []


@pytest.mark.parametrize(("rule", "label"), [("ignore", -1), ("positive", 1), ("negative", 0)])
@pytest.mark.parametrize("lists", [True, False])
def test_the_difficult_rule_holds_for_lists_and_xml(year: Year, rule: str, label: int, lists: bool) -> None:
    if not lists:
        for path in (year.root / "ImageSets" / "Main").glob("*_*.txt"):
            path.unlink()
    manifest = open_source(str(year.root), difficult=rule)  # type: ignore[arg-type]
    assert manifest.labels[:, at("cat")].tolist() == [label, 1, 0]
    assert manifest.label_rule == f"VOC {'ImageSets/Main' if lists else 'XML'}, difficult: {rule}"


def test_a_missing_class_list_is_filled_from_xml(year: Year, caplog: pytest.LogCaptureFixture) -> None:
    (year.root / "ImageSets" / "Main" / "dog_train.txt").unlink()
    whole = open_source(str(year.root))
    assert whole.labels[:, at("dog")].tolist() == [1, 0, 0]
    assert not caplog.records


def test_train_is_a_class_as_well_as_a_split(year: Year) -> None:
    year.lists(train_train="a 1\nb -1\n", train_val="c 1\n", train_trainval="a 1\nb -1\nc 1\n")
    manifest = open_source(str(year.root))
    assert manifest.splits == ["train", "val"]
    assert manifest.labels[:, at("train")].tolist() == [1, 0, 1]


def test_other_classes_are_sorted_and_take_their_names_from_the_lists(year: Year) -> None:
    year.lists(traffic_light_train="a 1\nb -1\n", traffic_light_val="c -1\n")
    assert open_source(str(year.root)).classes == ("cat", "dog", "traffic_light")


def test_other_classes_from_xml_alone(tmp_path: Path) -> None:
    year = Year(tmp_path / "mine")
    year.picture("a", [("zebra", 0, 1, 1, 5, 5), ("ant", 0, 1, 1, 5, 5)])
    year.lists(test="a\n")
    manifest = open_source(str(year.root))
    assert manifest.classes == ("ant", "zebra")
    assert manifest.labels.tolist() == [[1, 1]]


def test_trainval_is_a_split_only_without_train_and_val(year: Year, caplog: pytest.LogCaptureFixture) -> None:
    main = year.root / "ImageSets" / "Main"
    (main / "val.txt").unlink()
    assert open_source(str(year.root)).splits == ["train"]
    assert "1 pictures stand in no other list and are left out, such as c" in caplog.text
    (main / "train.txt").unlink()
    manifest = open_source(str(year.root))
    assert manifest.splits == ["trainval"]
    assert len(manifest) == 3


def test_a_devkit_of_one_year_is_that_year_and_of_several_is_an_error(year: Year) -> None:
    devkit = year.root.parent
    assert open_source(str(devkit)).root == year.root
    (devkit / "VOC2007" / "ImageSets" / "Main").mkdir(parents=True)
    with pytest.raises(UserError, match=r"several years: VOC2007, VOC2012\. Name one: .*VOC2012"):
        open_source(str(devkit))


def test_pictures_without_labels_are_ignored_and_counted(year: Year, caplog: pytest.LogCaptureFixture) -> None:
    year.picture("t")
    year.lists(test="t\n")
    manifest = open_source(str(year.root)).split("test")
    assert (manifest.labels == -1).all()
    assert manifest.table.select("width", "height").row(0) == (64, 48)
    assert "20 labels of split 'test' stand in no list and no XML" in caplog.text


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_size_that_xml_does_not_tell_is_the_pictures(year: Year, size: tuple[int, int] | None) -> None:
    year.picture("a", [DOG], size)
    assert open_source(str(year.root)).table.select("width", "height").row(0) == (64, 48)


def test_lists_and_xml_that_disagree_are_named(year: Year, caplog: pytest.LogCaptureFixture) -> None:
    year.lists(dog_train="a -1\nb -1\n")
    assert open_source(str(year.root)).labels[0, at("dog")] == 0
    assert "disagree on 1 labels, the lists hold: a (dog)" in caplog.text


def test_windows_lines_empty_lines_and_a_byte_order_mark_do_no_harm(year: Year) -> None:
    before = open_source(str(year.root)).labels
    for path in (year.root / "ImageSets" / "Main").glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert np.array_equal(open_source(str(year.root)).labels, before)


def main_file(name: str) -> str:
    return re.escape(str(Path("ImageSets") / "Main" / name))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"dog_train": "a 1\nb yes\n"}, main_file("dog_train.txt") + r", line 2: expected an image id and 1, -1 or 0"),
        ({"dog_train": "a 1\n\nb\n"}, main_file("dog_train.txt") + r", line 3: .* found 'b'"),
        ({"train": "a\nb 1\n"}, main_file("train.txt") + r", line 2: expected one image id, found 'b 1'"),
        ({"val": "c\na\n"}, main_file("val.txt") + r": 'a' is listed in train\.txt already\. .*one split"),
        ({"train": "a\nb\na\n"}, main_file("train.txt") + r": 'a' is listed in train\.txt already"),
        ({"train": "a\nb\nx\ny\n"}, r"JPEGImages: 2 listed pictures are missing: x\.jpg, y\.jpg\. Unpack"),
        ({"dog_train": "a 1\n"}, None),
    ],
)
def test_faults_in_lists_name_file_and_line(year: Year, lists: dict[str, str], message: str | None) -> None:
    year.lists(**lists)
    if message is None:  # the XML fills the gap
        assert open_source(str(year.root)).labels[:, at("dog")].tolist() == [1, 0, 0]
    else:
        with pytest.raises(UserError, match=message):
            open_source(str(year.root))


def test_a_gap_in_a_list_without_xml_is_named(year: Year) -> None:
    (year.root / "Annotations" / "b.xml").unlink()
    year.lists(dog_train="a 1\n")
    with pytest.raises(UserError, match=main_file("dog_train.txt") + r": picture 'b' of train\.txt has no line here"):
        open_source(str(year.root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml([("dgo", 0, 1, 1, 2, 2)]), r"a\.xml, line 5: unknown class 'dgo'\. Did you mean 'dog'\?"),
        ("<annotation>\n<object>\n</annotation>", r"a\.xml, line 3: malformed XML \(mismatched tag\)"),
        ("", r"a\.xml, line 1: malformed XML \(no element found\)"),
        ("<html>\n</html>", r"a\.xml, line 1: this is no VOC annotation: it begins with <html>"),
        (xml([("dog", 2, 1, 1, 2, 2)]), r"a\.xml, line 6: difficult is 0 or 1, not '2'"),
        (xml([("dog", 0, 9, 1, 2, 2)]), r"a\.xml, line 7: the box ends before it begins"),
        (xml([DOG]).replace("<xmin>5</xmin>", ""), r"a\.xml, line 7: the box lacks xmin"),
        (xml([DOG]).replace(">5<", ">five<"), r"a\.xml, line 7: xmin is a number, not 'five'"),
        (xml([DOG]).replace(">5<", ">nan<"), r"a\.xml, line 7: xmin is a number, not 'nan'"),
        (xml([DOG]).replace("<name>dog</name>", ""), r"a\.xml, line 4: this object has no name"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', r"a\.xml, line 1: .*encoding"),
        (
            '<!DOCTYPE a [\n<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;">]>\n<annotation>&y;</annotation>',
            r"a\.xml, line 1: a document type declaration is not read",
        ),
    ],
)
def test_faults_in_xml_name_file_and_line(year: Year, text: str, message: str) -> None:
    (year.root / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(str(year.root))


def test_a_year_without_lists_says_what_is_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    year = Year(tmp_path / "VOC2012")
    with pytest.raises(UserError, match=r"no list of pictures\. Looked for train\.txt"):
        open_source(str(year.root))
    year.picture("a", [])
    year.lists(train="a\n")
    with pytest.raises(UserError, match=r"nothing names a class"):
        open_source(str(year.root))
    with pytest.raises(UserError, match=r"no Pascal VOC folder\. It needs ImageSets/Main"):
        open_source(str(tmp_path / "VOC2012" / "JPEGImages"), kind="voc")
