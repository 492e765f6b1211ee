"""Every backend gives the scores of torch, with and without torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.data.decoding import EvaluationBatches, Loader
from manyhot.data.loading import Pictures
from manyhot.errors import UserError
from manyhot.inference.backends import backends
from manyhot.inference.backends.torch import Torch
from manyhot.inference.exported import ExportedModel, metadata
from manyhot.inference.graph import write_onnx, write_openvino
from manyhot.inference.logits import activate, compute_logits
from manyhot.inference.predict import Predictor
from manyhot.localization.heatmaps import CAM
from manyhot.localization.views import Views
from manyhot.localizing import look_with
from manyhot.models.crop_pooling import crop_poolings
from manyhot.models.folding import fold_batch_norms
from manyhot.models.weight_standardization import standardize_weights

KINDS = {
    "one crop, pre-activation": {"backbone": "manyhot/preact_resnet", "stages": [[8, 1], [16, 1]]},
    "five crops, normed features": {
        "crops": {"name": "five"},
        "feature_norm": True,
        "pooling": {"name": "average+max"},
    },
    "five crops side by side": {"crops": {"name": "five"}, "crop_pooling": {"name": "concat"}},
    "localizer, lse of scales": {
        "crops": {"name": "scales", "sizes": [48, 64], "mirrored": True},
        "localizer": {"name": "linear"},
        "pooling": {"name": "lse", "r": 2},
        "crop_pooling": {"name": "lse", "r": 2},
    },
    "localizer on a standardised map": {"localizer": {"name": "linear", "norm": True}, "pooling": {"name": "max"}},
}


def plain_scores(bundle, files):
    """By the classifier itself, as training validates: nothing folded, nothing exported."""
    labels = np.zeros((len(files), 3), np.int8)
    loader = Loader(Pictures(files, labels, bundle.config.preprocessing), EvaluationBatches(len(files), 2))
    logits = compute_logits(bundle.model, loader, len(files), torch.device("cpu"), what="")
    return activate(logits.values, "sigmoid")


@pytest.fixture(scope="module")
def exported(make_bundle, tmp_path_factory):
    """Of one bundle: the .onnx file and the .xml file."""
    bundle = make_bundle()
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    about = metadata(bundle.config, "float32", "0")
    write_onnx(path, bundle.model, bundle.config.preprocessing, about)
    write_openvino(path.with_suffix(".xml"), path, about)
    return bundle, path


@pytest.mark.parametrize("kind", KINDS)
def test_every_backend_gives_the_scores_of_the_classifier(kind, make_bundle, photographs):
    bundle = make_bundle(**KINDS[kind])
    expected = plain_scores(bundle, photographs)
    for name, _ in backends:
        predictions = Predictor(bundle, backend=name, batch_size=3).predict(photographs)
        assert np.abs(predictions.ranking - expected).max() < 1e-5, name
        assert predictions.calibrated
        assert predictions.source["bundle_sha256"] == bundle.sha256


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_score_maps_of_every_crop_are_those_of_torch(kind, backend, make_bundle, photographs):
    bundle = make_bundle(**KINDS[kind])
    predictor = Predictor(bundle, backend=backend)
    assert not Predictor(bundle, backend="torch").gives_score_maps
    assert predictor.gives_score_maps == (kind != "five crops side by side")
    if not predictor.gives_score_maps:
        return
    picture = _open(photographs[2])
    views = [np.asarray(view) for view in bundle.config.preprocessing.views(picture)]
    _, expected = look_with(bundle, "cam").once(views, picture.size)
    for found, wanted in zip(predictor.score_maps(views), expected, strict=True):
        np.testing.assert_allclose(found, wanted.cells, atol=1e-4)


def test_files_say_what_they_are(exported, photographs):
    bundle, path = exported
    expected = plain_scores(bundle, photographs)
    for file, backend in ((path, "onnxruntime"), (path, "openvino"), (path.with_suffix(".xml"), "openvino")):
        model = ExportedModel.read(file)
        assert (model.config, model.precision, model.sha256) == (bundle.config, "float32", bundle.sha256)
        predictor = Predictor.load(file, backend=backend, threads=1)
        assert predictor.classes == bundle.config.classes
        assert np.abs(predictor.predict(photographs).ranking - expected).max() < 1e-5


def test_the_network_is_used_as_documented(exported, photographs):
    import onnxruntime

    bundle, path = exported
    session = onnxruntime.InferenceSession(path)
    (given_,) = session.get_inputs()
    assert (given_.name, given_.type, given_.shape[1:]) == ("crops", "tensor(uint8)", [48, 48, 3])
    crops = np.stack([np.asarray(bundle.config.preprocessing.views(_open(file))[0]) for file in photographs])
    for count in (1, 5):
        logits, maps = session.run(["logits", "score_maps"], {"crops": crops[:count]})
        assert logits.shape == (count, 3)
        images = bundle.config.preprocessing.normalize(torch.from_numpy(crops[:count]).permute(0, 3, 1, 2))
        views = Views(bundle.model, [images.unsqueeze(1)])
        cam = CAM().cells(views, [0, 1, 2])[0][:, 0]
        np.testing.assert_allclose(maps, cam.numpy(), atol=1e-5)
        np.testing.assert_allclose(maps.mean(axis=(2, 3)), logits, atol=1e-5)  # average pooling


def _open(file):
    from manyhot.data.images import open_image

    return open_image(file)


def test_exported_files_need_no_torch(exported, photographs, tmp_path, bare_manyhot):
    def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*bare_manyhot("fastapi", "uvicorn"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    bundle, path = exported
    ran = without_torch("predict", path, *photographs, "--out", tmp_path / "scores.parquet", "--predicted")
    assert ran.returncode == 0, ran.stderr
    from manyhot.predictions import Predictions

    here = Predictor(bundle, backend="torch").predict(photographs)
    there = Predictions.load(tmp_path / "scores.parquet")
    assert np.abs(here.scores - there.scores).max() < 1e-5
    assert there.predicted() == here.predicted()
    assert there.source == here.source

    ran = without_torch("predict", path.parent, *photographs, "--out", tmp_path / "scores.csv")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "the package torch is not installed" in ran.stderr
    assert "Traceback" not in ran.stderr


@given(
    st.sampled_from([{"name": "max"}, {"name": "mean"}, {"name": "lse", "r": 3.0}]),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=30)
def test_crops_are_pooled_alike_with_and_without_torch(setting, crops, seed):
    logits = np.random.default_rng(seed).normal(0, 8, (3, crops, 4)).astype(np.float32)
    pooling = crop_poolings.build(setting)
    pooled = pooling.pool_array(logits)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, pooling.pool(torch.from_numpy(logits)).numpy(), rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["sigmoid", "softmax"]))
@settings(deadline=None, max_examples=30)
def test_scores_are_those_of_torch(seed, activation):
    logits = np.random.default_rng(seed).normal(0, 30, (4, 5)).astype(np.float32)
    exact = torch.from_numpy(logits).double()
    expected = exact.sigmoid() if activation == "sigmoid" else exact.softmax(dim=1)
    np.testing.assert_array_max_ulp(activate(logits, activation), expected.numpy().astype(np.float32), 1)


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "torchvision/resnet18", "timm/test_efficientnet"])
def test_batch_norms_are_folded_into_convolutions(backbone, make_bundle):
    bundle = make_bundle(backbone=backbone)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    standardized, _ = standardize_weights(bundle.model, "alpha", images)
    for model in (bundle.model, standardized):
        folded = fold_batch_norms(model)
        norms = [layer for layer in folded.backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        assert not norms
        with torch.no_grad():
            torch.testing.assert_close(folded(images), model(images), rtol=1e-5, atol=1e-5)


def test_what_a_backend_cannot_do_is_said(exported, make_bundle, tmp_path):
    _, path = exported
    cases = [
        (path, {"backend": "torch"}, "torch does not run exported models"),
        (path, {"backend": "onnx"}, "unknown backend 'onnx'"),
        (path, {"backend": "onnxruntime", "precision": "bf16"}, "onnxruntime computes what the file holds"),
        (path, {"backend": "onnxruntime", "device": "tpu"}, "onnxruntime has no device 'tpu'"),
        (path, {"backend": "openvino", "device": "tpu"}, "openvino has no device 'tpu' here"),
        (path.with_suffix(".xml"), {"backend": "onnxruntime"}, "onnxruntime runs .onnx files"),
        (tmp_path / "none.onnx", {}, "there is no such file"),
    ]
    for file, options, message in cases:
        with pytest.raises(UserError, match=message):
            Predictor.load(file, **options)
    dense = make_bundle(crops={"name": "dense", "sizes": [64]})
    with pytest.raises(UserError, match="'dense' crops pool windows of a map"):
        Predictor(dense, backend="onnxruntime")
    with pytest.raises(UserError, match="torch cannot use the device 'tpu'"):
        Predictor(dense, backend="torch", device="tpu")
    assert Predictor(dense, backend=Torch(fold=False)).backend == "torch"


def test_files_that_are_none_are_refused(exported, tmp_path):
    _, path = exported
    whole = path.read_bytes()
    for name, content in (
        ("cut.onnx", whole[: len(whole) // 2]),
        ("empty.onnx", b""),
        ("text.onnx", b"this is no model at all"),
        ("page.xml", b"<html></html>"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not a model that manyhot exported"):
            ExportedModel.read(tmp_path / name)
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="says nothing of 'config'"):
        ExportedModel.read(tmp_path / "other.onnx")


def test_a_run_is_exported_once_into_the_cache(make_bundle, photographs, caplog):
    bundle = make_bundle(pooling={"name": "topk", "k": 3})
    folder = Path(os.environ["MANYHOT_CACHE"]) / "exported"
    before = set(folder.glob("*")) if folder.exists() else set()
    with caplog.at_level("INFO", logger="manyhot"):
        first = Predictor(bundle, backend="onnxruntime").predict(photographs)
        second = Predictor(bundle, backend="onnxruntime").predict(photographs)
    (made,) = set(folder.glob("*")) - before
    assert [record.message for record in caplog.records].count("exporting the network once, into the cache folder") == 1
    np.testing.assert_array_equal(first.scores, second.scores)
    made.write_bytes(made.read_bytes()[:1000])  # torn: made anew
    np.testing.assert_array_equal(Predictor(bundle, backend="onnxruntime").predict(photographs).scores, first.scores)
