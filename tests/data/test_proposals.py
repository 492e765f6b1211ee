from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from manyhot.data import selective_search
from manyhot.data.images import image_size
from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.proposal_files import read_mat
from manyhot.data.proposals import Proposals, tidy
from manyhot.data.selective_search import SelectiveSearch, search, search_manifest
from manyhot.detections import Objects
from manyhot.errors import UserError
from manyhot.metrics.proposals import best_overlaps, recall
from manyhot.proposing import find_proposals, save_proposals

SETTINGS = SelectiveSearch(size=64, min_side=4)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    pixels = np.full((48, 64, 3), 90, np.uint8)
    pixels[8:30, 10:34] = (200, 40, 40)
    pixels[26:44, 40:60] = (30, 60, 200)
    return Image.fromarray(pixels)


@pytest.fixture
def pictures(tmp_path: Path, scene: Image.Image) -> Manifest:
    rows = []
    for i, name in enumerate(("a", "b", "c")):
        scene.rotate(180 * i).save(tmp_path / f"{name}.png")
        boxes = [Box("red", 10, 8, 34, 30), Box("blue", 40, 26, 60, 44)] if i == 0 else []
        rows.append(Row(name, f"{name}.png", "train" if i < 2 else "val", [1, 1], 64, 48, boxes))
    return Manifest.from_rows(tmp_path, ("red", "blue"), rows, label_rule="made up")


def made(manifest: Manifest, boxes: object = ((0, 0, 10, 10), (5, 5, 20, 21))) -> Proposals:
    own = np.array(boxes, np.float32)
    return Proposals(tuple(manifest.ids), (own,) * len(manifest), ((64, 48),) * len(manifest), source={"method": "x"})


def test_a_search_finds_the_squares_and_is_the_same_every_time(scene: Image.Image) -> None:
    found = search(scene, SETTINGS)
    np.testing.assert_array_equal(found, search(scene, SETTINGS))
    assert found.tolist() == sorted(found.tolist())
    assert len(np.unique(found, axis=0)) == len(found)
    assert (found[:, 2:] - found[:, :2] >= 4).all()
    assert (found >= 0).all()
    assert (found <= [64, 48, 64, 48]).all()
    objects = Objects(("a", "a"), ("r", "b"), np.array([[10, 8, 34, 30], [40, 26, 60, 44.0]]), np.zeros(2, bool))
    assert (best_overlaps({"a": found}, objects) > 0.8).all()


def test_a_search_is_cached_and_resumed(pictures: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SelectiveSearch(size=63, min_side=4)
    first = search_manifest(pictures.split("val"), settings, workers=1)
    whole = search_manifest(pictures, settings, workers=2)  # in processes of their own
    np.testing.assert_array_equal(whole.boxes[2], first.boxes[0])
    np.testing.assert_array_equal(whole.boxes[0], search(Image.open(pictures.paths[0]), settings))
    monkeypatch.setattr(selective_search, "search", None)  # from here on nothing may be searched
    again = search_manifest(pictures, settings)
    assert [own.tolist() for own in again.boxes] == [own.tolist() for own in whole.boxes]
    with pytest.raises(TypeError):
        search_manifest(pictures, SelectiveSearch(size=62, min_side=4), workers=1)


def test_a_damaged_file_of_the_cache_is_made_anew(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    first = search_manifest(pictures, SETTINGS, workers=1)
    for file in (tmp_path / "cache").rglob("*.npy"):
        file.write_bytes(b"no array")
    again = search_manifest(pictures, SETTINGS, workers=1)
    assert [own.tolist() for own in again.boxes] == [own.tolist() for own in first.boxes]


def test_a_damaged_picture_stops_or_is_left_out(pictures: Manifest) -> None:
    pictures.paths[1].write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 3 pictures cannot be read:\n.*b.png"):
        search_manifest(pictures, SETTINGS, workers=1)
    assert search_manifest(pictures, SETTINGS, workers=1, on_error="skip").ids == ("a", "c")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, pictures: Manifest) -> None:
    monkeypatch.setattr(selective_search, "_PACKAGE", "opencv-that-nobody-made")
    with pytest.raises(UserError, match=r"pip install 'manyhot\[proposals\]'"):
        search_manifest(pictures, SETTINGS)


def test_what_was_saved_is_read(pictures: Manifest, tmp_path: Path) -> None:
    scores = (np.array([0.5, 0.25], np.float32),) * 3
    ids, boxes, sizes = made(pictures).ids, made(pictures).boxes, ((64, 48), None, (1, 2))
    Proposals(ids, boxes, sizes, scores, {"method": "x"}).save(tmp_path / "p.parquet")
    found = Proposals.load(tmp_path / "p.parquet")
    assert (found.ids, found.sizes, found.source) == (ids, sizes, {"method": "x"})
    assert [own.tolist() for own in found.boxes] == [own.tolist() for own in boxes]
    assert found.scores is not None
    assert [own.tolist() for own in found.scores] == [own.tolist() for own in scores]


def test_pictures_without_boxes_are_kept(tmp_path: Path) -> None:
    Proposals(("a",), (np.zeros((0, 4), np.float32),), (None,)).save(tmp_path / "p.parquet")
    assert Proposals.load(tmp_path / "p.parquet").boxes[0].shape == (0, 4)


def test_proposals_of_other_pictures_are_refused(pictures: Manifest) -> None:
    with pytest.raises(UserError, match="1 of 3 pictures have no entry, first 'c'; entries of other pictures: none"):
        made(pictures.split("train")).of(pictures, "boxes.parquet")
    other = Proposals(("x", "b"), made(pictures).boxes[:2], (None, None))
    with pytest.raises(UserError, match="first 'a', 'c'; entries of other pictures: 'x'") as error:
        other.of(pictures, "boxes.parquet")
    assert "boxes.parquet" in str(error.value)
    wrong = Proposals(tuple(pictures.ids), made(pictures).boxes, ((64, 48), (48, 64), None))
    with pytest.raises(UserError, match="'b' is 64 x 48 pixels, they were made for 48 x 64"):
        wrong.of(pictures)
    assert made(pictures).of(pictures.split("val")).ids == ("c",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a"]}, "not a table of proposals"),
        ({"id": ["a", "a"], "boxes": [[[0, 0, 1, 1]]] * 2}, "'a' has two entries"),
        ({"id": ["a"], "boxes": [[[0, 0, 1, 1], [5, 5, 5, 9]]]}, r"picture 'a': box 1 \(5, 5, 5, 9\) must have"),
        ({"id": ["a"], "boxes": [[[0.0, 0.0, float("nan"), 1.0]]]}, "box 0 has a corner that is no finite number"),
        ({"id": ["a"], "boxes": [[[0, 0, 1, 1]]], "scores": [[0.1, 0.2]]}, "another number of scores than of boxes"),
        ({"id": ["a"], "boxes": [None]}, "lacks"),
    ],
)
def test_faulty_tables_are_refused(tmp_path: Path, table: dict[str, object], message: str) -> None:
    file = tmp_path / "p.parquet"
    pl.DataFrame(table).write_parquet(file)
    with pytest.raises(UserError, match=message):
        Proposals.load(file)


