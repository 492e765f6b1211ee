"""What `inspect` finds in a data set with known faults."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from manyhot.data.inspection import Inspection, describe, inspect
from manyhot.data.manifest import Box, Manifest, Row


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    values = np.random.default_rng(0)
    for i, size in enumerate([(40, 20), (60, 30), (50, 20), (40, 20), (40, 20)]):
        Image.fromarray(values.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    copy = (tmp_path / "0.png").read_bytes()
    (tmp_path / "3.png").write_bytes(copy)  # a leak: 0 is in train, 3 in val
    (tmp_path / "4.png").write_bytes(copy)  # and a copy within val
    (tmp_path / "5.png").write_bytes(copy[:-200])
    rows = [
        Row("0", "0.png", "train", [1, 0, 0], 40, 20, [Box("a", 0, 0, 5, 5)]),
        Row("1", "1.png", "train", [1, -1, 0]),
        Row("2", "2.png", "train", [0, 0, 0]),
        Row("3", "3.png", "val", [1, 1, 0]),
        Row("4", "4.png", "val", [0, 1, -1]),
        Row("5", "5.png", "val", [0, 1, -1]),
        Row("6", "6.png", "val", [0, 1, -1]),
    ]
    return Manifest.from_rows(tmp_path, ["a", "b", "c[x]"], rows, label_rule="made here")


def text_of(inspection: Inspection) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(describe(inspection))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_counts_damage_leaks_and_sizes(manifest: Manifest) -> None:
    found = inspect(manifest)
    assert found.n_images == 7
    assert found.splits == {"train": 3, "val": 4}
    counts = {(one.name, one.split): (one.present, one.absent, one.ignored) for one in found.classes}
    assert counts == {
        ("a", "train"): (2, 1, 0), ("a", "val"): (1, 3, 0),
        ("b", "train"): (0, 2, 1), ("b", "val"): (4, 0, 0),
        ("c[x]", "train"): (0, 3, 0), ("c[x]", "val"): (0, 1, 3),
    }  # fmt: skip
    assert found.unlabelled == ("2",)
    assert found.objects == 1
    assert [(fault.path.name, fault.reason) for fault in found.damaged] == [
        ("5.png", "truncated"),
        ("6.png", "there is no such file"),
    ]
    assert [copies.images for copies in found.leaks] == [(("train", "0"), ("val", "3"), ("val", "4"))]
    assert found.sizes is not None
    assert found.sizes.n == 6  # the truncated file still has its header
    assert found.sizes.width == (40, 40, 60)
    assert found.sizes.height == (20, 20, 30)


def test_the_description_says_it_all(manifest: Manifest) -> None:
    text = text_of(inspect(manifest))
    for line in (
        "7 images (train 3, val 4), 1 boxes, multilabel",
        "Labels: made here",
        "No image of split 'train' shows: b, c[x].",
        "Images without any class: 1 (2).",
        "Damaged files: 2.",
        "5.png: truncated",
        "Identical files in different splits: 1.",
        "0 (train) = 3 (val) = 4 (val)",
        "c[x]",
        "2 / 1 / 0",
    ):
        assert line in text
    clean = text_of(inspect(manifest.rows([True, True, False, False, False, False, False])))
    assert "Damaged files: none." in clean
    assert "Identical files in different splits: none." in clean


def test_copies_within_a_split_are_no_leak(manifest: Manifest) -> None:
    found = inspect(manifest.rows([False, True, True, True, True, False, False]))
    assert found.leaks == ()
    assert len(found.copies) == 1
    assert "Identical files within a split: 1 (3 = 4)." in text_of(found)


def test_without_check_no_file_is_read(manifest: Manifest) -> None:
    for path in manifest.paths:
        path.unlink(missing_ok=True)
    found = inspect(manifest, check=False)
    assert (found.checked, found.damaged, found.copies) == (False, (), ())
    assert found.sizes is not None
    assert found.sizes.n == 1
    assert "The files were not read." in text_of(found)


def test_the_dict_is_plain_json(manifest: Manifest) -> None:
    data = inspect(manifest).as_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["classes"][1] == {"name": "a", "split": "val", "present": 1, "absent": 3, "ignored": 0}
    assert data["damaged"][0]["reason"] == "truncated"
    assert data["copies"][0]["leak"] is True
    assert data["n_images"] == 7
