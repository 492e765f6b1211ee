"""The gallery as a folder: what it holds, and where it is not written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.errors import UserError
from manyhot.predictions import Predictions
from manyhot.web import static_export
from manyhot.web.opening import open_gallery
from manyhot.web.static_export import bundle, write_export


def read(folder: Path) -> dict:
    text = (folder / "data.js").read_text("ascii")
    return json.loads(text.removeprefix("globalThis.manyhotExport = ").removesuffix(";\n"))


def test_the_lists_are_the_ends_of_the_rankings(gallery_run, tmp_path):
    page = write_export(open_gallery(gallery_run), tmp_path / "out", 7)
    known = Predictions.load(gallery_run / "evaluation" / "val" / "predictions.parquet")
    data = read(page.parent)
    assert data["names"] == list(known.classes)
    assert data["n"] == 60
    for c, one in enumerate(data["classes"]):
        scores, labels, t = known.scores[:, c].astype(np.float64), known.labels[:, c], known.thresholds[c]
        lists = {name: [row for row, *_ in entries] for name, entries in one["lists"].items()}
        assert all(len(rows) <= 7 for rows in lists.values())
        assert lists["top"] == np.argsort(-scores, kind="stable")[:7].tolist()
        assert [scores[row] for row in lists["bottom"]] == np.sort(scores)[:7].tolist()
        np.testing.assert_array_equal(np.abs(scores[lists["near"]] - t), np.sort(np.abs(scores - t))[:7])
        loss = np.where(labels == 1, 1 - scores, scores)
        np.testing.assert_array_equal(loss[lists["loss"]], np.sort(loss[labels >= 0])[::-1][:7])
        wrong = {"fp": (scores > t) & (labels == 0), "fn": (scores <= t) & (labels == 1)}
        for kind, rows in wrong.items():
            assert one[kind] == rows.sum()
            assert set(lists[kind]) <= set(np.flatnonzero(rows).tolist())
            assert len(lists[kind]) == min(7, rows.sum())
        for entries in one["lists"].values():
            assert all((s, y) == (round(float(scores[r]), 5), labels[r]) for r, s, y in entries)
    rows = {str(row) for one in data["classes"] for entries in one["lists"].values() for row, *_ in entries}
    assert rows == set(data["pictures"]) == set(data["files"])
    for row, name in data["files"].items():
        file = page.parent / "pictures" / name
        if row in ("58", "59"):
            assert f"picture-{row}" in file.read_text("utf-8")
        else:
            with Image.open(file) as image:
                assert max(image.size) <= 256
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "data.js", "gallery.js", "icon.svg", "index.html", "pictures", "style.css",
    ]  # fmt: skip


def test_curves_are_thinned_but_keep_their_ends():
    x = np.linspace(0.5, 1, 5000)
    found = static_export._thinned((x, x / 2))
    assert (len(found), found[0], found[-1]) == (240, [0.5, 0.25], [1, 0.5])
    assert static_export._thinned(None) == []


def test_the_script_is_plain_and_asks_nobody():
    text = bundle()
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|Worker\(|innerHTML|eval\(", text)
    assert not re.search(r"https?:", text.replace("http://www.w3.org/2000/svg", ""))


def test_nothing_that_is_there_is_overwritten(gallery_run, tmp_path, monkeypatch):
    opened = open_gallery(gallery_run)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        with pytest.raises(UserError, match="there is something already"):
            write_export(opened, tmp_path / name, 1)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(static_export, "_write_pictures", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(UserError, match="cannot be written"):
        write_export(opened, tmp_path / "empty", 1)
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / ".empty.tmp").exists()
    monkeypatch.undo()
    assert write_export(opened, tmp_path / "empty", 1).exists()
    (gallery_run / "evaluation" / "val" / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="no split of this run is evaluated"):
        write_export(open_gallery(gallery_run), tmp_path / "other")
