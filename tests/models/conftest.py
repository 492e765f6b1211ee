"""Pictures with the look of photographs: smooth, of several shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def realistic_pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three JPEG files: wide, tall and square."""
    folder = tmp_path_factory.mktemp("realistic")
    rng = np.random.default_rng(3)
    paths = []
    for i, (width, height) in enumerate([(120, 80), (70, 110), (90, 90)]):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        paths.append(folder / f"{i}.jpg")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=95)
    return paths
