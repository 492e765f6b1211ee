"""`manyhot localize` on a small trained run: what it writes is what the tables say, and bad input is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import manyhot
from manyhot.cli import main
from manyhot.data.manifest import Manifest
from manyhot.localization.finding import positive_pairs
from manyhot.localization.wording import summarize
from manyhot.localizing import choose_places, localize
from manyhot.metrics.detection import detection_ap
from manyhot.models.bundle import load_bundle

KEYS = {
    "n_images", "n_pairs", "n_pairs_without_box", "pointing", "corloc", "mean_corloc", "detection", "max_box_acc",
    "classes", "baselines", "method", "split", "label_rule", "bundle_sha256", "crops", "damaged", "chosen_here",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(boxed: Manifest, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("localize") / "run"
    manyhot.train(manyhot.load_recipe(str(tiny_recipe), ["training.epochs=2", "model.output_stride=8"]), boxed, out)
    return out


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line in this process: exit code, standard output and standard error."""

    def run_it(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["manyhot", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run_it


def test_the_measures_are_those_of_the_tables(run: Path, boxed: Manifest) -> None:
    found = localize(run, "test", boxes="components", min_score=0)
    folder = run / "localization" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(found.metrics))
    assert set(metrics) == KEYS
    assert metrics["n_images"] == 12
    part = boxed.split("test")
    table = manyhot.Detections.load(folder / "detections.parquet")
    assert set(table.ids) == set(part.ids)
    assert (table.boxes >= 0).all()
    assert (table.boxes[:, 2] <= 48).all()
    assert (table.boxes[:, 3] <= 40).all()
    again = detection_ap(table, part.objects(), part.classes)
    assert [one["ap_50"] for one in metrics["classes"]] == pytest.approx(again.area.tolist())
    assert metrics["detection"]["n_boxes"] == len(table)
    places = pl.read_parquet(folder / "places.parquet")
    assert metrics["n_pairs"] == len(places) > 5
    assert metrics["corloc"] == pytest.approx((places["iou"] >= 0.5).mean())
    assert metrics["pointing"]["accuracy"] == pytest.approx(places["hit"].mean())
    assert metrics["n_pairs_without_box"] == int((part.labels == 1).sum()) - len(places)
    assert metrics["baselines"]["best_proposal"]["corloc"] is None
    assert table.source["bundle_sha256"] == metrics["bundle_sha256"]
    said = summarize(metrics)
    assert f"CorLoc {metrics['corloc']:.3f}" in said
    assert "centre box: " in said


def test_scores_are_those_of_evaluate(run: Path) -> None:
    scores = manyhot.evaluate(run, overrides=["evaluation.resamples=0"]).predictions
    localize(run)
    places = pl.read_parquet(run / "localization" / "val" / "places.parquet")
    for id_, name, score in places.select("id", "class", "score").iter_rows():
        assert score == pytest.approx(scores.scores[scores.ids.index(id_), scores.classes.index(name)], abs=1e-5)


def test_nothing_depends_on_when_or_how_often(run: Path, tmp_path: Path) -> None:
    folder = run / "localization" / "test"
    localize(run, "test", heatmap="cam")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    localize(run, "test")
    assert json.loads((folder / "metrics.json").read_text())["method"]["heatmap"] == "gradcam"
    localize(run, "test", heatmap="cam")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_verb_in_a_process_of_its_own(run: Path) -> None:
    command = [sys.executable, "-m", "manyhot", "--quiet", "localize", str(run), "--split", "test", "--flip"]
    command += ["--heatmap", "{name: occlusion, step: 8, reach: 0}", "--boxes", "extreme", "--threshold", "0.4"]
    command += ["--crops", "{name: scales, sizes: [32, 48]}", "--min-score", "0.2", "--tolerance", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    assert "occlusion (step 8, reach 0, batch 32); extreme (threshold 0.4)" in result.stdout
    assert "whole picture squashed to 32, 48" in result.stdout
    metrics = json.loads((run / "localization" / "test" / "metrics.json").read_text())
    assert metrics["pointing"]["tolerance_px"] == 2
    assert metrics["method"] == {
        "heatmap": "occlusion",
        "boxes": "extreme",
        "threshold": 0.4,
        "settings": {"heatmap": {"step": 8, "reach": 0, "batch": 32}, "boxes": {"threshold": 0.4}},
        "flip": True,
        "grabcut": False,
        "proposals": None,
        "min_score": 0.2,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--heatmap", "cams"], "unknown heat map 'cams' in --heatmap. Did you mean 'cam'"),
        (["--heatmap", "{step: 3}"], "--heatmap '{step: 3}' is no heat map"),
        (["--heatmap", "{name: occlusion, stride: 3}"], "unknown key 'stride'"),
        (["--boxes", "box"], "unknown box rule 'box' in --boxes"),
        (["--threshold", "0"], "--threshold 0 is out of range"),
        (["--threshold", "nan"], "--threshold nan is out of range"),
        (["--tolerance", "-1"], "--tolerance -1 is out of range"),
        (["--min-score", "1"], "--min-score 1 is out of range"),
        (["--split", "tset"], "split 'tset' holds no images"),
        (["--crops", "six"], "unknown way to crop 'six'"),
        (["--source", "voc"], "--source says how to read --data"),
        (["--choose", "--threshold", "0.2"], "--choose finds the threshold"),
        (["--boxes", "mass", "--threshold", "0.6"], "leaves no box"),
        (["--proposals", "no.parquet"], "no.parquet: there is no such file"),
    ],
)
def test_bad_input_is_refused_in_one_line(run: Path, call, arguments: list[str], said: str) -> None:
    code, out, err = call("localize", run, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_what_is_no_run_and_other_classes_are_refused(run: Path, call, tmp_path: Path) -> None:
    code, _, err = call("localize", tmp_path)
    assert code == 2
    assert str(tmp_path) in err
    (tmp_path / "other.csv").write_text("image,split,labels\na.png,val,cat\n")
    shutil.copy(next(Manifest.load(run / "manifest.parquet").root.glob("*.png")), tmp_path / "a.png")
    code, _, err = call("localize", run, "--data", tmp_path / "other.csv")
    assert code == 2
    assert "the data's classes are not the model's" in err


def test_damaged_pictures_stop_the_work_or_are_left_out(run: Path, boxed: Manifest, tmp_path: Path, call) -> None:
    for path in boxed.paths:
        shutil.copy(path, tmp_path / path.name)
    moved = Manifest(tmp_path, boxed.classes, boxed.task, boxed.label_rule, boxed.table)
    moved.save(tmp_path / "manifest.parquet")
    victim = boxed.split("test").paths[3].name
    (tmp_path / victim).write_bytes(b"no picture")
    arguments = ("localize", run, "--split", "test", "--data", tmp_path / "manifest.parquet")
    before = {path: path.read_bytes() for path in (run / "localization").rglob("*") if path.is_file()}
    code, _, err = call(*arguments)
    assert code == 2
    assert "1 of 12 pictures cannot be read" in err
    assert victim in err
    assert {path: path.read_bytes() for path in before} == before
    code, out, _ = call(*arguments, "--on-error", "skip")
    assert code == 0
    assert "left out as damaged" in out
    assert "11 images" in out


def test_a_choice_is_the_best_of_its_table_is_stored_and_used(run: Path, boxed: Manifest, tmp_path: Path, call) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    table = choose_places(copy, heatmap="cam", flip=True)
    assert {type(choice.rule).__name__ for choice in table} == {"Components", "Extreme", "Largest", "Mass"}
    best = max(table, key=lambda choice: choice.corloc)
    stored = load_bundle(copy / "model").config.places
    assert stored is not None
    assert stored.corloc == best.corloc
    assert (stored.split, stored.flip, stored.heatmap) == ("train", True, {"name": "cam"})
    assert stored.n_pairs == len(positive_pairs(boxed.split("train")))
    metrics = localize(copy, "train").metrics
    assert metrics["corloc"] == pytest.approx(stored.corloc)
    assert metrics["chosen_here"]
    assert "optimistic: the box rule was chosen" in summarize(metrics)
    other = localize(copy, "test").metrics
    assert not other["chosen_here"]
    assert other["method"]["heatmap"] == "cam"
    assert other["method"]["flip"]
    assert localize(copy, "test", heatmap="gradcam").metrics["method"]["boxes"] == "extreme"
    code, out, err = call("localize", copy, "--choose", "--boxes", "mass", "--split", "val")
    assert (code, err) == (0, "")
    assert out.startswith("chosen: mass at ")
    again = load_bundle(copy / "model").config.places
    assert again is not None
    assert (again.boxes["name"], again.split) == ("mass", "val")


def test_the_axes_of_ddt_are_fitted_once_without_boxes(run: Path, tmp_path: Path, call) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    kept = copy / "model" / "axes.safetensors"
    first = localize(copy, "test", heatmap="ddt", boxes="largest", threshold=0.3)
    assert first.metrics["method"]["settings"]["heatmap"] == {"power": 0.25, "reach": 1, "attention": 2.0}
    content = kept.read_bytes()
    stamp = kept.stat().st_mtime_ns
    again = localize(copy, "test", heatmap="{name: ddt, attention: 2}", boxes="largest", threshold=0.3)
    assert again.metrics == first.metrics
    assert kept.stat().st_mtime_ns == stamp
    localize(copy, "test", heatmap="{name: ddt, attention: 0}")
    assert kept.stat().st_mtime_ns == stamp  # attention is no part of the axes
    choose_places(copy, heatmap="ddt", boxes="largest", crops="{name: scales, sizes: [32, 48]}")
    assert kept.read_bytes() != content  # other views
    chosen = localize(copy, "test").metrics["method"]
    assert (chosen["heatmap"], chosen["boxes"]) == ("ddt", "largest")
    kept.write_bytes(content)
    assert localize(copy, "test", heatmap="ddt", boxes="largest", threshold=0.3).metrics == first.metrics
    code, _, err = call("localize", copy, "--heatmap", "{name: ddt, power: 2}")
    assert (code, "power" in err) == (2, True)


def test_a_split_without_boxes_chooses_nothing(run: Path, tiny_table: Path, call) -> None:
    code, _, err = call("localize", run, "--choose", "--data", tiny_table)
    assert code == 2
    assert "no picture of split 'train' has a true box to choose by" in err


def test_boxes_are_snapped_to_proposals(run: Path, boxed: Manifest, tmp_path: Path, call) -> None:
    part = boxed.split("test")
    objects = part.objects()
    columns = {name: objects.boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
    table = tmp_path / "proposals.parquet"
    pl.DataFrame({"id": objects.ids, **columns}).write_parquet(table)
    metrics = localize(run, "test", proposals=table).metrics
    assert metrics["baselines"]["best_proposal"]["corloc"] == 1  # the proposals are the true boxes
    true = {(id_, *map(float, box)) for id_, box in zip(objects.ids, objects.boxes, strict=True)}
    places = pl.read_parquet(run / "localization" / "test" / "places.parquet")
    snapped = set(places.select("id", "x0", "y0", "x1", "y1").iter_rows()) & true
    assert snapped
    assert "snapped to proposals.parquet" in summarize(metrics)
    pl.DataFrame({"id": ["x"], "x0": [0.0], "y0": [0.0], "x1": [3.0], "y1": [0.0]}).write_parquet(table)
    code, _, err = call("localize", run, "--split", "test", "--proposals", table)
    assert code == 2
    assert "row 0: x1 must be greater than x0" in err
    pl.DataFrame({"id": ["x"], "x0": [0.0], "y0": [0.0], "x1": [3.0], "y1": [2.0]}).write_parquet(table)
    code, _, err = call("localize", run, "--split", "test", "--proposals", table)
    assert "no box for any of these 12 pictures" in err
    table.write_bytes(b"no table")
    code, _, err = call("localize", run, "--split", "test", "--proposals", table)
    assert (code, err.count("\n")) == (2, 1)
    assert "not a table of proposals" in err


def test_grabcut_redraws_boxes_or_says_what_is_missing(
    run: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, err = call("localize", run, "--split", "test", "--grabcut")
    assert code == 2
    assert "pip install 'manyhot[proposals]'" in err
    monkeypatch.undo()
    pytest.importorskip("cv2")
    assert "redrawn by GrabCut" in summarize(localize(run, "test", grabcut=True).metrics)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    table = choose_places(copy, "val", boxes="mass", grabcut=True)
    metrics = localize(copy, "val").metrics
    assert metrics["method"]["grabcut"]
    assert metrics["corloc"] == pytest.approx(max(choice.corloc for choice in table))
    assert not localize(copy, "val", heatmap="gradcam").metrics["method"]["grabcut"]
