import logging

import numpy as np
import pytest
from PIL import Image

from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.sources import digits, open_source
from manyhot.data.voc_writer import write_voc
from manyhot.errors import UserError

CLASSES = ("cat", "potted plant", "a&b's")
PLANT = Box("potted plant", 0, 0, 40, 30)
CAT = Box("cat", 10, 5, 33, 17)


def picture(path, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(options.pop("mode", "RGB")).save(path, **options)


def row(id_, labels=(1, 0, 0), boxes=(CAT,), split="train", image=None):
    return Row(id_, image or f"{id_}.jpg", split, labels, 40, 30, boxes)


def manifest_of(root, *rows, classes=CLASSES):
    for one in rows:
        if not (root / one.image).exists():
            picture(root / one.image)
    return Manifest.from_rows(root, classes, rows, label_rule="test")


def by_id(manifest):
    """What must survive: per id, the split, the label of every class, and the boxes."""
    return {
        id_: (split, dict(zip(manifest.classes, labels.tolist(), strict=True)), manifest.boxes(index))
        for index, (id_, split, labels) in enumerate(
            zip(manifest.ids, manifest.table["split"], manifest.labels, strict=True)
        )
    }


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_reads_back_equal(tmp_path, caplog):
    hard_cat = Box("cat", 1.5, 2.25, 8.125, 9, difficult=True)
    manifest = manifest_of(
        tmp_path / "pictures",
        row("a"),
        row("b.2", (1, 1, 0), (CAT, hard_cat, PLANT), split="val"),
        row("c", (-1, 0, 1), (hard_cat, Box("a&b's", 3, 3, 4, 4)), split="val"),
        row("d", (0, 0, 0), (), split="test"),
    )
    write_voc(manifest, tmp_path / "VOC2026")
    with caplog.at_level(logging.WARNING):
        again = open_source(str(tmp_path / "VOC2026"))
    assert by_id(again) == by_id(manifest)
    assert again.splits == manifest.splits
    assert not caplog.records  # lists and XML agree
    assert (tmp_path / "VOC2026" / "ImageSets" / "Main" / "potted plant_val.txt").read_text() == "b.2  1\nc -1\n"
    assert (tmp_path / "VOC2026" / "ImageSets" / "Main" / "cat_val.txt").read_text() == "b.2  1\nc  0\n"


def test_digits_survive(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    manifest = digits.cached_scenes({"train": 12, "val": 5, "test": 5})
    write_voc(manifest, tmp_path / "out")
    again = open_source(str(tmp_path / "out"))
    assert by_id(again) == by_id(manifest)
    for ours, theirs in zip(manifest.paths, again.paths, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_boxes_count_from_one_and_include_their_last_pixel(tmp_path):
    write_voc(manifest_of(tmp_path / "pictures", row("a")), tmp_path / "out")
    xml = (tmp_path / "out" / "Annotations" / "a.xml").read_text()
    assert "<xmin>11</xmin>" in xml
    assert "<ymin>6</ymin>" in xml
    assert "<xmax>33</xmax>" in xml
    assert "<ymax>17</ymax>" in xml
    assert "<width>40</width>" in xml
    assert "<height>30</height>" in xml


def test_a_class_with_difficult_objects_only_is_listed_zero_whatever_its_label(tmp_path):
    hard = Box("cat", 10, 5, 33, 17, difficult=True)
    for label in (1, 0, -1):
        manifest = manifest_of(tmp_path / "pictures", row("a", (label, 0, 0), (hard,)))
        write_voc(manifest, tmp_path / str(label))
        assert (tmp_path / str(label) / "ImageSets" / "Main" / "cat_train.txt").read_text() == "a  0\n"
        again = open_source(str(tmp_path / str(label)), difficult="positive")
        assert by_id(again)["a"][1]["cat"] == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.jpg", {"format": "PNG"}), ("a.jpg", {"mode": "CMYK"}), ("a.tif", {"mode": "L"})],
)
def test_every_picture_becomes_a_genuine_jpeg(tmp_path, name, options):
    picture(tmp_path / "pictures" / name, **options)
    manifest = manifest_of(tmp_path / "pictures", row("a", image=name))
    write_voc(manifest, tmp_path / "out")
    with Image.open(tmp_path / "out" / "JPEGImages" / "a.jpg") as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == (40, 30)


def test_a_grey_jpeg_is_copied(tmp_path):
    picture(tmp_path / "pictures" / "a.jpg", mode="L", quality=30)
    write_voc(manifest_of(tmp_path / "pictures", row("a")), tmp_path / "out")
    assert (tmp_path / "out" / "JPEGImages" / "a.jpg").read_bytes() == (tmp_path / "pictures" / "a.jpg").read_bytes()
    assert "<depth>1</depth>" in (tmp_path / "out" / "Annotations" / "a.xml").read_text()


def test_a_turned_picture_is_written_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "pictures" / "a.jpg", size=(30, 40), exif=exif)
    write_voc(manifest_of(tmp_path / "pictures", row("a")), tmp_path / "out")
    with Image.open(tmp_path / "out" / "JPEGImages" / "a.jpg") as image:
        assert image.size == (40, 30)
        assert not image.getexif()


def test_ids_become_safe_file_names(tmp_path):
    ids = ["cats/one two", "../up", ".hidden", "über-1.png"]
    manifest = manifest_of(tmp_path / "pictures", *(row(id_, image=f"{i}.jpg") for i, id_ in enumerate(ids)))
    write_voc(manifest, tmp_path / "out")
    again = open_source(str(tmp_path / "out"))
    assert again.ids == ["cats_one_two", "_._up", "_hidden", "über-1.png"]
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.jpg")} == {"JPEGImages"}


def test_ids_of_one_file_name_are_refused(tmp_path):
    manifest = manifest_of(tmp_path / "pictures", row("a/b", image="1.jpg"), row("A_b", image="2.jpg"))
    with pytest.raises(UserError, match="'a/b' and 'A_b'"):
        write_voc(manifest, tmp_path / "out")


def test_labels_without_boxes_are_refused(tmp_path):
    manifest = manifest_of(tmp_path / "pictures", row("a"), row("b", (1, 1, 0)))
    with pytest.raises(UserError, match="'b' shows potted plant"):
        write_voc(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_refused_and_left_alone(tmp_path):
    manifest = manifest_of(tmp_path / "pictures", row("a"))
    (tmp_path / "out").mkdir()
    write_voc(manifest, tmp_path / "out")  # empty is fine
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="not empty"):
        write_voc(manifest, tmp_path / "out")
    assert files(tmp_path / "out") == before
    with pytest.raises(UserError, match="a file"):
        write_voc(manifest, tmp_path / "pictures" / "a.jpg")


@pytest.mark.parametrize("name", ["a/b", "..", "", "tab\t", "a:b"])
def test_class_names_that_are_no_file_names_are_refused(tmp_path, name):
    manifest = manifest_of(tmp_path / "pictures", row("a", (0,), ()), classes=(name,))
    with pytest.raises(UserError, match="file name"):
        write_voc(manifest, tmp_path / "out")


@pytest.mark.parametrize(("splits", "message"), [(("all",), "no split 'all'"), (("train", "trainval"), "beside")])
def test_splits_that_voc_has_not_are_refused(tmp_path, splits, message):
    rows = [row(f"i{i}", split=split) for i, split in enumerate(splits)]
    with pytest.raises(UserError, match=message):
        write_voc(manifest_of(tmp_path / "pictures", *rows), tmp_path / "out")


def test_a_damaged_picture_leaves_nothing_behind(tmp_path):
    manifest = manifest_of(tmp_path / "pictures", row("a"), row("b"))
    whole = (tmp_path / "pictures" / "b.jpg").read_bytes()
    (tmp_path / "pictures" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"b\.jpg.*truncated"):
        write_voc(manifest, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