def test_no_table_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("none")
    with pytest.raises(UserError, match="not a table of proposals"):
        Proposals.load(tmp_path / "p.parquet")
    with pytest.raises(UserError, match="no such file"):
        Proposals.load(tmp_path / "q.parquet")


BOXES = np.array([[0, 0, 9, 19], [20, 10, 63, 47], [0, 0, 9, 19], [3, 3, 4, 5]])  # 0-based, inclusive
OURS = [[0, 0, 10, 20], [20, 10, 64, 48]]  # without the repeat and the small one
ORDERS = {"xyxy0": (0, 1, 2, 3), "xyxy1": (0, 1, 2, 3), "yxyx0": (1, 0, 3, 2), "yxyx1": (1, 0, 3, 2)}


@pytest.mark.parametrize("layout", ORDERS)
def test_published_layouts(pictures: Manifest, tmp_path: Path, layout: str) -> None:
    written = (BOXES[:, ORDERS[layout]] + int(layout[-1])).astype(np.uint16)
    cells = np.empty((1, 3), object)
    cells[0, :] = [written] * 3
    names = np.array([["a"], ["b.png"], ["c"]], object)
    savemat(tmp_path / "whole.mat", {"boxes": cells, "images": names})
    for name in "abc":
        savemat(tmp_path / f"{name}_boxes.mat", {"boxes": written})
    for file in (tmp_path / "whole.mat", tmp_path):
        found = read_mat(file, layout, pictures, min_side=5)
        assert [own.tolist() for own in found.boxes] == [OURS] * 3
        assert found.sizes == ((64, 48),) * 3
    other = {"xyxy0": "xyxy1", "xyxy1": "xyxy0", "yxyx0": "xyxy0", "yxyx1": "xyxy1"}[layout]
    with pytest.raises(UserError, match=r"'a' is 64 x 48 pixels, but its boxes reach from .* by the layout"):
        read_mat(tmp_path, other, pictures)


def test_published_scores_follow_their_boxes(pictures: Manifest, tmp_path: Path) -> None:
    cells, scores = np.empty((3, 1), object), np.empty((3, 1), object)
    cells[:, 0], scores[:, 0] = [BOXES[::-1]] * 3, [np.array([[0.1], [0.9], [0.3], [0.5]])] * 3
    savemat(tmp_path / "edge.mat", {"boxes": cells, "boxScores": scores, "images": np.array([*"abc"], object)})
    found = read_mat(tmp_path / "edge.mat", "xyxy0", pictures, min_side=5)
    assert found.scores is not None
    np.testing.assert_allclose(found.scores[1], [0.9, 0.3])  # the better of the two that are one box


