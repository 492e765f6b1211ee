"""Weight-standardised ResNet-50: how long the conversion takes, and what the forward pass costs beside the plain one.

    python benchmarks/weight_standardization.py [--batch 16] [--side 224] [--rounds 9]

The networks take turns, in an order that changes every round, and the medians of CPU time are compared: of all threads
of this process, so that other programs hardly change it. With OMP_NUM_THREADS=1 it is the time on an idle machine.

In eval mode weights are standardised once; `every pass` standardises them in every forward pass, as training does;
`folded` has ordinary convolutions again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from manyhot.processor import prepare_processor

prepare_processor()

import torch  # noqa: E402 - torch comes after the processor is prepared
from torchvision import models  # noqa: E402

from manyhot.models.weight_standardization import (  # noqa: E402
    WeightStandardizedConv2d,
    fold_weights,
    standardize_weights,
)

MODES = ("alpha", "channel-eps", "gain", "exact-mean")


def conversion(plain: torch.nn.Module) -> list[dict[str, object]]:
    """CPU seconds of `standardize_weights`, its check on a picture of 224 px included."""
    rows: list[dict[str, object]] = []
    for mode in MODES:
        seconds = []
        for _ in range(3):
            start = time.process_time()
            _, report = standardize_weights(plain, mode)
            seconds.append(time.process_time() - start)
        took = statistics.median(seconds)
        assert report.difference is not None
        print(f"{mode:12} converted in {took:.2f} CPU seconds, largest difference {report.difference}", flush=True)
        name = f"conversion of ResNet-50, {mode}"
        rows.append({"benchmark": name, "value": round(took, 3), "unit": "CPU s", "n": len(report.convs)})
    return rows


@torch.no_grad()
def forward(plain: torch.nn.Module, batch: int, side: int, rounds: int) -> list[dict[str, object]]:
    """Ratios of the median forward passes."""
    networks = {"plain": plain}
    for mode in MODES:
        networks[mode] = standardize_weights(plain, mode)[0].eval()
    networks["folded"] = fold_weights(networks["alpha"])
    networks["every pass"] = standardize_weights(plain, "alpha")[0].eval()
    x = torch.randn(batch, 3, side, side)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    names = list(networks)
    for network in networks.values():
        network(x)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name == "every pass":
                for layer in networks[name].modules():
                    if isinstance(layer, WeightStandardizedConv2d):
                        layer.eval()  # forgets what it keeps
            start = time.process_time()
            networks[name](x)
            seconds[name].append(time.process_time() - start)
    base = statistics.median(seconds["plain"])
    print(f"\nforward pass of {batch} pictures of {side} px, {torch.get_num_threads()} threads, {rounds} rounds")
    rows = []
    for name in names:
        ours = statistics.median(seconds[name])
        print(f"{name:12} {ours:.3f} s   {ours / base:.3f} x plain", flush=True)
        rows.append(
            {"benchmark": f"forward pass of ResNet-50, {name}", "ratio": round(ours / base, 3), "peer": "nn.Conv2d",
             "ours": round(ours, 4), "theirs": round(base, 4), "unit": "CPU s", "n": batch}
        )  # fmt: skip
    return rows[1:]


def main() -> None:
    """Conversion, then forward passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    plain = models.resnet50().eval()
    print(json.dumps([*conversion(plain), *forward(plain, options.batch, options.side, options.rounds)]))


if __name__ == "__main__":
    main()
