"""What kept maps, kept regions and packing are worth in training a detector, each beside the plain way.

    python benchmarks/wsddn.py [--pictures 24] [--boxes 500] [--scale 480] [--rounds 3]

Random pictures of the shapes of photographs, random boxes, SqueezeNet and ResNet-50 without weights: costs do not
depend on what is learned. The heads are those of the recipe `voc-squeezenet-wsddn` (evidence, no hidden layer, three
refinement branches) and of 3 × 3 bins with a hidden layer. One run measures, in turn and several times over, pictures a
second of training:

- from pictures, through the frozen backbone (plain);
- from the backbone's kept maps, and from kept regions (of bins: of 64 components, so that they fit);
- packed steps of several pictures against steps of one picture.

Reading from the cache and decoding a picture count with their ways. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from manyhot.data.loading import Batch
from manyhot.data.manifest import Manifest, Row
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Proposals, tidy
from manyhot.inference.kept_maps import MapExtraction, MapLoader
from manyhot.inference.kept_regions import RegionExtraction, RegionLoader
from manyhot.inference.regions import Regions, RoiPictures
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
        given = (manifest.paths, self.regions, self.regions.views)
        self.labels = manifest.labels
        self.maps = MapExtraction(self.network, self.rule, CPU).compute(*given, what="maps")
        extraction = RegionExtraction(self.network, self.rule, CPU)
        self.kept = extraction.features(*given, what="regions")
        self.bytes = 2 * extraction.width * float(proposals.counts.mean())
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

    def _batches(self, size: int) -> list[list[tuple[int, int]]]:
        count = len(self.labels)
        return [[(0, row) for row in range(start, min(start + size, count))] for start in range(0, count, size)]

    def plain(self, size: int) -> None:
        """All pictures, through the backbone."""
        self.network.train()
        for keys in self._batches(size):
            self.step(self.network, self.pictures.collate([self.pictures[key] for key in keys]))

    def from_maps(self, size: int) -> None:
        """All pictures, from their kept maps."""
        self.network.train()
        for batch in MapLoader(self.maps, self.labels, self.regions, self._batches(size)):  # type: ignore[arg-type]
            self.step(self.network.head, batch)

    def from_regions(self, size: int) -> None:
        """All pictures, from their kept regions."""
        self.network.train()
        for batch in RegionLoader(self.kept, self.labels, self.regions, self._batches(size)):  # type: ignore[arg-type]
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


HEADS: dict[str, dict[str, Any]] = {
    "evidence": {"squeeze": 256, "region_pooling": "evidence", "width": None, "regulariser": 0.0},
    "bins": {"squeeze": 64, "side": 3, "width": 256},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--boxes", type=int, default=500)
    parser.add_argument("--scale", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packed", type=int, default=8)
    wanted = parser.parse_args()
    prepare_processor()
    both = {"squeeze_by": "components", "kept": "regions", "refinements": 3, "scales": [wanted.scale], "flips": False}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MANYHOT_CACHE"] = f"{folder}/cache"
        manifest, proposals = make_data(Path(folder), wanted.pictures, wanted.boxes)
        for backbone, head in itertools.product(("squeezenet1_0", "resnet50"), HEADS):
            settings = {"name": "wsddn", **both, **HEADS[head]}
            ways = Ways(Model(backbone=backbone, weights="none", frozen=True, detector=settings), manifest, proposals)
            many = wanted.packed
            timed: dict[str, Callable[[], None]] = {
                "plain, one picture a step": partial(ways.plain, 1),
                f"plain, {many} packed": partial(ways.plain, many),
                f"kept maps, {many} packed": partial(ways.from_maps, many),
                "kept regions, one picture a step": partial(ways.from_regions, 1),
                f"kept regions, {many} packed": partial(ways.from_regions, many),
            }
            found = rate(timed, wanted.pictures, wanted.rounds)
            print(
                f"{backbone}, {head}, {wanted.scale} px, {proposals.counts.mean():.0f} boxes a picture, "
                f"{ways.bytes / 1e6:.2f} MB of regions a picture"
            )
            middles = {name: statistics.median(values) for name, values in found.items()}
            plain, packed = (middles[f"{name}, {many} packed"] for name in ("plain", "kept regions"))
            for name, values in found.items():
                print(f"  {name:34} {middles[name]:8.2f} pictures/s  {middles[name] / plain:6.2f} x  "
                      f"({min(values):.2f} to {max(values):.2f})", flush=True)  # fmt: skip
            common = {"benchmark": f"wsddn, {backbone}, {head}", "unit": "pictures/s", "n": wanted.pictures}
            alone = middles["kept regions, one picture a step"]
            results += [
                common | {"ratio": packed / plain, "peer": "through the backbone", "ours": packed, "theirs": plain},
                common | {"ratio": packed / alone, "peer": "one picture a step", "ours": packed, "theirs": alone},
            ]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
