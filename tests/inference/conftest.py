"""Models of every kind that is exported: small, of random weights, each with pictures to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manyhot.data.preprocessing import Preprocessing
from manyhot.models.bundle import Bundle, load_bundle, save_bundle
from manyhot.models.bundle_config import BundleConfig
from manyhot.models.classifier import create_classifier
from manyhot.recipe import Model

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """A bundle by settings of `model`, with crops and other settings of its preprocessing."""

    def make(crops: dict[str, Any] | None = None, fit: str = "crop", **model: Any) -> Bundle:
        torch.manual_seed(3)
        section = Model(**{"backbone": "timm/test_resnet", "weights": "none", "pooling": {"name": "average"}, **model})
        rules = Preprocessing(
            size=48, fit=fit, resize=56, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3),
            crops=crops or {"name": "one"},
        )  # fmt: skip
        network = create_classifier(section, len(CLASSES), rules.cropping.count)
        for name, values in network.state_dict().items():  # running statistics such as training leaves
            if name.endswith("running_mean"):
                values.normal_(std=0.1)
            elif name.endswith("running_var"):
                values.uniform_(0.5, 2)
            elif name.endswith("linear.weight"):
                values.normal_(std=0.3)
        config = BundleConfig(
            manyhot="0", recipe="test", model=section, classes=CLASSES, task="multilabel", label_rule="none",
            activation="sigmoid", preprocessing=rules, stride=1, offset=0, thresholds=(0.5, 0.4, 0.6), epoch=1,
            val_map=None, calibration={"method": "temperature", "temperatures": [1.5, 2.0, 0.5]},
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("bundle")
        save_bundle(folder, config, network.state_dict())
        return load_bundle(folder)

    return make


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five picture files of three shapes."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(5)
    files = []
    for i, size in enumerate([(80, 60), (80, 60), (60, 90), (64, 64), (80, 60)]):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        files.append(folder / f"{i}.png")
        small.resize(size, Image.Resampling.BICUBIC).save(files[-1])
    return files
