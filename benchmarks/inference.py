"""Scoring pictures on a CPU, from JPEG files and by the network alone: eager torchvision beside manyhot's backends.

Each way is a process of its own, as its users start it, and all take turns. The eager one is a plain torchvision
network in eval mode without gradient, fed by torch's DataLoader with Pillow and torchvision's transforms. Ours are a
Predictor by default, with each backend, and with an int8 export. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZE, RESIZE, BATCH, CLASSES = 224, 256, 32, 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = ("eager", "default", "onnxruntime", "openvino", "int8")

Run = Callable[[int], None]
"""Score so many pictures."""


def main() -> None:
    """All ways in turn, for both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of JPEG files; else photographs are made up")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=96, help="in one turn")
    parser.add_argument("--quick", action="store_true", help="one turn of 32 pictures of the smaller network")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    if options.quick:
        options.networks, options.turns, options.pictures = options.networks[:1], 1, 32
    print(f"processor: {describe_processor()}")
    with tempfile.TemporaryDirectory() as folder:
        pictures = options.images or write_pictures(Path(folder), options.pictures)
        results = [
            one
            for network in options.networks
            for one in compare(network, options.ways, pictures, options.turns, options.pictures)
        ]
    print(json.dumps(results))


def compare(network: str, ways: list[str], pictures: Path, turns: int, n: int) -> list[dict[str, object]]:
    """Medians of every way, end to end and alone, beside eager torch."""
    workers = {way: Worker(way, network, pictures) for way in ["eager", *(way for way in ways if way != "eager")]}
    rates: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(turns):
            for what in ("files", "alone"):
                for way, worker in workers.items():
                    rates.setdefault((way, what), []).append(worker.ask(what, n))
    finally:
        for worker in workers.values():
            worker.close()
    results: list[dict[str, object]] = []
    for what, words in (("files", "from JPEG files"), ("alone", "network alone")):
        peer = statistics.median(rates["eager", what])
        print(f"{network}, {words}: eager torch {peer:.1f} images/s")
        for way in workers:
            if way == "eager":
                continue
            ours = statistics.median(rates[way, what])
            ratio = statistics.median(a / b for a, b in zip(rates[way, what], rates["eager", what], strict=True))
            print(f"  {way:12} {ours:7.1f} images/s, {ratio:5.2f} times", flush=True)
            results.append({
                "benchmark": f"inference: {network}, {words}, {way}", "ratio": round(ratio, 3), "peer": "eager torch",
                "ours": round(ours, 2), "theirs": round(peer, 2), "unit": "images/s", "n": turns,
            })  # fmt: skip
    return results