def test_published_boxes_that_cannot_be_used(pictures: Manifest, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"boxes": BOXES})
    with pytest.raises(
        UserError, match=r"2 of 3 pictures have no entry, first 'b', 'c'; the file's first entries: 'a'"
    ):
        read_mat(tmp_path, "xyxy0", pictures)
    only = pictures.rows([True, False, False])
    with pytest.raises(UserError, match="Give one of xyxy0, xyxy1"):
        read_mat(tmp_path, "xxyy0", only)
    with pytest.raises(UserError, match="no such file"):
        read_mat(tmp_path / "none.mat", "xyxy0", only)
    (tmp_path / "text.mat").write_text("no matlab")
    with pytest.raises(UserError, match="not a MATLAB file, or it is damaged"):
        read_mat(tmp_path / "text.mat", "xyxy0", only)
    savemat(tmp_path / "a.mat", {"other": BOXES})
    with pytest.raises(UserError, match=r"no 'boxes' \(it has other\)"):
        read_mat(tmp_path, "xyxy0", only)
    savemat(tmp_path / "a.mat", {"boxes": BOXES[:, :3]})
    with pytest.raises(UserError, match="no numbers in four columns"):
        read_mat(tmp_path, "xyxy0", only)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header + bytes(512))
    with pytest.raises(UserError, match=r"version 7.3 \(HDF5\)"):
        read_mat(tmp_path, "xyxy0", only)


def test_recall_and_summary(pictures: Manifest, tmp_path: Path) -> None:
    proposals = made(pictures, [[10, 8, 34, 30], [42, 26, 60, 44]])  # IoU 1 and .9
    text = save_proposals(proposals, pictures, tmp_path / "p.parquet")
    assert text.splitlines() == [
        "train: 2 pictures, 2 boxes each (2 to 2); recall 1.000 at IoU 0.5; 1.000 at IoU 0.75; 1.000 at IoU 0.9",
        "val: 1 pictures, 2 boxes each (2 to 2)",
    ]
    objects = Objects(
        ("a", "a", "z"), ("r",) * 3, np.array([[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 1, 1.0]]), np.array([0, 0, 1]) > 0
    )
    assert recall({"a": np.array([[0, 0, 10, 10.0]])}, objects) == {0.5: 1.0, 0.75: 0.5, 0.9: 0.5}
    assert np.isnan(recall({}, Objects((), (), np.zeros((0, 4)), np.zeros(0, bool)))[0.5])


def test_where_proposals_come_from(pictures: Manifest, tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    made(pictures).save(file)
    assert find_proposals(pictures.split("val"), published=file).ids == ("c",)
    with pytest.raises(UserError, match="MATLAB boxes need their --layout"):
        find_proposals(pictures, published=tmp_path)
    with pytest.raises(UserError, match="our own have one layout"):
        find_proposals(pictures, published=file, layout="xyxy0")
    with pytest.raises(UserError, match="give --from too"):
        find_proposals(pictures, layout="xyxy0")
    with pytest.raises(UserError, match="written as"):
        save_proposals(made(pictures), pictures, tmp_path / "p.csv")


corner = st.floats(-20, 120, width=32)


@given(st.lists(st.tuples(corner, corner, corner, corner), max_size=20), st.floats(0, 30))
def test_tidy_boxes(boxes: list[tuple[float, ...]], least: float) -> None:
    found = tidy(np.array(boxes, np.float32), (90, 70), least)
    assert found.dtype == np.float32
    assert found.tolist() == sorted(found.tolist())
    assert len({tuple(own) for own in found.tolist()}) == len(found)
    assert (found[:, 2:] > found[:, :2]).all()
    assert (found[:, 2:] - found[:, :2] >= np.float32(least)).all()
    assert (found >= 0).all()
    assert (found <= [90, 70, 90, 70]).all()
    np.testing.assert_array_equal(tidy(found[::-1], (90, 70), least), found)


def test_the_command_line(pictures: Manifest, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from manyhot.cli import app

    pictures.save(tmp_path / "m.parquet")
    data, out = str(tmp_path / "m.parquet"), str(tmp_path / "p.parquet")
    say = ["--size", "64", "--min-side", "4", "--scale", "100", "--workers", "1"]
    result = CliRunner().invoke(app, ["data", "proposals", data, "--out", out, *say])
    assert result.exit_code == 0, result.output
    assert "recall 1.000 at IoU 0.5" in result.output
    assert Proposals.load(out).source["scale"] == "100"
    drawn = tmp_path / "drawn.png"
    show = ["data", "show", data, "a", "--out", str(drawn), "--proposals", "5", "--from", out]
    result = CliRunner().invoke(app, show)
    assert result.exit_code == 0, result.output
    assert image_size(drawn) == (448, 336)
    result = CliRunner().invoke(app, ["data", "show", data, "a", "--proposals", "5"])
    assert isinstance(result.exception, UserError)
