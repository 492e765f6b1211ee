"""Train shipped recipes, evaluate them, and print mAP and minutes: the numbers of docs/results.md.

    python benchmarks/recipes.py                                   the embedded digits, split test
    python benchmarks/recipes.py voc-squeezenet-frozen voc-squeezenet --data VOCdevkit/VOC2012 --split val \\
        --weights squeezenet1_0.pth --classes cat,cow,dog,horse,person,sheep
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def manyhot(*arguments: str) -> float:
    """Minutes that a command takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "manyhot", *arguments], check=True)  # noqa: S603
    return (time.perf_counter() - start) / 60


def main() -> None:
    """Each recipe in a run folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["digits-small"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", help="state dict for the backbone")
    parser.add_argument("--classes", help="also the mean over these, by comma")
    options = parser.parse_args()
    extra = ["--set", f"model.weights={options.weights}"] if options.weights else []
    results = []
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            training = manyhot("train", recipe, "--data", options.data, "--out", str(run), *extra)
            evaluation = manyhot("evaluate", str(run), "--split", options.split)
            metrics = json.loads((run / "evaluation" / options.split / "metrics.json").read_text())
        chosen = options.classes.split(",") if options.classes else [one["name"] for one in metrics["classes"]]
        found = [one["ap"] for one in metrics["classes"] if one["name"] in chosen and one["ap"] is not None]
        value = statistics.mean(found)
        print(f"{recipe}: mAP {metrics['map']:.4f} over {metrics['n_classes_in_map']} classes, {value:.4f} over the "
              f"{len(found)} chosen, {training:.1f} minutes of training, {evaluation:.1f} of evaluation")  # fmt: skip
        if "top1" in metrics:
            print(f"{recipe}: top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f}")
        result = {
            "benchmark": f"recipe {recipe}", "value": round(value, 4), "unit": f"mAP over {len(found)} classes",
            "map": metrics["map"], "top1": metrics.get("top1"), "training_minutes": round(training, 2),
            "n": metrics["n_images"],
        }  # fmt: skip
        results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
