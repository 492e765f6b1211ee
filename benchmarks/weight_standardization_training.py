"""Training a weight-standardised network beside its source, and beside the usual way, which forgets what lies behind.

    python benchmarks/weight_standardization_training.py --data VOCdevkit/VOC2012 --weights squeezenet1_0.pth

1. `--recipe` trains the source; `manyhot.convert` makes its twin; both are evaluated: the mAP must be the same.
2. The source's trained backbone is trained on with a new head, frozen (`--frozen-recipe`) and not (`--recipe`), for the
   same number of steps in three ways: as it is, converted, and with its convolutions standardised and nothing adapted
   (`unadapted`). A way that ends in numbers that are not finite is a row of the table too.

Both recipes run for `--epochs`, where it is given. `--limit` and `--size` make it small, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from manyhot.processor import prepare_processor

prepare_processor()

import torch  # noqa: E402 - torch comes after the processor is prepared

from manyhot.converting import convert, summarize  # noqa: E402
from manyhot.data.manifest import Manifest  # noqa: E402
from manyhot.data.sources import open_source  # noqa: E402
from manyhot.errors import UserError  # noqa: E402
from manyhot.evaluation import evaluate  # noqa: E402
from manyhot.models.bundle import load_bundle  # noqa: E402
from manyhot.recipe import load_recipe  # noqa: E402
from manyhot.training.train import train  # noqa: E402


def limited(manifest: Manifest, splits: tuple[str, ...], limit: int | None) -> Manifest:
    """The first pictures of each split alone."""
    names = np.array(manifest.table["split"].to_list())
    rows = np.zeros(len(names), dtype=bool)
    for split in splits:
        rows[np.flatnonzero(names == split)[:limit]] = True
    return manifest.rows(rows)


def main() -> None:
    """The source, its twin, then six trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", default="none", help="state dict for the backbone; none: random")
    parser.add_argument("--recipe", default="voc-squeezenet")
    parser.add_argument("--frozen-recipe", default="voc-squeezenet-frozen")
    parser.add_argument("--mode", default="gain", help="of the conversion; alpha for networks with BatchNorm")
    parser.add_argument("--classes", default="cat,cow,dog,horse,person,sheep", help="the mAP is the mean over these")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--limit", type=int, help="pictures of each split")
    options = parser.parse_args()
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # of the handler: training lets its logger say more
    logging.basicConfig(handlers=[handler])
    common = [f"input.size={options.size}"] if options.size else []
    common += [f"training.epochs={options.epochs}"] if options.epochs else []
    data = load_recipe(options.recipe).data
    manifest = limited(open_source(options.data), (data.train_split, data.val_split), options.limit)
    chosen = options.classes.split(",")
    rows: list[dict[str, object]] = []

    def chosen_map(run: Path) -> float:
        metrics = evaluate(run, overrides=["evaluation.resamples=0"]).metrics
        found = [one["ap"] for one in metrics["classes"] if one["name"] in chosen and one["ap"] is not None]
        return statistics.mean(found)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recipe = load_recipe(options.recipe, [*common, f"model.weights={options.weights}"])
        source = train(recipe, manifest, root / "source")
        conversion = convert(source.path, options.mode, root / "twin")
        print(summarize(conversion), flush=True)
        before, after = chosen_map(source.path), chosen_map(root / "twin")
        print(f"\nsource mAP {before:.8f}, converted {after:.8f}, difference {after - before:.1e}\n", flush=True)
        rows.append({"benchmark": f"mAP of the converted bundle, {options.mode}", "value": after, "peer": "its source",
                     "theirs": before, "difference": after - before, "n": len(manifest)})  # fmt: skip
        body = load_bundle(source.model).model.backbone.body
        torch.save(body.state_dict(), root / "backbone.pth")
        print("backbone    way         mAP     first val loss  last val loss  minutes")
        for state, name in (("frozen", options.frozen_recipe), ("trained on", options.recipe)):
            for way in ("source", options.mode, "unadapted"):
                setting = "null" if way == "source" else way
                changes = [*common, f"model.weights={root / 'backbone.pth'}", f"model.weight_standardization={setting}"]
                start = time.perf_counter()
                row: dict[str, object] = {"benchmark": f"{state}, {way}", "unit": f"mAP over {len(chosen)} classes"}
                try:
                    run = train(load_recipe(name, changes), manifest, root / f"{state} {way}")
                    history, value = run.read_history(), chosen_map(run.path)
                except UserError as error:
                    print(f"{state:10}  {way:10}  {error}", flush=True)
                    rows.append({**row, "value": None, "error": str(error)})
                    continue
                first, last = history[0]["val_loss"], history[-1]["val_loss"]
                minutes = (time.perf_counter() - start) / 60
                print(f"{state:10}  {way:10}  {value:.4f}  {first:14.4f}  {last:13.4f}  {minutes:7.1f}", flush=True)
                rows.append({**row, "value": round(value, 4), "val_loss": [one["val_loss"] for one in history]})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
