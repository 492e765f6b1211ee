import threading

import numpy as np
import pytest
from PIL import Image

from manyhot.data import digits
from manyhot.data.sources import digits as source
from manyhot.data.sources import open_source
from manyhot.errors import UserError

SCENES = [digits.compose(0, split, index) for split in digits.SPLITS for index in range(60)]
FEW = {"train": 6, "val": 3, "test": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def area(box):
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def test_a_scene_depends_on_seed_split_and_index_alone():
    scene = digits.compose(3, "val", 7)
    again = digits.compose(3, "val", 7)
    assert np.array_equal(scene.picture, again.picture)
    assert (scene.boxes, scene.samples) == (again.boxes, again.samples)
    for other in (digits.compose(4, "val", 7), digits.compose(3, "test", 7), digits.compose(3, "val", 8)):
        assert not np.array_equal(scene.picture, other.picture)


def test_no_handwritten_sample_is_in_two_splits_and_all_are_in_one():
    rows = np.concatenate([digits.members(split) for split in digits.SPLITS])
    assert sorted(rows) == list(range(1797))


def test_every_split_holds_its_share_of_every_class():
    names = digits.handwriting()[1]
    whole = np.bincount(names)
    for split, share in zip(digits.SPLITS, digits.SHARES, strict=True):
        assert np.bincount(names[digits.members(split)]) == pytest.approx(whole * share, abs=1)


def test_scenes_show_samples_of_their_own_split():
    for split in digits.SPLITS:
        shown = {sample for index in range(60) for sample in digits.compose(0, split, index).samples}
        assert shown <= set(digits.members(split))


def test_boxes_are_tight_around_the_strokes_that_can_be_seen():
    for scene in SCENES:
        for number, box in enumerate(scene.boxes, 1):
            rows, columns = np.nonzero(scene.strokes == number)
            # A later digit may hide some strokes of an earlier one, never add to them.
            assert rows.min() >= box.y0
            assert columns.min() >= box.x0
            assert rows.max() < box.y1
            assert columns.max() < box.x1
        rows, columns = np.nonzero(scene.strokes == len(scene.boxes))
        last = scene.boxes[-1]
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (last.x0, last.y0, last.x1, last.y1)


def test_boxes_lie_inside_and_overlap_little():
    for scene in SCENES:
        assert 1 <= len(scene.boxes) <= 4
        for i, a in enumerate(scene.boxes):
            assert a.x0 >= 0
            assert a.y0 >= 0
            assert max(a.x1, a.y1) <= digits.SIDE
            for b in scene.boxes[:i]:
                width = max(0, min(a.x1, b.x1) - max(a.x0, b.x0))
                height = max(0, min(a.y1, b.y1) - max(a.y0, b.y0))
                assert width * height / (area(a) + area(b) - width * height) < 0.1
                for one, other in ((a, b), (b, a)):
                    x, y = (other.x0 + other.x1) / 2, (other.y0 + other.y1) / 2
                    assert not (one.x0 <= x < one.x1 and one.y0 <= y < one.y1)


def test_strokes_stand_out_from_what_is_around_them():
    weights = np.array([0.299, 0.587, 0.114]) / 255
    faint = 0
    for scene in SCENES:
        light = scene.picture @ weights
        for number, box in enumerate(scene.boxes, 1):
            window = slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1))
            ink = scene.strokes[window] == number
            around = scene.strokes[window] == 0
            faint += around.sum() > 20 and abs(light[window][ink].mean() - light[window][around].mean()) < 0.15
    assert faint <= 0.02 * sum(len(scene.boxes) for scene in SCENES)


def test_labels_say_what_the_boxes_say():
    names = digits.handwriting()[1]
    for scene in SCENES:
        assert {digits.CLASSES[i] for i, label in enumerate(scene.labels) if label} == {b.name for b in scene.boxes}
        assert [digits.CLASSES[names[sample]] for sample in scene.samples] == [box.name for box in scene.boxes]


def test_scenes_of_any_size_can_be_composed():
    for side in (48, 200):
        scene = digits.compose(0, "train", 0, side)
        assert scene.picture.shape == (side, side, 3)
        assert scene.boxes


def test_the_source_writes_the_scenes_once(cache, monkeypatch):
    monkeypatch.setattr(source, "COUNTS", FEW)
    manifest = open_source("digits")
    assert manifest.classes == digits.CLASSES
    assert manifest.task == "multilabel"
    assert manifest.table["split"].to_list() == ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    for row, (path, split) in enumerate(zip(manifest.paths, manifest.table["split"], strict=True)):
        scene = digits.compose(0, split, int(path.stem.split("_")[1]))
        assert manifest.boxes(row) == list(scene.boxes)
        assert manifest.labels[row].tolist() == scene.labels
        pixels = np.asarray(Image.open(path)).astype(int)
        assert np.abs(pixels - scene.picture).mean() < 3  # JPEG
    monkeypatch.setattr(source, "_write", None)  # a second write would fail
    again = open_source("digits")
    assert again.table.equals(manifest.table)
    assert again.root == manifest.root
    assert [folder.name for folder in cache.iterdir()] == [manifest.root.name]


def test_other_scenes_go_to_another_folder():
    roots = {
        source.cached_scenes(FEW).root,
        source.cached_scenes(FEW, seed=1).root,
        source.cached_scenes(FEW, side=64).root,
    }
    assert len(roots) == 3


@pytest.mark.parametrize("damage", ["manifest.parquet", "images/val_00001.jpg", "empty"])
def test_a_damaged_cache_is_written_again(cache, damage):
    first = source.cached_scenes(FEW)
    if damage == "empty":
        (first.root / "images" / "val_00001.jpg").write_bytes(b"")
    else:
        (first.root / damage).unlink()
    second = source.cached_scenes(FEW)
    assert second.root == first.root
    assert second.table.equals(first.table)
    assert all(path.stat().st_size for path in second.paths)
    assert [folder.name for folder in cache.iterdir()] == [first.root.name]


def test_two_at_once_both_end_well(cache):
    found, start = [], threading.Barrier(4)

    def read():
        start.wait()
        found.append(source.cached_scenes(FEW))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(manifest.table.equals(found[0].table) for manifest in found)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_folder_that_cannot_be_written_is_named(cache):
    cache.write_text("a file is in the way")
    with pytest.raises(UserError, match="MANYHOT_CACHE"):
        source.cached_scenes(FEW)


def test_the_source_is_its_name_and_nothing_else():
    assert source.Digits().recognises("digits")
    assert not source.Digits().recognises("data/digits")
    with pytest.raises(UserError, match="embedded"):
        source.Digits().read("elsewhere", difficult="ignore")
