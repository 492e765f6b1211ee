"""`manyhot compare` as a person would type it, on tables and on folders of two runs."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manyhot.cli import main
from manyhot.comparison import compare
from manyhot.metrics.ranking import average_precision
from manyhot.predictions import Predictions
from manyhot.runs import Run

CLASSES = ("cat", "dog", "newt")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line in this process: exit code, and what it prints."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["manyhot", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out or printed.err

    return run


@pytest.fixture
def tables() -> tuple[Predictions, Predictions]:
    """A worse table and a better one, of the same pictures in another order; nobody shows a newt."""
    rng = np.random.default_rng(0)
    labels = (rng.random((120, 3)) < 0.3).astype(np.int8)
    labels[:, 2] = 0
    better = rng.normal(size=labels.shape) + 2 * labels
    worse = better + rng.normal(0, 1.5, labels.shape)
    ids = tuple(f"p{i:03}" for i in range(120))
    a, b = (
        Predictions(ids, ("val",) * 120, (1 / (1 + np.exp(-x))).astype(np.float32), labels, CLASSES)
        for x in (worse, better)
    )
    return a, reordered(b, rng.permutation(120))


def reordered(table: Predictions, order) -> Predictions:
    return replace(
        table,
        ids=tuple(table.ids[i] for i in order),
        splits=tuple(table.splits[i] for i in order),
        scores=table.scores[order],
        labels=table.labels[order],
    )


def saved(folder: Path, *tables: Predictions) -> list[Path]:
    paths = [folder / f"{name}.parquet" for name in "ab"]
    for path, table in zip(paths, tables, strict=True):
        table.save(path)
    return paths


def test_tables_are_matched_by_id(call, tables, tmp_path):
    a, b = tables
    code, said = call("compare", *saved(tmp_path, a, b), "--resamples", "300", "--seed", "2")
    assert code == 0
    for c, name in enumerate(CLASSES[:2]):
        ap = [average_precision(table.scores, table.labels)[c] for table in tables]
        row = re.search(rf"^{name} .*$", said, re.MULTILINE)[0].split()
        assert row[1:5] == [str(a.labels[:, c].sum()), *(f"{one:.4f}" for one in ap), f"{ap[1] - ap[0]:+.4f}"]
    assert re.search(r"^newt +0 +– +– +– +–$", said, re.MULTILINE)
    assert "split val, 120 pictures; mAP over 2 of 3 classes" in said
    assert "300 resamples" in said
    assert "B has the higher mAP in 100.0 % of the resamples" in said
    assert "leaves out 0: B is better" in said
    _, back = call("compare", tmp_path / "b.parquet", tmp_path / "a.parquet", "--resamples", "300")
    assert "leaves out 0: A is better" in back
    assert call("compare", *saved(tmp_path, a, b), "--resamples", "300", "--seed", "2")[1] == said


def test_a_calibration_changes_nothing(call, tables, tmp_path):
    a, b = tables
    for name, table in (("a", a), ("b", b), ("c", replace(b, uncalibrated=b.scores, scores=b.scores.round(1)))):
        table.save(tmp_path / f"{name}.parquet")
    _, plain = call(tmp_path / "a.parquet", tmp_path / "b.parquet")
    _, calibrated = call(tmp_path / "a.parquet", tmp_path / "c.parquet")
    assert calibrated.replace("c.parquet", "b.parquet") == plain


def test_a_table_and_itself(call, tables, tmp_path):
    code, said = call("compare", *saved(tmp_path, tables[0], tables[0]), "--split", "val", "--resamples", "100")
    assert code == 0
    assert "in 50.0 % of the resamples" in said
    assert "holds 0: these pictures do not tell the two apart" in said


def test_the_example_of_the_docs(call, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "cli" / "compare.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})  # noqa: S102
    _, said = call("compare", "a.parquet", "b.parquet")
    assert f"$ manyhot compare a.parquet b.parquet\n{said}```" in page


def test_what_does_not_fit_is_refused(call, tables, tmp_path):
    a, b = tables
    some = reordered(b, np.flatnonzero(~np.isin(b.ids, ["p003", "p004", "p005", "p090"])))
    other = replace(some, ids=("new", *some.ids[1:]))
    changed = b.labels.copy()
    changed[b.ids.index("p007"), 0] = -1
    wrong = {
        r"4 only in .*a\.parquet: p003, p004, p005, …\)": some,
        r"1 only in .*b\.parquet: new\)": other,
        r"labels of 1 pictures differ: p007\.": replace(b, labels=changed),
        r"only in .*a\.parquet: newt; only in .*b\.parquet: toad": replace(b, classes=("cat", "dog", "toad")),
        r"classes differ \(their order does\)": replace(b, classes=("dog", "cat", "newt")),
        r"b\.parquet: an id stands twice": replace(b, ids=(b.ids[1], *b.ids[1:])),
    }
    for message, table in wrong.items():
        code, said = call("compare", *saved(tmp_path, a, table))
        assert code == 2
        assert re.search(message, said), said
    paths = saved(tmp_path, a, b)
    assert "no predictions for split 'test'" in call("compare", *paths, "--split", "test")[1]
    assert "100 resamples or more" in call("compare", *paths, "--resamples", "7")[1]
    assert "no such file" in call("compare", paths[0], tmp_path / "c.parquet")[1]
    assert "no such run folder" in call("compare", paths[0], tmp_path / "c")[1]


def test_run_folders(call, tables, tiny_recipe, tmp_path):
    runs = [Run(tmp_path / name) for name in ("one", "two")]
    for run, table in zip(runs, tables, strict=True):
        run.path.mkdir()
        shutil.copy(tiny_recipe, run.recipe)
        code, said = call("compare", run.path, tmp_path)
        assert code == 2
        assert f"manyhot evaluate {run.path} --split val" in said
        run.evaluation("val").mkdir(parents=True)
        table.save(run.evaluation("val") / "predictions.parquet")
    paths = [run.path for run in runs]
    said = call("compare", *paths, "--resamples", "100")
    assert said[0] == 0
    assert "split val, 120 pictures" in said[1]
    assert call("compare", *paths, "--resamples", "100", "--split", "val") == said
    assert "manyhot evaluate" in call("compare", *paths, "--split", "test")[1]
    difference = compare(paths[0], runs[1].evaluation("val") / "predictions.parquet", resamples=100).difference
    assert f"{difference.map_difference:+.4f}" in said[1]
