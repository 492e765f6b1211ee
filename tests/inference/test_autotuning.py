"""What is measured is remembered for this model on this machine, and for nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from manyhot.inference import autotuning, remembered
from manyhot.inference.autotuning import autotune, summarize
from manyhot.inference.exported import ExportedModel, metadata
from manyhot.inference.graph import write_onnx
from manyhot.inference.pictures import list_pictures
from manyhot.inference.predict import Predictor
from manyhot.inference.remembered import Choice, candidates, default_choice, remember


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A cache of this test's, and short measurements."""
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(autotuning, "PICTURES", 4)
    monkeypatch.setattr(autotuning, "_BATCHES", (2,))
    monkeypatch.setattr(autotuning, "cores", lambda: 1)


def test_the_fastest_is_remembered_and_used(make_bundle, photographs):
    bundle = make_bundle()
    assert Predictor(bundle).backend == "torch"
    tuned = autotune(bundle, list_pictures([str(one) for one in photographs]))
    assert sorted(one.choice.backend for one in tuned.measured) == ["onnxruntime", "openvino", "torch"]
    rates = [one.rate for one in tuned.measured]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    best = tuned.measured[0].choice
    predictor = Predictor(bundle)
    assert (predictor.backend, predictor.batch_size) == (best.backend, 2)
    table = summarize(tuned)
    assert table.splitlines()[0].split() == ["backend", "threads", "batch", "images/s"]
    assert table.splitlines()[-1].endswith(f": {best.backend}")


def test_it_holds_for_this_model_processor_and_crops_alone(make_bundle, monkeypatch):
    bundle = make_bundle()
    rules = bundle.config.preprocessing
    remember(bundle, rules, Choice(backend="onnxruntime", batch_size=4))
    assert default_choice(bundle, rules).backend == "onnxruntime"
    assert default_choice(bundle, rules, remembered=False).backend == "torch"
    assert default_choice(bundle, rules.with_crops({"name": "five"})).backend == "torch"
    other = replace(bundle, config=bundle.config.model_copy(update={"weights_sha256": "0"}))
    assert default_choice(other, rules).backend == "torch"
    assert Predictor(bundle, backend="torch").batch_size == 32  # as without it
    monkeypatch.setattr(remembered, "processor_name", lambda: "another")
    assert default_choice(bundle, rules).backend == "torch"


def test_what_cannot_be_read_is_said_and_left(make_bundle, caplog):
    bundle = make_bundle()
    path = remember(bundle, bundle.config.preprocessing, Choice(backend="onnxruntime"))
    path.write_text('{"backend":')
    with caplog.at_level(logging.WARNING, logger="manyhot"):
        assert default_choice(bundle, bundle.config.preprocessing).backend == "torch"
    assert str(path) in caplog.text


def test_exported_files_have_their_own_candidates(make_bundle, tmp_path, monkeypatch):
    bundle = make_bundle()
    rules = bundle.config.preprocessing
    path = tmp_path / "model.onnx"
    write_onnx(path, bundle.model, rules, metadata(bundle.config, "float32", "0"))
    model = ExportedModel.read(path)
    assert candidates(model, rules) == ["onnxruntime", "openvino"]
    assert candidates(replace(model, path=path.with_suffix(".xml")), rules) == ["openvino"]
    monkeypatch.setattr(remembered, "installed", lambda name: name in {"torch", "openvino"})
    assert candidates(bundle, rules) == ["torch"]  # nothing is there to export with
    assert default_choice(model, rules).backend == "openvino"
    monkeypatch.setattr(remembered, "installed", lambda name: False)
    assert default_choice(model, rules).backend == "onnxruntime"
