"""A pixel store is read by all that reads pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyhot
from manyhot.data import image_checks
from manyhot.data.image_checks import sound_rows
from manyhot.data.images import content_digest, is_present, open_image
from manyhot.data.inspection import inspect
from manyhot.data.manifest import Manifest, Row
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.resizing import Resizing
from manyhot.data.showing import draw_image
from manyhot.data.sources import open_source
from manyhot.data.voc_writer import write_voc
from manyhot.inference.feature_store import digests
from manyhot.report.pictures import thumbnail

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(scope="module")
def kept(tiny_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coloured squares as they are, in a store."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    prepare(open_source(str(tiny_table)), folder, Preparation(Resizing(None)))
    return folder


def test_training_from_the_store_is_training_from_the_files(kept, tiny_table, tiny_recipe, tmp_path):
    recipe = manyhot.load_recipe(str(tiny_recipe), ["training.epochs=2"])
    lines = []
    for name, source in (("files", tiny_table), ("store", kept)):
        run = manyhot.train(recipe, manyhot.open_source(str(source)), tmp_path / name)
        lines.append([(line["train_loss"], line["val_loss"], line["val_ap"]) for line in run.read_history()])
        manyhot.evaluate(tmp_path / name)
    assert lines[0] == lines[1]
    one, other = ((tmp_path / name / "model" / "weights.safetensors").read_bytes() for name in ("files", "store"))
    assert one == other
    page = (tmp_path / "store" / "evaluation" / "val" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 12
    assert "missing" not in page.partition("<main")[2][:2000]


def test_features_are_found_by_what_is_stored(kept):
    manifest = open_source(str(kept))
    found = digests(manifest.paths)
    assert found == [content_digest(path) for path in manifest.paths]
    assert len(set(found)) == 50


def test_no_file_is_decoded_again(kept, monkeypatch):
    monkeypatch.setattr(image_checks, "find_damage", lambda path: pytest.fail(f"{path} was decoded"))
    manifest = open_source(str(kept))
    assert sound_rows(manifest) == (manifest, [])


def test_pictures_are_drawn_shown_inspected_and_exported(manifest, tmp_path):
    prepare(manifest, tmp_path / "store", Preparation(Resizing(48)))
    stored = open_source(str(tmp_path / "store"))
    draw_image(stored, 3, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert min(drawn.size) >= 48
    assert thumbnail(stored.paths[0]).uri.startswith("data:image/jpeg")
    assert is_present(stored.paths[59])
    assert not is_present(stored.root / "pixels.parquet" / "60")
    assert thumbnail(stored.root / "pixels.parquet" / "60").trouble == "missing"
    found = inspect(stored)
    assert found.damaged == ()
    assert found.sizes is not None
    assert found.sizes.height[0] == 48
    boxed = stored.rows([bool(stored.boxes(row)) for row in range(60)])
    absent = Manifest.from_rows(
        boxed.root,
        ["b", "c"],
        [
            Row(id_, image, "train", [1, 1], boxes=boxed.boxes(row))
            for row, (id_, image) in enumerate(zip(boxed.ids, boxed.table["image"], strict=True))
        ],
        label_rule="",
    )
    write_voc(absent, tmp_path / "voc")
    assert len(open_source(str(tmp_path / "voc"))) == len(boxed)


def test_identical_pictures_are_found_in_a_store(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (30, 30), (5, 6, 7)).save(tmp_path / f"{name}.png")
    rows = [Row("a", "a.png", "train", [1]), Row("b", "b.png", "val", [1])]
    prepare(Manifest.from_rows(tmp_path, ["x"], rows, label_rule=""), tmp_path / "store")
    (copies,) = inspect(open_source(str(tmp_path / "store"))).leaks
    assert copies.images == (("train", "a"), ("val", "b"))


def test_a_store_is_a_source_of_another_store(manifest, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        prepare(manifest, tmp_path / "large", Preparation(Resizing(40)))
    assert f"{tmp_path / 'large'}: 60 pictures, shorter side 40, " in caplog.text
    prepare(open_source(str(tmp_path / "large")), tmp_path / "small", Preparation(Resizing(20)))
    for before, after in zip(
        open_source(str(tmp_path / "large")).paths, open_source(str(tmp_path / "small")).paths, strict=True
    ):
        image = open_image(before)
        wanted = Resizing(20).place(*image.size).picture(image)
        np.testing.assert_array_equal(np.asarray(open_image(after)), np.asarray(wanted))
