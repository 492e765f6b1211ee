"""A head on a frozen backbone: every picture through the network once, beside once in every epoch.

    python benchmarks/frozen_training.py --data VOCdevkit/VOC2012 [--weights resnet18.pth]

Both ways are `manyhot.train` with the same recipe, in one process, with the same decoding threads. The usual way
(`training.views: 0`) decodes, flips at random and runs the backbone in every epoch; ours does so once (`views: 1`),
first with an empty cache and then with a warm one. Without --weights the backbone is random: the times are the same,
the mAP says only that both ways agree.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from manyhot.processor import prepare_processor

prepare_processor()

from manyhot.data.image_checks import sound_rows  # noqa: E402 - torch comes after the processor is prepared
from manyhot.data.sources import open_source  # noqa: E402
from manyhot.recipe import load_recipe  # noqa: E402
from manyhot.training.train import train  # noqa: E402


def main() -> None:
    """The usual way, then ours twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="voc-resnet18-frozen")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--epochs", type=int, default=11)
    options = parser.parse_args()
    manifest = open_source(options.data)
    common = [f"model.weights={options.weights}", f"training.epochs={options.epochs}"]
    ways = {
        "usual": ["training.views=0", "input.augment=[horizontal_flip]"],
        "ours, cold": ["training.views=1", "input.augment=[]"],
        "ours, warm": ["training.views=1", "input.augment=[]"],
    }
    seconds, maps = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MANYHOT_CACHE"] = f"{folder}/cache"
        sound_rows(manifest)  # every way would check the pictures once
        for way, settings in ways.items():
            recipe = load_recipe(options.recipe, [*common, *settings])
            start = time.perf_counter()
            run = train(recipe, manifest, Path(folder) / way)
            seconds[way] = time.perf_counter() - start
            maps[way] = run.read_history()[-1]["val_map"]
            ratio = seconds["usual"] / seconds[way]
            print(f"{way:12} {seconds[way]:8.1f} s   last val mAP {maps[way]:.4f}   {ratio:6.1f} x", flush=True)
    n = len(manifest)
    print(json.dumps([
        {"benchmark": f"frozen training, {way.removeprefix('ours, ')} cache", "unit": "s", "n": n,
         "peer": "the backbone in every epoch", "ratio": round(seconds["usual"] / seconds[way], 1),
         "ours": round(seconds[way], 2), "theirs": round(seconds["usual"], 2),
         "map_difference": round(maps[way] - maps["usual"], 4)}
        for way in ("ours, cold", "ours, warm")
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
