"""Decoding, augmenting and batching pictures: manyhot's Loader of threads beside torch's DataLoader of processes."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from manyhot.data.decoding import Loader
from manyhot.data.loading import Pictures, TrainingBatches
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms import HorizontalFlip, RandomResizedCrop

DEVICE = torch.device("cpu")
SIZE, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Usual(Dataset[tuple[torch.Tensor, int]]):
    """The way of most training scripts: Pillow and torchvision's transforms, one tensor a picture."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        steps = [v2.RandomResizedCrop(SIZE, (0.35, 1.0), antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        self.transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """A normalised picture and its number."""
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), index


def write_pictures(folder: Path, n: int) -> list[Path]:
    """JPEG files of the size and detail of photographs: smooth noise at several scales."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        layers = [Image.fromarray(rng.integers(0, 256, (3 * k, 4 * k, 3), dtype=np.uint8)) for k in (4, 16, 60)]
        pixels = sum(np.asarray(layer.resize((500, 375), Image.Resampling.BICUBIC), np.float32) for layer in layers)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray((pixels / len(layers)).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def main() -> None:
    """Both ways in turn, over the same pictures, from the first request to the last batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), options.pictures)
        labels = np.zeros((len(paths), 1), np.int8)
        preprocessing = Preprocessing(size=SIZE, fit="crop", resize=256, interpolation="bilinear", mean=MEAN, std=STD)
        pictures = Pictures(paths, labels, preprocessing, (RandomResizedCrop(), HorizontalFlip()), 0)
        batches = TrainingBatches(len(paths), BATCH, 0)
        ours = Loader(pictures, batches, cores)
        usual = DataLoader(Usual(paths), BATCH, shuffle=True, num_workers=cores, persistent_workers=True)

        def time_ours(epoch: int) -> float:
            batches.start(epoch, 0)
            start = time.perf_counter()
            seen = sum(len(group.normalized(DEVICE)[0]) for batch in ours for group in batch.groups)
            return seen / (time.perf_counter() - start)

        def time_usual(_: int) -> float:
            start = time.perf_counter()
            seen = sum(len(images) for images, _ in usual)
            return seen / (time.perf_counter() - start)

        time_ours(0), time_usual(0)  # warm-up; the workers of the usual way start here
        rates = [(time_ours(turn), time_usual(turn)) for turn in range(1, options.turns + 1)]
    fast, slow = (statistics.median(one) for one in zip(*rates, strict=True))
    print(f"manyhot Loader, {cores} threads       {fast:7.1f} images/s")
    print(f"torch DataLoader, {cores} processes   {slow:7.1f} images/s\nratio {fast / slow:.2f}")
    result = {
        "benchmark": "loading", "ratio": round(fast / slow, 3), "peer": "torch DataLoader with torchvision transforms",
        "ours": round(fast, 1), "theirs": round(slow, 1), "unit": "images/s", "n": options.turns,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
