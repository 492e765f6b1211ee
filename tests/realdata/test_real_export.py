"""Real pictures: exported networks with published weights say what torch says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import manyhot
from manyhot.data.preprocessing import Preprocessing
from manyhot.exporting import export
from manyhot.models.bundle import save_bundle
from manyhot.models.bundle_config import BundleConfig
from manyhot.models.classifier import create_classifier
from manyhot.recipe import Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_squeezenet_scores_of_voc_pictures(name, realdata, tmp_path):
    voc = manyhot.open_source(str(realdata / "VOCdevkit" / "VOC2012"))
    weights = str(realdata / "weights" / "squeezenet1_0-hanlab-deepcompressed.pth")
    torch.manual_seed(0)
    model = Model(backbone="torchvision/squeezenet1_0", weights=weights, pooling={"name": "average+max"})
    network = create_classifier(model, len(voc.classes))
    network.head.linear.weight.data.normal_(std=0.005)  # scores that spread over 0…1
    rules = Preprocessing(size=320, fit="squash", resize=366, interpolation="bilinear", mean=MEAN, std=STD)
    config = BundleConfig(
        manyhot="0", recipe="real", model=model.model_copy(update={"weights": "none"}), classes=voc.classes,
        task="multilabel", label_rule=voc.label_rule, activation="sigmoid", preprocessing=rules, stride=16, offset=17,
        thresholds=(0.5,) * len(voc.classes), epoch=1, val_map=None,
    )  # fmt: skip
    save_bundle(tmp_path / "bundle", config, network.state_dict())
    out = tmp_path / ("model.onnx" if name == "onnx" else "model.xml")
    made = export(tmp_path / "bundle", out, name, data=voc, pictures=24)
    assert made.parity.n_images == 24
    assert made.parity.largest < 5e-5
    assert made.parity.map_before is not None
    assert np.isclose(made.parity.map_before, made.parity.map_after, atol=1e-6)
    scores = manyhot.load(out).predict(voc.split("val").paths[:8]).scores
    assert scores.std() > 0.01
