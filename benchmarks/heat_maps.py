"""What heat maps cost: the time of a forward pass with the maps of some classes over that of the plain forward pass.

    python benchmarks/heat_maps.py [--backbone torchvision/squeezenet1_0] [--side 384] [--batch 4] [--classes 20]
        [--heatmaps cam,ddt,gradcam] [--rounds 15]

Both are done in turns in one process, on the same pictures, and the ratio is that of the medians. Weights are random:
they do not change the time. To keep: 1.3 for `cam`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from manyhot.processor import prepare_processor

prepare_processor()

import numpy as np  # noqa: E402 - torch comes after the processor is prepared
import torch  # noqa: E402

from manyhot.localization.heatmaps import HeatMap, heat_maps  # noqa: E402
from manyhot.localization.transforming import Axes, DescriptorTransform  # noqa: E402
from manyhot.localization.views import Views  # noqa: E402
from manyhot.models.classifier import create_classifier  # noqa: E402
from manyhot.recipe import Model  # noqa: E402


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """A line a heat map, then the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="torchvision/squeezenet1_0")
    parser.add_argument("--pooling", default="average+max")
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--heatmaps", default="cam,ddt,gradcam", help="names, by comma")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    settings = Model(backbone=options.backbone, weights="none", pooling=options.pooling)
    model = create_classifier(settings, options.classes, 1).eval().to(memory_format=torch.channels_last)
    images = torch.randn(options.batch, 3, options.side, options.side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        width = model.maps(images[:1]).shape[1]

    def plain() -> None:
        with torch.no_grad():
            model(images)

    def mapped(part: HeatMap) -> None:
        views = Views(model, [images.unsqueeze(1)])
        views.logits()
        with torch.no_grad():
            part.cells(views, range(options.classes))

    results = []
    for name in options.heatmaps.split(","):
        part = heat_maps.build({"name": name})
        if isinstance(part, DescriptorTransform):
            part = part.fitted(Axes(torch.rand(options.classes, width), torch.rand(options.classes, width)))
        plain(), mapped(part)
        rounds = [(seconds(lambda kept=part: mapped(kept)), seconds(plain)) for _ in range(options.rounds)]
        ours, theirs = np.median(np.array(rounds), axis=0)
        print(f"{name:14} {ours:.3f} s, plain {theirs:.3f} s, ratio {ours / theirs:.3f}", flush=True)
        results.append(
            {"benchmark": f"heat maps: {name}", "ratio": round(ours / theirs, 4), "peer": "plain forward pass",
             "ours": round(ours, 4), "theirs": round(theirs, 4), "unit": "s", "n": options.rounds}
        )  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
