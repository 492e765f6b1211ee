"""What each ingredient of `voc-squeezenet-wsddn` is worth on Pascal VOC: the table of docs/detection.md.

    python benchmarks/wsddn_ingredients.py --data VOCdevkit/VOC2012 --weights squeezenet1_0.pth \\
        --proposals boxes.parquet --classes cat,cow,dog,horse,person,sheep [--only WORD] [--out DIR]

Every row is the recipe with the changes named, trained on the train split; mAP at IoU .5 and CorLoc are means over the
classes, of the val split. What is kept in the cache folder is computed once for all rows that share it. The last line
is a JSON list.
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
from manyhot.detecting import detect  # noqa: E402
from manyhot.recipe import load_recipe  # noqa: E402
from manyhot.training.train import train  # noqa: E402

BINS = ["region_pooling=average", "squeeze=128", "side=3"]

ROWS: dict[str, tuple[list[str], list[str]]] = {
    "the recipe": ([], []),
    "without refinement": (["refinements=0"], []),
    "boxes scored by the branches alone": (["joined=false"], []),
    "power 1: sums": (["evidence_power=1"], []),
    "power 0: means": (["evidence_power=0"], []),
    "power 0.5": (["evidence_power=0.5"], []),
    "no ring round the box": (["context=null"], []),
    "3 × 3 bins, hidden layer of 256": ([*BINS, "width=256", "dropout=0.5"], []),
    "tested on two scales and mirrored": ([], ["test_scales=[480,640]", "flips=true"]),
}
"""Name of a row: changes of `model.detector` in training, and others in detection alone."""


def main() -> None:
    """Train, detect and print, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--proposals", required=True)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--out", type=Path, help="folder of the runs; by default they are thrown away")
    wanted = parser.parse_args()
    manifest = open_source(wanted.data)
    names = set(wanted.classes.split(","))
    results = []
    print(f"{'':36}    mAP50  CorLoc  image mAP  processor seconds")
    with tempfile.TemporaryDirectory() as temporary:
        for number, (row, (trained, tested)) in enumerate(ROWS.items()):
            if wanted.only not in row:
                continue
            started = time.process_time()
            changes = [f"model.weights={wanted.weights}", *(f"model.detector.{one}" for one in trained)]
            recipe = load_recipe("voc-squeezenet-wsddn", changes)
            out = (wanted.out or Path(temporary)) / f"{number}"
            run = train(recipe, manifest, out, proposals=wanted.proposals)
            overrides = [f"model.detector.{one}" for one in tested]
            classes = [one for one in detect(run.path, overrides=overrides).metrics["classes"] if one["name"] in names]
            found = {key: statistics.fmean(one[key] for one in classes) for key in ("ap_50", "corloc", "image_ap")}
            seconds = time.process_time() - started
            shown = "   ".join(f"{value:.3f}" for value in found.values())
            print(f"{row:36}    {shown}      {seconds:6.0f}", flush=True)
            results.append({"benchmark": f"wsddn ingredients: {row}", "value": found["ap_50"], "unit": "mAP50",
                            "corloc": found["corloc"], "n": len(classes)})  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
