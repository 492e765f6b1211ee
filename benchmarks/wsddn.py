"""What kept maps and packing are worth in training a detector: pictures a second, each beside the plain way.

    python benchmarks/wsddn.py [--pictures 24] [--boxes 500] [--scale 448] [--rounds 3]

Random pictures of the shapes of photographs, random boxes, SqueezeNet and ResNet-50 without weights: costs do not
depend on what is learned. One run measures, in turn and several times over:

- a step on the kept maps of a frozen backbone against a step that sends the pictures through it again;
- packed steps of several pictures against steps of one picture, on kept maps.

Reading a map from the cache and decoding a picture count with their ways.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from manyhot.data.loading import Batch
from manyhot.data.manifest import Manifest, Row
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Proposals, tidy
from manyhot.inference.regions import MapExtraction, MapLoader, Regions, RoiPictures
from manyhot.models.detectors import WSDDN, create_detector, detectors
from manyhot.models.wsddn import Wsddn
from manyhot.processor import prepare_processor
from manyhot.recipe import Input, Model

CPU = torch.device("cpu")


def make_data(folder: Path, count: int, boxes: int) -> tuple[Manifest, Proposals]:
    """Pictures and boxes."""
    rng = np.random.default_rng(0)
    rows, found = [], []
    for i in range(count):
        width, height = (500, 375) if i % 2 else (375, 500)
        coarse = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
        low = rng.random((boxes, 2)) * [width - 60, height - 60]
        far = low + 40 + rng.random((boxes, 2)) * [width / 2, height / 2]
        found.append(tidy(np.concatenate([low, far], axis=1), (width, height), 20))
        rows.append(Row(f"{i}", f"{i}.jpg", "train", [1, 0, 1], width, height))
    manifest = Manifest.from_rows(folder, ("a", "b", "c"), rows, label_rule="made up")
    return manifest, Proposals(tuple(manifest.ids), tuple(found), tuple(None for _ in rows))


class Ways:
    """One detector, and the ways to a step."""

    def __init__(self, model: Model, manifest: Manifest, proposals: Proposals) -> None:
        torch.manual_seed(0)
        self.network: Wsddn = create_detector(model, 3)
        assert model.detector is not None
        part = detectors.build(model.detector)
        assert isinstance(part, WSDDN)
        self.part = part
        self.rule = Preprocessing.from_recipe(Input(), self.network.backbone.mean, self.network.backbone.std)
        self.regions = Regions(proposals, manifest.paths, part)
        self.pictures = RoiPictures(manifest.paths, manifest.labels, self.rule, self.regions)
        maps = MapExtraction(self.network, self.rule, CPU).compute(
            manifest.paths, self.regions, self.regions.views, what="maps"
        )
        self.labels, self.maps = manifest.labels, maps
        self.optimizer = torch.optim.SGD(self.network.head.parameters(), lr=1e-4, momentum=0.9)

    def step(self, network: torch.nn.Module, batch: Batch) -> None:
        """Forward, backward, update."""
        logits = batch.logits(network, CPU)
        targets = batch.labels
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum")
        auxiliary = self.part.auxiliary_loss(network, targets)  # type: ignore[arg-type]
        (loss if auxiliary is None else loss + auxiliary).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def plain(self, size: int) -> None:
        """All pictures, through the backbone."""
        self.network.train()
        for start in range(0, len(self.labels), size):
            rows = range(start, min(start + size, len(self.labels)))
            self.step(self.network, self.pictures.collate([self.pictures[0, row] for row in rows]))

    def kept(self, size: int) -> None:
        """All pictures, from their kept maps."""
        self.network.train()
        batches = [
            [(0, row) for row in range(start, min(start + size, len(self.labels)))]
            for start in range(0, len(self.labels), size)
        ]
        for batch in MapLoader(self.maps, self.labels, self.regions, batches):  # type: ignore[arg-type]
            self.step(self.network.head, batch)


def rate(ways: dict[str, Callable[[], None]], count: int, rounds: int) -> dict[str, list[float]]:
    """Pictures a second of each way, taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm up
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            found[name].append(count / (time.perf_counter() - started))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--boxes", type=int, default=500)
    parser.add_argument("--scale", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packed", type=int, default=8)
    wanted = parser.parse_args()
    prepare_processor()
    settings = {"squeeze": 128, "side": 3, "refinements": 3, "scales": [wanted.scale], "flips": False}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MANYHOT_CACHE"] = f"{folder}/cache"
        manifest, proposals = make_data(Path(folder), wanted.pictures, wanted.boxes)
        for backbone in ("squeezenet1_0", "resnet50"):
            model = Model(backbone=backbone, weights="none", frozen=True, detector={"name": "wsddn", **settings})
            ways = Ways(model, manifest, proposals)
            found = rate(
                {
                    "plain, one picture a step": lambda ways=ways: ways.plain(1),
                    "kept maps, one picture a step": lambda ways=ways: ways.kept(1),
                    f"kept maps, {wanted.packed} pictures packed": lambda ways=ways: ways.kept(wanted.packed),
                },
                wanted.pictures,
                wanted.rounds,
            )
            print(f"{backbone}, {wanted.scale} px, {proposals.counts.mean():.0f} boxes a picture")
            first = statistics.median(next(iter(found.values())))
            for name, values in found.items():
                middle = statistics.median(values)
                print(f"  {name:32} {middle:7.2f} pictures/s  {middle / first:5.2f} x  "
                      f"({min(values):.2f} to {max(values):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
