"""`manyhot predict --engine ray` with one worker and with two, of one thread each, in turn; beside one process."""

# ruff: noqa: E402 - the processor is prepared before torch is loaded, as the command line does

from __future__ import annotations

from manyhot.processor import prepare_processor

prepare_processor()

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from manyhot.data.images import IMAGE_SUFFIXES
from manyhot.inference.cluster import Workers, predict_on_ray
from manyhot.inference.pictures import list_pictures
from manyhot.inference.predict import load
from manyhot.predictions import Predictions

# Of the parts, in the order of their ends: before, workers may still be starting; after, one may have nothing left.
FROM, TO = 0.25, 0.95


@dataclass(frozen=True)
class Speed:
    """Images/s: `total` from the call to the merged table, Ray's start and end included; `steady` in the middle."""

    total: float
    steady: float
    predictions: Predictions


def table_of(folder: Path, n: int, path: Path) -> Path:
    """A table of n pictures: those of a folder, over and over."""
    found = sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    assert found, f"no picture in {folder}"
    pl.DataFrame({"id": [str(i) for i in range(n)], "path": [found[i % len(found)] for i in range(n)]}).write_parquet(
        path
    )
    return path


def with_ray(run: Path, table: Path, out: Path, workers: int) -> Speed:
    """A run of its own cluster."""
    start = time.perf_counter()
    outcome = predict_on_ray(run, list_pictures([str(table)]), out, workers=Workers(workers))
    seconds = time.perf_counter() - start
    ends = sorted((part.stat().st_mtime, pq.read_metadata(part).num_rows) for part in out.glob("part-*.parquet"))
    first, last = int(len(ends) * FROM), int(len(ends) * TO)
    steady = sum(rows for _, rows in ends[first + 1 : last + 1]) / (ends[last][0] - ends[first][0])
    return Speed(outcome.scored / seconds, steady, Predictions.load(outcome.predictions))


def alone(run: Path, table: Path, n: int) -> Speed:
    """The same without Ray, in this process: one thread decodes and computes. The first n pictures."""
    paths = pl.read_parquet(table)["path"].to_list()[:n]
    predictor = load(run, workers=0, device="cpu")
    unknown = np.full((n, len(predictor.classes)), -1, np.int8)
    predictor.score([Path(path) for path in paths[:64]], paths[:64], [""] * 64, unknown[:64], {})
    start = time.perf_counter()
    scored, _ = predictor.score([Path(path) for path in paths], [str(i) for i in range(n)], [""] * n, unknown, {})
    speed = n / (time.perf_counter() - start)
    return Speed(speed, speed, scored)


def main() -> None:
    """One worker, two workers, one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run folder or a bundle")
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures, such as VOC2012/JPEGImages")
    parser.add_argument("--pictures", type=int, default=5000, help="how many; the folder's are repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n = arguments.pictures
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = table_of(arguments.images, n, folder / "pictures.parquet")
        one = with_ray(arguments.run, table, folder / "one", 1)
        two = with_ray(arguments.run, table, folder / "two", 2)
        own = alone(arguments.run, table, min(n, 1000))
    assert one.predictions.ids == two.predictions.ids == tuple(map(str, range(n))), "a picture is missing or twice"
    apart = float(np.abs(one.predictions.scores - two.predictions.scores).max())
    from_own = float(np.abs(one.predictions.scores[: len(own.predictions)] - own.predictions.scores).max())
    print(f"{n} pictures, images/s        total  steady")
    for label, speed in (("one worker of one thread", one), ("two workers of one thread", two)):
        print(f"{label:28}{speed.total:7.1f} {speed.steady:7.1f}")
    print(f"{'one process, one thread':28}        {own.steady:7.1f}")
    print(f"share of twice the speed     {two.total / one.total / 2:6.3f}  {two.steady / one.steady / 2:6.3f}")
    print(f"largest difference of a score: {apart:.1e} between the two, {from_own:.1e} to one process")
    print(json.dumps([
        {
            "benchmark": f"ray, two workers to twice one, {kind}", "ratio": ours / theirs, "peer": "twice one worker",
            "ours": ours, "theirs": theirs, "unit": "images/s", "n": n,
        }
        for kind, ours, theirs in (("total", two.total, 2 * one.total), ("steady", two.steady, 2 * one.steady))
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
