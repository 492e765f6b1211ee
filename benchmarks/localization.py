"""Points and boxes of a trained run by every heat map and box rule, beside what looks at nothing.

    python benchmarks/localization.py --run RUN [--split val] [--data SOURCE] [--first N] [--classes cat,dog]
        [--heatmaps cam,gradcam] [--crops "{name: scales, sizes: [320, 448]}"] [--flip]

The maps of a heat map are made once, and every box rule at every threshold reads them. CorLoc and pointing are over the
positive (picture, class) pairs of the classes named. Where none of the rules reaches the centre box, the table says so.
A sweep over all pictures of a split chooses among many: report its best on another split.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manyhot.processor import prepare_processor

prepare_processor()

import numpy as np  # noqa: E402 - torch comes after the processor is prepared
from numpy.typing import NDArray  # noqa: E402

from manyhot.data.manifest import Manifest  # noqa: E402
from manyhot.data.sources import open_source  # noqa: E402
from manyhot.localization.boxes import BoxRule, Components, Extreme, Largest, Mass  # noqa: E402
from manyhot.localization.heat import fixed, relative  # noqa: E402
from manyhot.localization.looking import Sight  # noqa: E402
from manyhot.localization.placing import hottest_point  # noqa: E402
from manyhot.localizing import look_with, with_axes  # noqa: E402
from manyhot.metrics.localization import (  # noqa: E402
    best_iou,
    centre_boxes,
    centre_points,
    corloc,
    max_box_acc,
    points_inside,
)
from manyhot.metrics.overlap import Boxes  # noqa: E402
from manyhot.models.bundle import load_bundle  # noqa: E402
from manyhot.recipe import parse_recipe  # noqa: E402
from manyhot.runs import open_run  # noqa: E402

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
Scale = Callable[[NDArray[Any]], NDArray[np.float32]]
SCALES: dict[str, Scale] = {"relative": relative, "sigmoid": fixed}


def rules() -> Iterator[tuple[str, BoxRule]]:
    """Every rule at every threshold."""
    for threshold in THRESHOLDS:
        yield f"largest {threshold:g}", Largest(threshold=threshold)
        yield f"extreme {threshold:g}", Extreme(threshold=threshold)
    for tail in Mass().candidates:
        yield f"mass {tail:g}", Mass(threshold=tail)
    yield "components .1 .2 .3 .5", Components()


Pairs = dict[tuple[int, int], Boxes]


class Sweep:
    """What every rule makes of the same maps."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.points: list[tuple[int, int]] = []
        self.sizes: list[tuple[int, int]] = []
        self.objects: list[Boxes] = []
        self.boxes: dict[str, list[tuple[float, ...]]] = {name: [] for name, _ in rules()}

    def take(self, sight: Sight, scale: Scale) -> None:
        """The maps of one picture."""
        for c, heat in zip(sight.classes, scale(sight.heat), strict=True):
            self.points.append(hottest_point(heat))
            self.sizes.append(sight.size)
            self.objects.append(self.pairs[sight.row, c])
            for name, rule in rules():
                found = rule.find(heat)
                self.boxes[name].append(found[0].corners if found else (np.nan,) * 4)

    def print_baselines(self) -> None:
        """What needs no network."""
        sizes = np.array(self.sizes, np.float64)
        middle = float(points_inside(centre_points(sizes), self.objects).mean())
        whole = corloc(best_iou(centre_boxes(sizes, share=1), self.objects))
        print(f"baselines: centre point {middle:.3f}; centre box {self.centre_box:.3f}, whole picture {whole:.3f}")

    @property
    def centre_box(self) -> float:
        """CorLoc of a box of half the area in the middle."""
        return corloc(best_iou(centre_boxes(np.array(self.sizes, np.float64)), self.objects))

    def print_table(self, name: str, seconds: float) -> dict[str, Any]:
        """A line a rule; the best of them for the last line of the output."""
        overlaps = {rule: best_iou(np.array(rows, np.float64), self.objects) for rule, rows in self.boxes.items()}
        pointing = float(points_inside(np.array(self.points, np.float64), self.objects).mean())
        curve = np.stack([overlaps[f"largest {threshold:g}"] for threshold in THRESHOLDS], axis=1)
        best = ", ".join(f"{value:.3f} at {least:g}" for least, value in max_box_acc(curve).items())
        print(f"\n{name}: pointing {pointing:.3f}; MaxBoxAcc {best}; {seconds:.0f} s")
        print(f"{'box rule':24} CorLoc  mean IoU  IoU ≥ .3  IoU ≥ .7  no box")
        for rule, values in overlaps.items():
            some, most = corloc(values, 0.3), corloc(values, 0.7)
            none = int(np.isnan(np.array(self.boxes[rule])[:, 0]).sum())
            mark = "" if corloc(values) > self.centre_box else "  not above the centre box"
            line = f"{rule:24} {corloc(values):6.3f}  {values.mean():8.3f}  {some:8.3f}  {most:8.3f}  {none:6}"
            print(line + mark, flush=True)
        top = max(overlaps, key=lambda rule: corloc(overlaps[rule]))
        return {
            "benchmark": f"localization: {name}, {top}", "value": round(corloc(overlaps[top]), 4), "unit": "CorLoc",
            "peer": "centre box of half the area", "theirs": round(self.centre_box, 4),
            "pointing": round(pointing, 4), "n": len(self.objects),
        }  # fmt: skip


def positive_pairs(part: Manifest, columns: list[int]) -> Pairs:
    """True boxes of each (row, class) whose label is 1."""
    true, labels, ids = part.objects().places(), part.labels, part.ids
    return {
        (row, c): true[ids[row], part.classes[c]]
        for row in range(len(part))
        for c in columns
        if labels[row, c] == 1 and (ids[row], part.classes[c]) in true
    }


def main() -> None:
    """One table a heat map, and the baselines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--data", help="other data than the run's own")
    parser.add_argument("--first", type=int, help="only so many pictures, in their order")
    parser.add_argument("--classes", help="only these, by comma")
    parser.add_argument("--heatmaps", default="cam,contributions,gradcam,layercam", help="names, by comma")
    parser.add_argument("--scale", choices=SCALES, default="relative", help="of the maps, before thresholds")
    parser.add_argument("--crops", help="other views, as a recipe's input.crops")
    parser.add_argument("--flip", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run = open_run(options.run)
    part = (open_source(options.data) if options.data else Manifest.load(run.manifest)).split(options.split)
    part = part.rows([row < (options.first or len(part)) for row in range(len(part))])
    columns = [part.classes.index(name) for name in (options.classes or ",".join(part.classes)).split(",")]
    pairs = positive_pairs(part, columns)
    print(f"{len(pairs)} pairs of {len(columns)} classes in {len(part)} pictures")
    overrides = [] if options.crops is None else [f"evaluation.crops={options.crops}"]
    recipe = parse_recipe(run.recipe.read_text(encoding="utf-8"), str(run.recipe), overrides)
    results: list[dict[str, Any]] = []
    for name in options.heatmaps.split(","):
        bundle = load_bundle(run.model)
        look = look_with(bundle, name, recipe.evaluation.crops, flip=options.flip)
        look = with_axes(look, run, bundle, recipe)
        sweep, start = Sweep(pairs), time.perf_counter()
        for sight in look.at(part.paths, lambda row, _: [c for c in columns if (row, c) in pairs]):
            sweep.take(sight, SCALES[options.scale] if look.heat_map.in_logits else relative)
        if not results:
            sweep.print_baselines()
        results.append(sweep.print_table(name, time.perf_counter() - start))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
