"""`export` writes a file that says what the run says, or none."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyhot
from manyhot import exporting
from manyhot.cli import main
from manyhot.errors import UserError
from manyhot.exporting import Parity, export, summarize
from manyhot.inference.exported import ExportedModel
from manyhot.inference.predict import Predictor


def test_a_run_is_exported_and_compared_on_its_val_split(trained, tmp_path):
    made = export(trained, tmp_path / "model.xml", "openvino")
    metrics = json.loads((trained / "evaluation" / "val" / "metrics.json").read_text(encoding="utf-8"))
    assert made.parity.n_images == 12
    assert made.parity.map_before == pytest.approx(metrics["map"])
    assert made.parity.map_after == pytest.approx(metrics["map"])
    assert made.parity.largest < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert "difference of scores from torch: largest" in summarize(made)
    assert "run by openvino" in summarize(made)


@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_int8_is_chosen_by_training_pictures(suffix, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAP_TOLERANCE", 0.2)  # of twelve pictures; benchmarks and real data hold it to .005
    monkeypatch.setattr(exporting, "WATCHED", 12)
    path = tmp_path / f"model{suffix}"
    made = export(trained, path, "onnx" if suffix == ".onnx" else "openvino", int8=True)
    assert made.parity.largest > 1e-6
    model = ExportedModel.read(path)
    assert model.precision == "int8"
    assert b"QuantizeLinear" in path.read_bytes() or b"FakeQuantize" in path.read_bytes()
    manifest = manyhot.Manifest.load(trained / "manifest.parquet").split("val")
    predictions, _ = Predictor(model).predict_manifest(manifest)
    assert predictions.source["precision"] == "int8"


def test_a_bundle_alone_is_compared_on_generated_pictures(trained, tmp_path, monkeypatch):
    bundle = shutil.copytree(trained / "model", tmp_path / "bundle")
    made = export(bundle, tmp_path / "model.onnx")
    assert "generated pictures" in made.parity.pictures
    assert made.parity.map_before is None
    with pytest.raises(UserError, match="--int8 needs pictures"):
        export(bundle, tmp_path / "int8.onnx", int8=True)

    monkeypatch.setattr(exporting, "FLOAT_TOLERANCE", -1.0)
    before = (tmp_path / "model.onnx").read_bytes()
    with pytest.raises(UserError, match="does not say what torch says: a score differs by"):
        export(bundle, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "model.onnx"]


def test_other_data_can_be_compared_on(trained, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "other" / name / f"{name}.png")
    made = export(trained, tmp_path / "model.onnx", data=manyhot.open_source(str(tmp_path / "other")))
    assert (made.parity.n_images, made.parity.map_before) == (2, None)


@pytest.mark.parametrize(
    ("parity", "precision", "fault"),
    [
        (Parity("p", 1, 9e-5, 0.0), "float32", None),
        (Parity("p", 1, 2e-4, 0.0), "float32", "differs by 2.00e-04"),
        (Parity("p", 1, float("nan"), 0.0), "float32", "not numbers"),
        (Parity("p", 1, 0.3, 0.01, 0.8, 0.796), "int8", None),
        (Parity("p", 1, 0.3, 0.01, 0.8, 0.82), "int8", None),
        (Parity("p", 1, 0.3, 0.01, 0.8, 0.794), "int8", "loses 0.0060 mAP"),
        (Parity("p", 1, 0.3, 0.03), "int8", "by 0.0300 on average"),
    ],
)
def test_tolerances(parity, precision, fault):
    found = parity.fault(precision)
    assert found is None if fault is None else fault in found


DOCS = Path(__file__).parents[1] / "docs"


def test_the_commands_of_the_docs_do_what_they_say(trained, tiny_table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "MAP_TOLERANCE", 0.2)
    shutil.copytree(trained, "squares-run")
    (tmp_path / "pictures").mkdir()
    for name in ("00.png", "01.png"):
        shutil.copy(tiny_table.parent / name, tmp_path / "pictures" / name)
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    commands = [line.split() for line in lines if line.startswith("manyhot ")]
    assert [command[1] for command in commands] == ["export", "predict", "export"]
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capsys.readouterr().err
    capsys.readouterr()
    (program,) = [block for kind, block in blocks if kind == "python"]
    exec(compile(program, "docs/export.md", "exec"), {})  # noqa: S102 - our own page
    said = ast.literal_eval(re.sub(r"np\.float32\((.*?)\)", r"\1", capsys.readouterr().out))
    expected = manyhot.load("squares-run", backend="torch").predict("pictures/00.png").scores[0]
    np.testing.assert_allclose([said[name] for name in ("red", "green", "blue")], expected, atol=1e-4)


def test_what_cannot_be_exported_is_said(trained, tmp_path):
    cases = [
        ({"out": tmp_path / "a.xml"}, "a model of format onnx is written as .onnx"),
        ({"out": tmp_path / "a.onnx", "format": "tflite"}, "no format 'tflite'"),
        ({"out": tmp_path / "a.onnx", "calibration": manyhot.Manifest.load(trained / "manifest.parquet")}, "--int8"),
        ({"out": tmp_path / "a.onnx", "source": tmp_path}, "no trained model here"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            export(**{"source": trained, **arguments})
    assert not list(tmp_path.iterdir())