class Worker:
    """A process that scores pictures when asked to, and sleeps in between."""

    def __init__(self, way: str, network: str, pictures: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        command = [sys.executable, __file__, "--worker", way, network, str(pictures)]
        self.process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def ask(self, what: str, n: int) -> float:
        """Pictures a second."""
        assert self.process.stdin is not None
        print(what, n, file=self.process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("answer "):
                return line.removeprefix("answer ")
        raise SystemExit("a worker died")


def work(way: str, network: str, pictures: str) -> None:
    """Answer the questions on standard input."""
    files = sorted(Path(pictures).rglob("*.jpg"))
    runs = eager(network, files) if way == "eager" else ours(way, network, files)
    for run in runs.values():
        run(BATCH)
    print("answer ready", flush=True)
    for line in sys.stdin:
        what, n = line.split()
        start = time.perf_counter()
        runs[what](int(n))
        print("answer", int(n) / (time.perf_counter() - start), flush=True)


def eager(name: str, files: list[Path]) -> dict[str, Run]:
    """The usual script: torchvision's network and transforms, torch's DataLoader with a process a core."""
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    steps = [transforms.Resize(RESIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    class Files(Dataset[torch.Tensor]):
        def __init__(self, n: int) -> None:
            self.n = n

        def __len__(self) -> int:
            return self.n

        def __getitem__(self, index: int) -> torch.Tensor:
            with Image.open(files[index % len(files)]) as image:
                tensor: torch.Tensor = transform(image.convert("RGB"))
                return tensor

    def from_files(n: int) -> None:
        loader = DataLoader(Files(n), batch_size=BATCH, num_workers=os.cpu_count() or 1)
        with torch.no_grad():
            for batch in loader:
                model(batch).sigmoid().numpy()

    def alone(n: int) -> None:
        with torch.no_grad():
            for _ in range(0, n, BATCH):
                model(images).numpy()

    return {"files": from_files, "alone": alone}


def ours(way: str, name: str, files: list[Path]) -> dict[str, Run]:
    """manyhot's Predictor: as it comes, with a backend, or with an int8 export."""
    from manyhot.processor import prepare_processor

    prepare_processor()
    import numpy as np

    from manyhot.data.decoding import CropBatch
    from manyhot.inference.predict import Predictor

    model = bundle(name)
    if way == "int8":
        model = quantised(model, files)
    backend = None if way == "default" else "openvino" if way == "int8" else way
    predictor = Predictor(model, backend=backend, batch_size=BATCH)
    rng = np.random.default_rng(0)
    crops = CropBatch.of([(i, [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)]) for i in range(BATCH)])

    def from_files(n: int) -> None:
        predictor.logits([files[i % len(files)] for i in range(n)])

    def alone(n: int) -> None:
        for _ in range(0, n, BATCH):
            predictor.look(crops)

    return {"files": from_files, "alone": alone}


def bundle(name: str):
    """A trained model of random weights, read from a bundle as every model is."""
    import torch

    from manyhot.data.preprocessing import Preprocessing
    from manyhot.models.bundle import load_bundle, save_bundle
    from manyhot.models.bundle_config import BundleConfig
    from manyhot.models.classifier import create_classifier
    from manyhot.recipe import Model

    torch.manual_seed(0)
    section = Model(backbone=f"torchvision/{name}", weights="none", pooling={"name": "average"})
    rules = Preprocessing(size=SIZE, fit="crop", resize=RESIZE, interpolation="bilinear", mean=MEAN, std=STD)
    config = BundleConfig(
        manyhot="0", recipe="benchmark", model=section, classes=tuple(f"class {i}" for i in range(CLASSES)),
        task="multilabel", label_rule="none", activation="sigmoid", preprocessing=rules, stride=32, offset=0,
        thresholds=(0.5,) * CLASSES, epoch=1, val_map=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder), config, create_classifier(section, CLASSES).state_dict())
        return load_bundle(Path(folder))


def quantised(model, files: list[Path]):
    """An int8 export of it, by a few of the pictures."""
    from manyhot.exporting import Stacks
    from manyhot.inference.exported import ExportedModel, metadata
    from manyhot.inference.graph import write_onnx
    from manyhot.inference.quantizing import quantize

    folder = Path(tempfile.mkdtemp())
    rules, about = model.config.preprocessing, metadata(model.config, "int8", "0")
    write_onnx(folder / "plain.onnx", model.model, rules, about)
    quantize(folder / "int8.xml", folder / "plain.onnx", Stacks(files[:16], rules), 16, about)
    return ExportedModel.read(folder / "int8.xml")


def write_pictures(folder: Path, n: int) -> Path:
    """JPEG files of the size and detail of photographs: smooth noise at several scales."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        layers = [Image.fromarray(rng.integers(0, 256, (3 * k, 4 * k, 3), dtype=np.uint8)) for k in (4, 16, 60)]
        pixels = sum(np.asarray(layer.resize((500, 375), Image.Resampling.BICUBIC), np.float32) for layer in layers)
        Image.fromarray((pixels / len(layers)).astype(np.uint8)).save(folder / f"{i:03}.jpg", quality=90)
    return folder


def describe_processor() -> str:
    """Its name, cores, and what of it matters here."""
    from manyhot.inference.remembered import processor_name

    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8") if flag in flags]
    return f"{processor_name()}, {os.cpu_count()} cores, {' '.join(known)}"


if __name__ == "__main__":
    main()
