"""The ranking of each class as files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhot.data.manifest import Manifest, Row
from manyhot.errors import UserError
from manyhot.predictions import Predictions
from manyhot.report.ranked import require_export, safe_stems, write_rankings

CLASSES = ("Cat", "cat", "a/b: c?", "猫", "con", "classes")


def table(root: Path, files: list[str] | None = None) -> tuple[Predictions, Manifest]:
    rng = np.random.default_rng(3)
    scores = rng.random((30, len(CLASSES))).round(1).astype(np.float32)  # with ties
    labels = rng.integers(-1, 2, scores.shape).astype(np.int8)
    ids = tuple(f"i{i:02}" for i in range(30))
    files = files or [f"sub/{i:02}, x.png" for i in range(30)]
    rows = [Row(*row) for row in zip(ids, files, ["val"] * 30, labels.tolist(), strict=True)]
    manifest = Manifest.from_rows(root, CLASSES, rows, task="multilabel", label_rule="made up")
    calibrated = (scores >= 0.5).astype(np.float32)
    return Predictions(ids, ("val",) * 30, calibrated, labels, CLASSES, uncalibrated=scores), manifest


def index(folder: Path) -> dict[str, str]:
    with (folder / "classes.csv").open(newline="", encoding="utf-8") as file:
        return {row["class"]: row["file"] for row in csv.DictReader(file)}


def test_npy_holds_scores_and_txt_their_files(tmp_path: Path) -> None:
    predictions, manifest = table(tmp_path)
    folder = write_rankings(tmp_path / "val", predictions, manifest, "npy")
    assert folder == tmp_path / "val" / "export"
    assert list(index(folder)) == list(CLASSES)
    for c, name in enumerate(CLASSES):
        path = folder / index(folder)[name]
        scores = np.load(path, allow_pickle=False)
        assert scores.dtype == np.float32
        files = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        order = sorted(range(30), key=lambda i: -predictions.ranking[i, c])
        assert files == [f"sub/{i:02}, x.png" for i in order]
        np.testing.assert_array_equal(scores, predictions.scores[order, c])
        assert (np.diff(scores) <= 0).all()
    assert len(list(folder.iterdir())) == 2 * len(CLASSES) + 1


def test_csv_says_everything_and_takes_the_place_of_npy(tmp_path: Path) -> None:
    predictions, manifest = table(tmp_path)
    write_rankings(tmp_path / "val", predictions, manifest, "npy")
    folder = write_rankings(tmp_path / "val", predictions, manifest, "csv")
    assert {path.suffix for path in folder.iterdir()} == {".csv"}
    for c, name in enumerate(CLASSES):
        with (folder / index(folder)[name]).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 31)]
        for row in rows:
            i = predictions.ids.index(row["id"])
            assert row["file"] == f"sub/{i:02}, x.png"
            assert np.float32(row["score"]) == predictions.scores[i, c]
            assert int(row["label"]) == predictions.labels[i, c]
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["export"]


def test_a_file_name_of_two_lines_is_refused_for_txt(tmp_path: Path) -> None:
    predictions, manifest = table(tmp_path, [f"{i}\n.png" for i in range(30)])
    with pytest.raises(UserError, match="Export csv"):
        write_rankings(tmp_path / "val", predictions, manifest, "npy")
    write_rankings(tmp_path / "val", predictions, manifest, "csv")


def test_unknown_formats_are_refused() -> None:
    require_export(None)
    with pytest.raises(UserError, match="Did you mean 'npy'"):
        require_export("npz")


@given(st.lists(st.text(max_size=200) | st.sampled_from(["a", "A", "a-2", "a/", "..", "CON", "nul.x", "", "classes"])))
def test_stems_are_valid_and_no_two_alike(classes: list[str]) -> None:
    stems = safe_stems(classes)
    assert len(stems) == len(classes)
    assert len({stem.casefold() for stem in stems} | {"classes"}) == len(stems) + 1
    for stem in stems:
        assert stem
        assert not stem.startswith((".", " "))
        assert not stem.endswith((".", " "))
        assert not set(stem) & set('/\\:*?"<>|\0\n')
        assert stem.split(".")[0].casefold() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
        assert len(stem.encode()) <= 140


def test_plain_names_stay() -> None:
    assert safe_stems(["red", "dog & wolf", "Ärger 2", "v1.5"]) == ["red", "dog _ wolf", "Ärger 2", "v1.5"]
