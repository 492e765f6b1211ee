"""What each ingredient of a recipe is worth on Pascal VOC: the table of docs/results.md.

    python benchmarks/ingredients.py --data VOCdevkit/VOC2012 --weights squeezenet1_0.pth \\
        --classes cat,cow,dog,horse,person,sheep [--only WORD]

Every row is `voc-squeezenet-frozen` with the changes named, trained on the train split; mAP is of the val split.
Features that rows share are computed once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from manyhot.processor import prepare_processor

prepare_processor()

from manyhot.data.sources import open_source  # noqa: E402 - torch comes after the processor is prepared
from manyhot.recipe import load_recipe  # noqa: E402
from manyhot.training.train import train  # noqa: E402

CENTRE = ["input.fit=crop", "input.size=224", "input.resize=256"]
DENSE = ["input.fit=crop", "input.size=224", "input.crops={name: dense, sizes: [256, 320], step: 64}"]
PLAIN = ["input.augment=[]", "training.views=1"]
FLIPS = ["input.augment=[{name: horizontal_flip, p: 1.0}]", "training.views=2"]
FOUR = ["input.augment=[{name: random_resized_crop, scale: [0.5, 1.0]}, horizontal_flip]", "training.views=4"]
SOLVED = ["training.solver=lbfgs"]
SMOOTH = ["loss.label_smoothing=0.1"]
MEAN = ["model.crop_pooling=mean"]

ROWS: dict[str, list[str]] = {
    "one crop: centre 224 of shorter side 256": [*CENTRE, *PLAIN],
    "five crops, maximum": [*CENTRE, "input.crops=five", *PLAIN],
    "five crops, mean": [*CENTRE, "input.crops=five", *MEAN, *PLAIN],
    "ten crops, maximum": [*CENTRE, "input.crops=ten", *PLAIN],
    "ten crops, mean": [*CENTRE, "input.crops=ten", *MEAN, *PLAIN],
    "dense: windows 224 every 64 px of sides 256, 320, maximum": [*DENSE, *PLAIN],
    "the same windows, mean": [*DENSE, *MEAN, *PLAIN],
    "whole picture squashed to 320, 8 epochs of Adam": PLAIN,
    "the same, head solved for": [*PLAIN, *SOLVED],
    "solved for, 2 views: with mirror images": [*FLIPS, *SOLVED],
    "solved for, 4 views: random parts and mirror images": [*FOUR, *SOLVED],
    "solved for, 2 views, label smoothing 0.1": [*FLIPS, *SOLVED, *SMOOTH],
    "solved for, 4 views, label smoothing 0.1": [*FOUR, *SOLVED, *SMOOTH],
    "three sizes (224, 320, 448), mean, 2 views, smoothing": [
        "input.crops={name: scales, sizes: [224, 320, 448]}", *MEAN, *FLIPS, *SOLVED, *SMOOTH,
    ],
    "three sizes side by side, 2 views, smoothing": [
        "input.crops={name: scales, sizes: [224, 320, 448]}", "model.crop_pooling=concat", *FLIPS, *SOLVED, *SMOOTH,
    ],
    "8 epochs of Adam, 2 views": FLIPS,
    "the same, asymmetric loss, gamma_neg 1": [*FLIPS, "loss={name: asymmetric, reduction: sum, gamma_neg: 1}"],
    "the same, asymmetric loss, gamma_neg 4, margin .05": [
        *FLIPS, "loss={name: asymmetric, reduction: sum, gamma_neg: 4, margin: 0.05}",
    ],
    "the same, balanced class weights": [*FLIPS, "loss={name: bce, reduction: sum, class_weights: balanced}"],
    "the same, moving average .99": [*FLIPS, "training.ema=0.99"],
    "the same, 4 views": FOUR,
}  # fmt: skip


def main() -> None:
    """Each row in a run folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True, help="state dict of SqueezeNet 1.0")
    parser.add_argument("--classes", required=True, help="the mean over these, by comma")
    parser.add_argument("--only", default="", help="rows that contain this")
    options = parser.parse_args()
    manifest = open_source(options.data)
    classes = options.classes.split(",")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (row, settings) in enumerate(ROWS.items()):
            if options.only not in row:
                continue
            start = time.perf_counter()
            recipe = load_recipe("voc-squeezenet-frozen", [f"model.weights={options.weights}", *settings])
            history = train(recipe, manifest, Path(folder) / str(number)).read_history()
            best = max(history, key=lambda line: line["val_map"])
            value = statistics.mean(best["val_ap"][name] for name in classes)
            seconds = time.perf_counter() - start
            print(f"{row:60} {value:.4f}   val loss {best['val_loss']:.3f}   {seconds:6.1f} s", flush=True)
            results.append({
                "benchmark": f"ingredient: {row}", "value": round(value, 4), "unit": f"mAP over {len(classes)} classes",
                "n": len(manifest.split(recipe.data.val_split)),
            })  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
