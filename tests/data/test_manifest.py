"""The Manifest: what a source says is what is saved, and the validation share is fair, exact and steady."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.data.manifest import Box, Manifest, Row, is_manifest
from manyhot.errors import UserError

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
pixels = st.floats(0, 5000, width=32)


@st.composite
def manifests(draw):
    classes = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ids = draw(st.lists(names, max_size=6, unique=True))
    rows = [
        Row(
            id=one,
            image=draw(names),
            split=draw(st.sampled_from(["train", "val", "test"])),
            labels=draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=len(classes), max_size=len(classes))),
            width=draw(st.none() | st.integers(1, 2**31 - 1)),
            height=draw(st.none() | st.integers(1, 2**31 - 1)),
            boxes=draw(
                st.lists(
                    st.builds(Box, st.sampled_from(classes), pixels, pixels, pixels, pixels, st.booleans()), max_size=2
                )
            ),
        )
        for one in ids
    ]
    return classes, rows


def train_rows(labels: list[tuple[int, ...]]) -> Manifest:
    rows = [Row(f"picture {i}", f"{i}.png", "train", one) for i, one in enumerate(labels)]
    return Manifest.from_rows(Path(), [f"class {c}" for c in range(len(labels[0]))], rows, label_rule="drawn")


def val_ids(manifest: Manifest) -> set[str]:
    return set(manifest.table.filter(pl.col("split") == "val")["id"])


@settings(deadline=None, max_examples=50)
@given(manifests())
def test_rows_come_back_as_given_before_and_after_saving(tmp_path_factory, given_rows):
    classes, rows = given_rows
    folder = tmp_path_factory.mktemp("manifest")
    made = Manifest.from_rows(folder, classes, rows, label_rule="by hand, 'quoted' é")
    made.save(folder / "manifest.parquet")
    read = Manifest.load(folder / "manifest.parquet")
    for manifest in (made, read):
        assert len(manifest) == len(rows)
        assert manifest.classes == tuple(classes)
        assert (manifest.task, manifest.label_rule) == ("multilabel", "by hand, 'quoted' é")
        assert manifest.ids == [row.id for row in rows]
        assert manifest.paths == [folder / row.image for row in rows]
        assert (manifest.labels.dtype, manifest.labels.shape) == (np.int8, (len(rows), len(classes)))
        assert manifest.labels.tolist() == [list(row.labels) for row in rows]
        assert [manifest.boxes(i) for i in range(len(rows))] == [list(row.boxes) for row in rows]
        assert manifest.table["width"].to_list() == [row.width for row in rows]
        assert manifest.table["height"].to_list() == [row.height for row in rows]
        assert manifest.splits == list(dict.fromkeys(row.split for row in rows))
    assert read.table.equals(made.table)


def test_labels_are_a_copy_that_may_be_changed():
    manifest = train_rows([(1, 0), (0, 1)])
    manifest.labels[0] = 0
    assert manifest.labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("root", ["", "pictures", "deep/down"])
def test_a_root_beside_the_file_moves_with_it(tmp_path: Path, root):
    first = tmp_path / "first"
    (first / root).mkdir(parents=True)
    (first / root / "a.png").touch()
    manifest = Manifest.from_rows(first / root, ["x"], [Row("a", "a.png", "train", [1])], label_rule="x")
    manifest.save(first / "manifest.parquet")
    shutil.move(first, tmp_path / "second")
    moved = Manifest.load(tmp_path / "second" / "manifest.parquet")
    assert moved.paths[0].is_file()
    assert moved.paths[0].resolve() == (tmp_path / "second" / root / "a.png").resolve()


def test_a_root_elsewhere_is_kept_when_only_the_file_moves(tmp_path: Path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    manifest = Manifest.from_rows(Path("photos"), ["x"], [Row("a", "a.png", "train", [1])], label_rule="x")
    manifest.save(Path("runs") / "one" / "manifest.parquet")
    shutil.move("runs/one/manifest.parquet", "manifest.parquet")
    monkeypatch.chdir("/")
    assert Manifest.load(tmp_path / "manifest.parquet").paths[0].is_file()


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_to_the_folder_does_not_hide_that_the_root_lies_beside(tmp_path: Path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    manifest = Manifest.from_rows(tmp_path / "link", ["x"], [Row("a", "a.png", "train", [1])], label_rule="x")
    manifest.save(real / "manifest.parquet")
    assert Manifest.load(real / "manifest.parquet").root.resolve() == real.resolve()
    assert str(tmp_path).encode() not in (real / "manifest.parquet").read_bytes()


def test_repeats_and_missing_classes_are_refused(tmp_path: Path):
    one = Row("a", "a.png", "train", [1])
    with pytest.raises(UserError, match="the image id 'a' appears twice"):
        Manifest.from_rows(tmp_path, ["x"], [one, one], label_rule="x")
    with pytest.raises(UserError, match="the class 'x' appears twice"):
        Manifest.from_rows(tmp_path, ["x", "y", "x"], [], label_rule="x")
    with pytest.raises(UserError, match="names no class"):
        Manifest.from_rows(tmp_path, [], [], label_rule="x")


@pytest.mark.parametrize("label", [2, -2, 127])
def test_a_label_out_of_range_never_gets_in(tmp_path: Path, label):
    with pytest.raises(AssertionError):
        Manifest.from_rows(tmp_path, ["x"], [Row("a", "a.png", "train", [label])], label_rule="x")


def test_an_empty_split_is_named_with_those_that_are_not(tmp_path: Path):
    rows = [Row("a", "a.png", "train", [1]), Row("b", "b.png", "test", [0])]
    manifest = Manifest.from_rows(tmp_path, ["x"], rows, label_rule="x")
    assert manifest.split("test").ids == ["b"]
    with pytest.raises(UserError, match=r"split 'val' holds no images\. The splits with images: 'train', 'test'\."):
        manifest.split("val")
    with pytest.raises(UserError, match=r"The splits with images: none\."):
        Manifest.from_rows(tmp_path, ["x"], [], label_rule="x").split("train")


def test_rows_keeps_those_that_are_true():
    manifest = train_rows([(1,), (0,), (1,)])
    for keep in ([True, False, True], pl.Series([True, False, True])):
        assert manifest.rows(keep).ids == ["picture 0", "picture 2"]


def test_what_is_no_manifest_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        Manifest.load(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("id,image\n")
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "foreign.parquet")
    train_rows([(1,)]).save(tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-9])
    for name in ("text", "foreign", "cut"):
        with pytest.raises(UserError, match=rf"{name}\.parquet: this is not a manifest"):
            Manifest.load(tmp_path / f"{name}.parquet")
        assert not is_manifest(tmp_path / f"{name}.parquet")
    assert not is_manifest(tmp_path)
    assert not is_manifest(tmp_path / "none.parquet")
    train_rows([(1,)]).save(tmp_path / "good.parquet")
    assert is_manifest(tmp_path / "good.parquet")


label_lists = st.integers(1, 3).flatmap(
    lambda c: st.lists(st.tuples(*[st.sampled_from([-1, 0, 1])] * c), min_size=1, max_size=60)
)
percents = st.integers(1, 99)


@settings(deadline=None, max_examples=80)
@given(label_lists, percents, st.integers(0, 5))
def test_the_share_is_exact_and_every_combination_has_its_own(labels, percent, seed):
    manifest = train_rows(labels).with_validation("train", "val", percent / 100, seed)
    share = Fraction(percent, 100)
    assert manifest.table["split"].to_list().count("val") == math.floor(share * len(labels))
    assert set(manifest.splits) <= {"train", "val"}
    before = Counter(labels)
    after = (
        Counter(tuple(map(int, one)) for one in manifest.split("val").labels) if len(val_ids(manifest)) else Counter()
    )
    for combination, count in before.items():
        assert abs(after[combination] - share * count) < 1


def test_the_share_of_many_is_exact_where_floats_fall_short():
    manifest = train_rows([(1,)] * 100)
    for percent in range(1, 100):
        assert len(val_ids(manifest.with_validation("train", "val", percent / 100, 0))) == percent


def test_every_class_keeps_its_share():
    rng = np.random.default_rng(0)
    rates = np.array([0.5, 0.2, 0.1, 0.05, 0.03])
    labels = (rng.random((4000, 5)) < rates).astype(int)
    manifest = train_rows([tuple(one) for one in labels.tolist()]).with_validation("train", "val", 0.2, 1)
    counts = (manifest.split("val").labels == 1).sum(axis=0)
    # Each of the 16 combinations that hold a class is within one picture of its share.
    assert np.abs(counts - 0.2 * labels.sum(axis=0)).max() < 16
    np.testing.assert_allclose(counts, 0.2 * labels.sum(axis=0), rtol=0.1)


def test_nothing_but_the_split_of_the_source_changes():
    rows = [
        Row(f"{i}", f"{i}.png", ["train", "test"][i % 2], [i % 3 == 0], boxes=[Box("x", 0, 0, i, i)]) for i in range(40)
    ]
    manifest = Manifest.from_rows(Path(), ["x"], rows, label_rule="x")
    shared = manifest.with_validation("train", "val", 0.5, 0)
    assert shared.table.drop("split").equals(manifest.table.drop("split"))
    assert [a for a, b in zip(shared.table["split"], manifest.table["split"], strict=True) if b == "test"] == [
        "test"
    ] * 20
    assert manifest.splits == ["train", "test"]
    assert manifest.with_validation("none", "val", 0.5, 0).table.equals(manifest.table)


@settings(deadline=None, max_examples=40)
@given(label_lists, percents, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(labels, percent, random):
    manifest = train_rows(labels)
    places = list(range(len(labels)))
    random.shuffle(places)
    shuffled = Manifest(manifest.root, manifest.classes, manifest.task, "x", manifest.table[places])
    wanted = val_ids(manifest.with_validation("train", "val", percent / 100, 3))
    assert val_ids(shuffled.with_validation("train", "val", percent / 100, 3)) == wanted


@settings(deadline=None, max_examples=60)
@given(label_lists, percents)
def test_another_picture_moves_at_most_one_of_each_combination(labels, percent):
    *fewer, _ = labels
    if not fewer:
        return
    large = train_rows(labels).with_validation("train", "val", percent / 100, 3)
    small = train_rows(fewer).with_validation("train", "val", percent / 100, 3)
    pairs = zip(fewer, small.table["split"], large.table["split"].head(len(fewer)), strict=True)
    moved = Counter(combination for combination, before, after in pairs if before != after)
    assert all(count <= 1 for count in moved.values())


def test_another_seed_takes_others():
    manifest = train_rows([(1,)] * 50)
    taken = [frozenset(val_ids(manifest.with_validation("train", "val", 0.5, seed))) for seed in range(4)]
    assert len(set(taken)) == 4
