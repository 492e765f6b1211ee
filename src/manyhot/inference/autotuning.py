"""`predict --autotune`: which backend, thread count and batch size score pictures fastest on this machine."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from manyhot.data.images import DamagedImage, EncodedPicture
from manyhot.errors import UserError
from manyhot.inference.backends import Trained
from manyhot.inference.backends.backend import cores
from manyhot.inference.pictures import Fetched
from manyhot.inference.predict import Predictor
from manyhot.inference.remembered import Choice, candidates, processor_name, remember
from manyhot.progress import progress

PICTURES = 48
"""Pictures in one measurement; fewer are repeated."""

_BATCHES = (8, 32)
_HOPELESS = 1.5  # times slower than the fastest so far: measured once, not twice


@dataclass(frozen=True)
class Measured:
    """One way to run the network.

    Arguments:
        choice: backend and settings.
        rate: pictures a second from file to scores, the better of two passes.
    """

    choice: Choice
    rate: float


@dataclass(frozen=True)
class Tuned:
    """What was measured, fastest first, and where the first was remembered.

    Arguments:
        measured: at least one.
        processor: its name.
        path: file in the cache folder.
    """

    measured: tuple[Measured, ...]
    processor: str
    path: Path


def autotune(model: Trained, pictures: pl.DataFrame, column: str | None = None) -> Tuned:
    """Score some of the pictures, from their files, in each way that gives float32 scores, and remember the fastest.

    Arguments:
        model: a Bundle, or an ExportedModel.
        pictures: as `list_pictures` gives them; those that are not local are fetched before anything is measured.
        column: of tables, as `list_pictures` was given it.

    Raises:
        UserError: no picture can be fetched, or no backend for the model is installed.
    """
    found = _fetch(pictures, column)
    files = (found * -(-PICTURES // len(found)))[:PICTURES]
    preprocessing = model.config.preprocessing
    names = candidates(model, preprocessing)
    if not names:
        raise UserError("nothing is installed that runs this model.", remedy='pip install "manyhot[export]"')
    threads = sorted({cores(), max(1, cores() - 1)}, reverse=True)
    choices = [
        Choice(backend=name, threads=count, batch_size=batch)
        for name in names
        for count in threads
        for batch in _BATCHES
    ]
    measured: list[Measured] = []
    with progress(len(choices), "measuring", "ways") as bar:
        for choice in choices:
            rate = _rate(model, choice, files, max((one.rate for one in measured), default=0.0))
            measured.append(Measured(choice, rate))
            bar.advance(note=f"{choice.backend} {rate:.1f} images/s")
    measured.sort(key=lambda one: -one.rate)
    return Tuned(tuple(measured), processor_name(), remember(model, preprocessing, measured[0].choice))


def summarize(tuned: Tuned) -> str:
    """The measurements as a table for a terminal, fastest first."""
    lines = ["backend      threads  batch  images/s"]
    for one in tuned.measured:
        choice = one.choice
        lines.append(f"{choice.backend:11}  {choice.threads:7}  {choice.batch_size:5}  {one.rate:8.1f}")
    best = tuned.measured[0].choice
    return "\n".join([*lines, f"remembered for this model on {tuned.processor}: {best.backend}"])


def _fetch(pictures: pl.DataFrame, column: str | None) -> list[Path | EncodedPicture]:
    """PICTURES of them, evenly spread, or all where they are fewer."""
    n = len(pictures)
    chosen = pictures[[place * n // PICTURES for place in range(PICTURES)] if n > PICTURES else list(range(n))]
    found: list[Path | EncodedPicture] = []
    with Fetched(chosen["address"].to_list(), chosen["row"].to_list(), column) as files:
        for place in range(len(files)):
            with suppress(DamagedImage):
                found.append(files[place])
    if not found:
        raise UserError("none of the pictures could be read.")
    return found


def _rate(model: Trained, choice: Choice, files: list[Path | EncodedPicture], best: float) -> float:
    predictor = Predictor(model, backend=choice.backend, threads=choice.threads, batch_size=choice.batch_size)
    predictor.logits(files[: choice.batch_size])
    rate = 0.0
    for _ in range(2):
        start = time.perf_counter()
        predictor.logits(files)
        rate = max(rate, len(files) / (time.perf_counter() - start))
        if rate * _HOPELESS < best:
            break
    return rate
