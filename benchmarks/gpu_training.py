"""Training ResNet-18 and ResNet-50: pictures on the device, from the pixel store, synthetic, and the usual script.

    python benchmarks/gpu_training.py --data VOCdevkit/VOC2012

All four train from random weights with SGD in channels-last batches, in one run: on a GPU in bfloat16 at 224 px;
without one at a small size in float32, where the numbers only show that it works. The peer is what torchvision's
reference for classification does: Pillow in DataLoader processes, its RandomResizedCrop and flip, autocast.
"""

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from manyhot.data.decoding import Loader
from manyhot.data.device import DeviceLoader
from manyhot.data.loading import Batch, Pictures, TrainingBatches
from manyhot.data.manifest import Manifest
from manyhot.data.preparation import Preparation
from manyhot.data.preparing import prepare
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.resizing import Resizing
from manyhot.data.sources import open_source
from manyhot.data.transforms import HorizontalFlip, RandomResizedCrop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PARTS = (RandomResizedCrop(scale=(0.08, 1.0)), HorizontalFlip())


class Usual(Dataset[tuple[Tensor, Tensor]]):
    """Pillow and torchvision's transforms, one tensor a picture."""

    def __init__(self, manifest: Manifest, size: int) -> None:
        self.paths, self.labels = manifest.paths, manifest.labels
        crop = v2.RandomResizedCrop(size, antialias=True)
        self.transform = v2.Compose(
            [
                crop,
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A normalised picture and its labels."""
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), torch.from_numpy(self.labels[index])


def trained(name: str, classes: int, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """A step of the optimizer on a normalised batch."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.train()

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(images)
        target = labels.to(device, non_blocking=True).clamp(min=0).float()
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(
    step: Callable[[Tensor, Tensor], None], batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> float:
    """Wall-clock time of an epoch, the device's work included."""
    start = time.perf_counter()
    for images, labels in batches:
        step(images, labels)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """All four ways in turn, for both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a source of pictures, such as VOCdevkit/VOC2012")
    parser.add_argument("--networks", default="resnet18,resnet50")
    parser.add_argument(
        "--pictures", type=int, help="how many; default 8192 on a GPU, repeated where there are fewer, else 64"
    )
    parser.add_argument("--batch", type=int, help="default 256 on a GPU, else 16")
    parser.add_argument("--size", type=int, help="default 224 on a GPU, else 64")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = device.type == "cuda"
    count, batch, size = (
        options.pictures or (8192 if large else 64), options.batch or (256 if large else 16),
        options.size or (224 if large else 64),
    )  # fmt: skip
    workers = os.cpu_count() or 1
    rules = Preprocessing(
        size=size, fit="crop", resize=round(size / 0.875), interpolation="bilinear", mean=MEAN, std=STD
    )
    source = open_source(options.data)
    chosen = np.random.default_rng(0).permutation(len(source))[:count]
    files = source.rows(np.isin(np.arange(len(source)), chosen))
    repeats = -(-count // len(files))
    print(f"{device}: {torch.cuda.get_device_name() if large else f'{workers} cores'}, {count} pictures, "
          f"batches of {batch} at {size} px, {workers} workers")  # fmt: skip
    results = []
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(files, Path(folder) / "store", Preparation(Resizing(rules.resize))).manifest
        paths, labels = list(store.paths) * repeats, np.tile(store.labels, (repeats, 1))
        paths, labels = paths[:count], labels[:count]
        batches = TrainingBatches(count, batch, 0)
        single = Loader(Pictures(paths, labels, rules, PARTS), batches, workers)
        whole = DeviceLoader(paths, labels, rules, PARTS, 0, batches, device)
        usual = Usual(files, size)
        order = torch.utils.data.RandomSampler(usual, replacement=True, num_samples=count)
        loader = DataLoader(usual, batch, sampler=order, num_workers=workers, pin_memory=large, persistent_workers=True)
        noise = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
        made_up = torch.zeros(batch, len(files.classes), dtype=torch.int8)

        def normalized(some: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
            for one in some:
                yield one.groups[0].normalized(device)[0].squeeze(1), one.labels

        def peers() -> Iterator[tuple[Tensor, Tensor]]:
            for images, target in loader:
                yield images.to(device, non_blocking=True).to(memory_format=torch.channels_last), target

        ways: dict[str, Callable[[], Iterable[tuple[Tensor, Tensor]]]] = {
            "on the device": lambda: normalized(whole),
            "from the store": lambda: normalized(single),
            "synthetic": lambda: [(noise, made_up)] * len(batches),
            "usual script": peers,
        }
        for network in options.networks.split(","):
            step = trained(network, len(files.classes), device)
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(options.turns + 1):
                batches.start(turn, 0)
                for name, way in ways.items():
                    rate = count / seconds(step, way(), device)
                    if turn:  # the first one warms up
                        rates[name].append(rate)
            median = {name: statistics.median(some) for name, some in rates.items()}
            print(f"{network}:")
            for name, rate in median.items():
                print(f"  {name:15} {rate:8.1f} images/s, {rate / median['synthetic']:6.1%} of synthetic, "
                      f"{rate / median['usual script']:5.2f} x the usual script")  # fmt: skip
                results.append({"benchmark": f"gpu_training/{network}/{name}", "ours": round(rate, 1),
                                "theirs": round(median["usual script"], 1), "unit": "images/s", "device": str(device),
                                "ratio": round(rate / median["usual script"], 3), "n": options.turns,
                                "peer": "torchvision's reference: DataLoader, Pillow, transforms"})  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
