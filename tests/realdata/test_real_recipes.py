"""The published recipes on genuine photographs: end to end, from random weights and from files of both libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision

import manyhot
from manyhot.data.manifest import Manifest
from manyhot.recipe import load_recipe
from manyhot.training.train import train

SMALL = {  # the recipes as they are, but for the size of pictures: ResNet-50 at 400 px takes half an hour on two cores
    "voc-resnet50-fivecrop": ["input.size=48", "input.resize=86"],
    "voc-resnet18-frozen": ["input.size=64"],
    "voc-resnet18-sgd": ["input.size=64"],
    "voc-squeezenet-fivecrop": ["input.size=64", "input.resize=96"],
    "voc-squeezenet-scales": ["input.crops={name: scales, sizes: [48, 64, 80]}"],
    "voc-squeezenet-sgd": ["input.size=64"],
    "voc-squeezenet-strong": ["input.size=64", "evaluation.crops={name: scales, sizes: [48, 64], mirrored: true}"],
    "voc-strong": [
        "input.size=64", "evaluation.crops={name: scales, sizes: [64, 96]}", "training.precision=float32",
        "model.backbone=timm/convnext_atto", "training.epochs=2",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def some(realdata: Path) -> Manifest:
    """120 pictures to train on and 60 to validate on."""
    manifest = manyhot.open_source(str(realdata / "VOCdevkit" / "VOC2012"))
    splits = manifest.table["split"].to_numpy()
    keep = np.zeros(len(splits), dtype=bool)
    keep[np.flatnonzero(splits == "train")[:120]] = True
    keep[np.flatnonzero(splits == "val")[:60]] = True
    return manifest.rows(keep)


@pytest.mark.parametrize("name", SMALL)
def test_an_epoch_without_published_weights(some: Manifest, tmp_path: Path, name: str) -> None:
    settings = ["training.epochs=1", "model.weights=none", *SMALL[name]]
    run = train(load_recipe(name, settings), some, tmp_path / "run")
    evaluation = manyhot.evaluate(run.path, "val")
    assert evaluation.metrics["n_images"] == 60
    assert 0 < evaluation.metrics["map"] < 1
    assert evaluation.metrics["loss"] < 20


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("name", "network"),
    [("voc-resnet50-fivecrop", "resnet50"), ("voc-resnet18-frozen", "resnet18"), ("voc-resnet18-sgd", "resnet18")],
)
def test_files_of_both_libraries_are_read(
    some: Manifest, tmp_path: Path, name: str, network: str, library: str
) -> None:
    torch.manual_seed(1)
    if library == "torchvision":
        published = torchvision.models.get_model(network, weights=None)
    else:
        published = timm.create_model(network, pretrained=False)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    settings = ["training.epochs=1", f"model.weights={tmp_path / 'w.pth'}", *SMALL[name], "model.frozen=true"]
    settings += [] if "frozen" in name else ["training.views=0"]
    run = train(load_recipe(name, settings), some, tmp_path / "run")
    found = manyhot.load(run.path).bundle.model.backbone.body.state_dict()
    wanted = published.state_dict()
    assert len(found) > 100
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.items())
