"""What manyhot.processor's settings save: training and scoring on a CPU, alone and beside a busy program.

Scoring also from a second thread, as a server does it: malloc gives that one memory of its own kind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

TRAIN = """
import os, sys, threading, time
if sys.argv[1] == "ours":
    from manyhot.processor import prepare_processor
    prepare_processor()
import torch, torchvision
torch.manual_seed(0)
if sys.argv[2] == "train":
    model = torchvision.models.resnet18(weights=None).to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 96, 96).to(memory_format=torch.channels_last)
    def step():
        model(images).sum().backward()
else:
    model = torchvision.models.squeezenet1_0(weights=None).features.eval().to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, 320, 320).to(memory_format=torch.channels_last)
    def step():
        with torch.no_grad():
            model(images)
def measure():
    step()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < float(sys.argv[3]):
        step()
        done += len(images)
    print(done / (time.perf_counter() - start))
if sys.argv[2] == "thread":
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
else:
    measure()
"""


def images_per_second(way: str, work: str, seconds: float) -> float:
    """Of a fresh process with or without the settings."""
    environment = {
        key: value for key, value in os.environ.items() if key not in {"OMP_WAIT_POLICY", "MALLOC_ARENA_MAX"}
    }
    command = [sys.executable, "-c", TRAIN, way, work, str(seconds)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
    return float(result.stdout)


def compare(work: str, busy: int, turns: int, seconds: float) -> dict[str, object]:
    """Medians of both ways in turn, beside `busy` other programs that each hold a core."""
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        pairs = [
            (images_per_second("ours", work, seconds), images_per_second("plain", work, seconds)) for _ in range(turns)
        ]
    finally:
        for process in load:
            process.kill()
            process.wait()
    ours, plain = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    where = f"beside {busy} busy programs" if busy else "alone"
    print(f"{work:6} {where:24} ours {ours:7.1f}  plain {plain:7.1f} images/s  ratio {ours / plain:5.2f}", flush=True)
    return {
        "benchmark": f"processor: {work}, {where}", "ratio": round(ours / plain, 3), "peer": "torch as it comes",
        "ours": round(ours, 2), "theirs": round(plain, 2), "unit": "images/s", "n": turns,
    }  # fmt: skip


def main() -> None:
    """Three kinds of work, alone and in company."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    kinds = [(work, busy) for work in ("score", "thread", "train") for busy in (0, 1, 2)]
    results = [compare(work, busy, options.turns, options.seconds) for work, busy in kinds]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
