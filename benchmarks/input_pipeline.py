"""From files to normalised batches: the usual DataLoader, manyhot from files, manyhot from a pixel store."""

# ruff: noqa: E402 - the processor is prepared before torch is loaded, as the command line does

from __future__ import annotations

from manyhot.processor import prepare_processor

prepare_processor()

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from manyhot.data.decoding import Loader
from manyhot.data.loading import Pictures, TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.resizing import Resizing
from manyhot.data.sources import open_source
from manyhot.data.transforms import HorizontalFlip, RandomResizedCrop

DEVICE = torch.device("cpu")
SIZE, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.35, 1.0)
RULES = Preprocessing(size=SIZE, fit="crop", resize=256, interpolation="bilinear", mean=MEAN, std=STD)


class Usual(Dataset[tuple[torch.Tensor, int]]):
    """The way of most training scripts: Pillow and torchvision's transforms, one tensor a picture."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        steps = [v2.RandomResizedCrop(SIZE, SCALE, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        self.transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """A normalised picture and its number."""
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), index


def ours(manifest: Manifest, workers: int) -> Callable[[int], float]:
    """A pass over the pictures: images/s by epoch."""
    pictures = Pictures(manifest.paths, manifest.labels, RULES, (RandomResizedCrop(scale=SCALE), HorizontalFlip()), 0)
    batches = TrainingBatches(len(manifest), BATCH, 0)
    loader = Loader(pictures, batches, workers)

    def run(epoch: int) -> float:
        batches.start(epoch, 0)
        start = time.perf_counter()
        seen = sum(len(group.normalized(DEVICE)[0]) for batch in loader for group in batch.groups)
        assert seen == len(manifest)
        return seen / (time.perf_counter() - start)

    return run


def usual(manifest: Manifest, workers: int) -> Callable[[int], float]:
    """The same with a DataLoader, whose processes go on from epoch to epoch."""
    loader = DataLoader(Usual(manifest.paths), BATCH, shuffle=True, num_workers=workers, persistent_workers=True)

    def run(_: int) -> float:
        start = time.perf_counter()
        seen = sum(len(images) for images, _ in loader)
        return seen / (time.perf_counter() - start)

    return run


def passes(run: Callable[[int], float], seconds: float, first: int) -> float:
    """Images/s over passes, one after the other, for so long: one alone is over in a seventh of a second."""
    start, rates, epoch = time.perf_counter(), [], first
    while time.perf_counter() - start < seconds:
        rates.append(run(epoch))
        epoch += 1
    return statistics.harmonic_mean(rates)


def share_waited(manifest: Manifest, workers: int, steps: int) -> float:
    """Share of the time that training ResNet-18 from random weights waits for its batches."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(num_classes=len(manifest.classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    parts = (RandomResizedCrop(scale=SCALE), HorizontalFlip())
    loader = Loader(
        Pictures(manifest.paths, manifest.labels, RULES, parts), TrainingBatches(len(manifest), BATCH, 0), workers
    )
    waited = total = 0.0
    asked = time.perf_counter()
    for step, batch in enumerate(loader):
        ready = time.perf_counter()
        (group,) = batch.groups
        logits = model(group.normalized(DEVICE)[0].squeeze(1))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.clamp(min=0).float()).backward()
        optimizer.step()
        optimizer.zero_grad()
        done = time.perf_counter()
        waited, total, asked = waited + ready - asked, total + done - asked, done
        if step + 1 == steps:
            break
    return waited / total


def main() -> None:
    """All three in turn, over the same pictures, from the first request to the last batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a source of pictures, such as VOCdevkit/VOC2012")
    parser.add_argument("--pictures", type=int, default=640, help="how many of them")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each way in a turn")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds of each way before any is timed")
    parser.add_argument("--steps", type=int, default=6, help="batches that ResNet-18 is trained on; 0: none")
    options = parser.parse_args()
    workers = 2
    source = open_source(options.data)
    few = set(np.random.default_rng(0).permutation(len(source))[: options.pictures].tolist())
    files = source.rows([row in few for row in range(len(source))])
    with tempfile.TemporaryDirectory() as folder:
        stored = prepare(files, Path(folder) / "store", Preparation(Resizing(256))).manifest
        ways = {"usual": usual(files, workers), "files": ours(files, workers), "store": ours(stored, workers)}
        for run in ways.values():  # the processes of the usual way start here, and those of a store's loader
            passes(run, options.warm_up, 0)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(1, options.turns + 1):
            for name, run in ways.items():
                rates[name].append(passes(run, options.seconds, 1000 * turn))
        waited = share_waited(stored, workers, options.steps) if options.steps else None
    median = {name: statistics.median(some) for name, some in rates.items()}
    print(f"{len(files)} pictures, random crop to {SIZE} and flip, {workers} workers, {os.cpu_count()} cores")
    for name, what in (
        ("usual", "DataLoader, Pillow, torchvision"), ("files", "manyhot, files"), ("store", "manyhot, pixel store")
    ):  # fmt: skip
        print(f"{what:34} {median[name]:7.1f} images/s, {median[name] / median['usual']:5.2f} x")
    results = [
        {
            "benchmark": f"input_pipeline/{name}", "ratio": round(median[name] / median["usual"], 3),
            "peer": "torch DataLoader, Pillow, torchvision transforms", "ours": round(median[name], 1),
            "theirs": round(median["usual"], 1), "unit": "images/s", "n": options.turns,
        }
        for name in ("files", "store")
    ]  # fmt: skip
    if waited is not None:
        print(f"training ResNet-18 from the store waits {waited:.1%} of its time")
        results.append(
            {
                "benchmark": "input_pipeline/waited", "value": round(waited, 4), "peer": "none", "ours": None,
                "theirs": None, "unit": "share of the time", "n": options.steps,
            }
        )  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
